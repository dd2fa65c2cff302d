"""Server of Franka's control interface for the twin, based on the server of franka-sim.

This module adds the frame of the hand, collision thresholds that end a motion, the user stop,
guiding by hand, and injected errors. The protocol, the timing, and the checks of motion limits and
of lost commands are those of franka-sim, without a change.
"""

import math
import struct
import time

import numpy as np
from franka_sim.comm_constraints import (
    COMMUNICATION_CONSTRAINTS_VIOLATION_INDEX,
    CommConstraintTracker,
)
from franka_sim.franka_protocol import Command, MessageHeader, MoveStatus, RobotMode
from franka_sim.franka_sim_server import FrankaSimServer
from franka_sim.limits.tables import ERROR_NAMES
from numpy.typing import NDArray

from .config import GRIPPER_PORT, ROBOT_PORT, TwinConfig
from .gripper import Hand, HandServer, cut
from .world import World

_JOINT_REFLEX, _CARTESIAN_REFLEX = 6, 7  # libfranka, research_interface/robot/error.h
ERRORS: dict[str, int] = {
    **{name: index for index, name in ERROR_NAMES.items()},
    "joint_reflex": _JOINT_REFLEX,
    "cartesian_reflex": _CARTESIAN_REFLEX,
    "communication_constraints_violation": COMMUNICATION_CONSTRAINTS_VIOLATION_INDEX,
}
# Transform from the flange to the tool of the Franka Hand: -45 degrees about z, 103.4 mm along z.
# Source of mass and centre of mass: product manual of the Franka Hand.
_HALF = float(np.sqrt(0.5))
_F_T_NE = [_HALF, -_HALF, 0.0, 0.0, _HALF, _HALF, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0, 0, 0.1034, 1.0]
_HAND_KG, _HAND_CENTER_M = 0.73, [-0.01, 0.0, 0.03]
_NOT_POSSIBLE = 1  # libfranka, kCommandNotPossibleRejected of recovery and of the settings


class _Commands(CommConstraintTracker):
    """Counter of lost commands; it can drop all commands until the time `drop_until_s`."""

    drop_until_s = 0.0

    def command_received(self, command_message_id: int) -> bool:
        if time.monotonic() < self.drop_until_s:
            return False
        return super().command_received(command_message_id)


class RobotServer(FrankaSimServer):
    """Server of Franka's control interface for a simulated world."""

    # The constructor of franka-sim calls reset_state, which reads these attributes.
    _stopped = False
    _torque_nm: list[float] = [math.inf] * 7
    _force_n: list[float] = [math.inf] * 6

    def __init__(self, config: TwinConfig, address: str, world: World) -> None:
        self._config = config
        self._drop_until_s = 0.0
        super().__init__(
            host=address,
            port=ROBOT_PORT,
            physics_sim=world,
            enable_gripper=False,  # replaced by `HandServer`
            enforce_comm_constraints=config.communication_limits,
            enforce_motion_limits=config.motion_limits,
        )
        self.world = world
        self.gripper_server = HandServer(host=address, port=GRIPPER_PORT, backend=Hand(world))
        self.reset_state()

    # Requests of the control channel

    @property
    def mode(self) -> str:
        """Return libfranka's name of the robot's mode."""
        if self._stopped:
            return RobotMode.kUserStopped.name
        if self.world.leading:
            return RobotMode.kGuiding.name
        return RobotMode(self.robot_state.state["robot_mode"]).name

    @property
    def moving(self) -> bool:
        """Return whether a client is moving the arm."""
        return self.robot_state.state["robot_mode"] == RobotMode.kMove

    def user_stop(self, pressed: bool) -> None:
        """Press (True) or release (False) the user stop; the arm holds its pose."""
        with self._motion_lock:
            self._stopped = pressed
            if pressed:
                self.world.stop_leading()
                self._end_motion("user stop", RobotMode.kUserStopped)
            else:
                self.robot_state.state["robot_mode"] = RobotMode.kIdle

    def drop_commands(self, seconds: float) -> None:
        """Drop the commands that clients send to the arm, for `seconds` seconds."""
        self._drop_until_s = self.comm.drop_until_s = time.monotonic() + seconds

    def fail(self, name: str) -> None:
        """End the current motion with the error of this name.

        Raises:
            ValueError: libfranka has no error of this name, or the arm is not moving.
        """
        if name not in ERRORS:
            raise ValueError(f"unknown error {name!r}; known: {', '.join(sorted(ERRORS))}")
        with self._motion_lock:
            if not self.moving:
                raise ValueError(f"{name} needs a motion to end, but none runs")
            self._abort_with_error(ERRORS[name], f"{name}: injected", self._motion_generation)

    def disconnect(self, timeout_s: float = 5.0) -> None:
        """Close the network connections of arm and hand; clients may connect again.

        Raises:
            TimeoutError: the session of the client has not ended within `timeout_s`.
        """
        cut(self.client_socket)
        self.gripper_server.disconnect()
        end_s = time.monotonic() + timeout_s
        while self.client_socket is not None:
            if time.monotonic() > end_s:
                raise TimeoutError(f"a client's session did not end within {timeout_s} s")
            time.sleep(0.005)

    def lead(self, path_rad: NDArray[np.float64], seconds: float) -> None:
        """Start to guide the arm along a path [n 7], rad, as a person does by hand.

        The mode is Guiding until the end of the path, after `seconds`.

        Raises:
            ValueError: the arm is not idle.
        """
        with self._motion_lock:
            if self.mode != RobotMode.kIdle.name:
                raise ValueError(f"the arm can be guided only when idle; it is {self.mode}")
            self.world.jobs.call(lambda: self.world.lead(path_rad, seconds))

    def go_home(self) -> None:
        """Set the arm to its home pose at once, without a motion.

        Raises:
            ValueError: a client is moving the arm.
        """
        with self._motion_lock:
            if self.moving:
                raise ValueError("a client moves the arm: stop it before a reset")
            self.world.stop_leading()
            self.world.jobs.call(self.world.go_home)
            self._publish_hold_setpoint(self.world.home_rad)

    # Methods that franka-sim calls

    def reset_state(self) -> None:
        """Reset the state of the robot when a new client connects."""
        super().reset_state()
        self.comm = _Commands(enforce=self.enforce_comm_constraints)
        self._drop_until_s = 0.0
        self._torque_nm = [self._config.collision_torque_nm] * 7
        self._force_n = [self._config.collision_force_n] * 6
        state = self.robot_state.state
        state["F_T_NE"], state["m_ee"], state["F_x_Cee"] = list(_F_T_NE), _HAND_KG, _HAND_CENTER_M
        if self._stopped:
            state["robot_mode"] = RobotMode.kUserStopped
        self._refresh_ee_transform()

    def handle_set_collision_behavior_command(
        self, client_socket: object, header: MessageHeader, payload: bytes
    ) -> None:
        """Store the collision thresholds that a client sends, because franka-sim ignores them.

        Of the eight groups of thresholds, only the upper torques and upper forces at constant speed
        are used.
        """
        if self._refuse_setting(client_socket, header, Command.kSetCollisionBehavior):
            return
        # Four times 7 torques, then four times 6 forces: lower and upper thresholds, each while the
        # arm accelerates and at constant speed.
        values = np.frombuffer(payload[: 52 * 8], dtype="<f8")
        self._torque_nm, self._force_n = values[21:28].tolist(), values[46:52].tolist()
        super().handle_set_collision_behavior_command(client_socket, header, payload)

    def handle_set_load_command(
        self, client_socket: object, header: MessageHeader, payload: bytes
    ) -> None:
        """Store the load that a client sends, if the robot's mode permits it."""
        if not self._refuse_setting(client_socket, header, Command.kSetLoad):
            super().handle_set_load_command(client_socket, header, payload)

    def handle_automatic_error_recovery_command(
        self, client_socket: object, header: MessageHeader, payload: bytes
    ) -> None:
        """Clear the errors as a client requests; refuse while the user stop is pressed."""
        if not self._stopped:
            super().handle_automatic_error_recovery_command(client_socket, header, payload)
            return
        self._answer_not_possible(client_socket, header, Command.kAutomaticErrorRecovery)

    def _refuse_setting(
        self, client_socket: object, header: MessageHeader, command: Command
    ) -> bool:
        """Refuse a setting after a reflex or a user stop, as the robot does.

        Return whether the setting was refused. Source: issues 25 and 70 of franka_ros.
        """
        mode = self.robot_state.state["robot_mode"]
        if not self._stopped and mode != RobotMode.kReflex:
            return False
        self._answer_not_possible(client_socket, header, command)
        return True

    def _answer_not_possible(
        self, client_socket: object, header: MessageHeader, command: Command
    ) -> None:
        answer = MessageHeader(command, header.command_id, 12 + 4)
        self._send_tcp(client_socket, answer.to_bytes() + struct.pack("<B3x", _NOT_POSSIBLE))

    def _refuse_move_while_latched(self, client_socket: object, header: MessageHeader) -> bool:
        if self._stopped or self.world.leading:
            self.send_move_response(
                client_socket,
                command_id=header.command_id,
                status=MoveStatus.kCommandNotPossibleRejected,
            )
            return True
        if super()._refuse_move_while_latched(client_socket, header):
            return True
        # A motion begins. Clear the cause that ended the previous motion, because franka-sim would
        # continue to report it.
        self.robot_state.state["reflex_reason"] = [False] * len(
            self.robot_state.state["reflex_reason"]
        )
        return False

    def _run_self_collision_check(self, sim_state: dict[str, list[float]]) -> None:
        # franka-sim calls this method for each state that it publishes. The other checks of the
        # robot are therefore here, too.
        state = self.robot_state.state
        if self._stopped:
            state["robot_mode"] = RobotMode.kUserStopped
        elif self.world.leading:
            state["robot_mode"] = RobotMode.kGuiding
        elif state["robot_mode"] == RobotMode.kGuiding:
            state["robot_mode"] = RobotMode.kIdle
            self._publish_hold_setpoint(sim_state["q"])
        elif state["robot_mode"] == RobotMode.kMove:
            self._watch_contact(sim_state)

    def _watch_contact(self, sim_state: dict[str, list[float]]) -> None:
        torques, forces = sim_state["tau_ext_hat_filtered"], sim_state["O_F_ext_hat_K"]
        if _beyond(torques, self._torque_nm):
            error, values = _JOINT_REFLEX, f"joint_reflex: {np.round(torques, 1)} N m"
        elif _beyond(forces, self._force_n):
            error, values = _CARTESIAN_REFLEX, f"cartesian_reflex: {np.round(forces, 1)} N, N m"
        else:
            return
        self._abort_with_error(error, values, self._motion_generation)

    def _absorb_within_motion_limits(self, command: dict[str, object], *, fresh: bool) -> bool:
        if time.monotonic() < self._drop_until_s:
            return False
        return super()._absorb_within_motion_limits(command, fresh=fresh)

    def _finish_motion(self, command: dict[str, object]) -> None:
        # At a user stop, the client has already received an answer. Without this condition,
        # franka-sim would report success.
        if time.monotonic() >= self._drop_until_s and not self._stopped:
            super()._finish_motion(command)

    def _end_motion(self, reason: str, mode: RobotMode) -> None:
        """End the motion without an error, and answer the client, as a robot does at a user stop.

        Args:
            reason: text for the log.
            mode: mode of the robot afterwards.
        """
        state = self.robot_state.state
        self._engage_idle_hold(reason)
        state["robot_mode"] = mode
        state["motion_generator_mode"], state["controller_mode"] = 0, 3  # idle, other
        if self.current_motion_id and self.client_socket is not None:
            self._pending_move_response = (
                self.current_motion_id,
                MoveStatus.kEmergencyAborted,
                self._states_packed,
            )
            self.current_motion_id = 0


def _beyond(values: list[float], limits: list[float]) -> bool:
    return any(abs(value) > limit for value, limit in zip(values, limits, strict=True))
