"""`FrankaRobot`, a driver that implements the `Robot` protocol with the library franky."""

import math
import xml.etree.ElementTree as ElementTree
from typing import Any, Self

import numpy as np

from envs.geometry import Floats

from ..limits import JointLimits, limits_from_urdf, limits_of_server
from ..robot import (
    HOME_THE_HAND,
    MODES,
    CommandRefusedError,
    ConnectionLostError,
    Mode,
    RobotError,
    RobotState,
)
from .arm import Arm, call, errors_of, text_of
from .config import NUM_JOINTS, FrankaConfig
from .gripper import Gripper
from .versions import GRIPPER_PORT, read_server_version, require_port, require_version

# libfranka's RobotMode by name.
_MODES: dict[str, Mode] = {
    "Other": "other",
    "Idle": "idle",
    "Move": "moving",
    "Guiding": "guiding",
    "Reflex": "reflex",
    "UserStopped": "user_stopped",
    "AutomaticErrorRecovery": "recovering",
}
_ROUNDING_RAD = 1e-9
_HOMING_S = 15.0
_NO_REALTIME = " Boot a PREEMPT_RT kernel and give this user rtprio, or set realtime: ignore"
# The constructor of `franky.Robot` sends a setting. If it is refused, nothing can recover it.
_NOT_READY = (
    " Check the arm. After a reflex, press and release the user stop, or use the error recovery of "
    "Desk; unlock the joints if they are locked"
)


class FrankaRobot:
    """Driver of an FR3 with system version 5.9 or later, and of its Franka Hand.

    Targets may arrive at irregular times. The arm follows a smooth reference position, which
    reaches a target about when the next target is expected. Without a new target, the arm holds the
    newest target.
    """

    def __init__(self, config: FrankaConfig) -> None:
        self._config = config
        self._version: int | None = None
        self._limits: JointLimits | None = None
        self._arm: Arm | None = None
        self._gripper: Gripper | None = None

    @property
    def name(self) -> str:
        """The name of the arm's model, as in `Interface.arm`."""
        return "franka_fr3"

    @property
    def description(self) -> str:
        """A description in one line for logs: address, server version, library, hand."""
        if self._version is None:
            return f"Franka FR3 at {self._config.address}, not connected yet"
        hand = "with a hand" if self._config.gripper else "without a hand"
        arm = self._arm
        priority = "with" if arm is not None and arm.has_priority else "without"
        kernel = "required" if self._config.realtime == "enforce" else "not required"
        return (
            f"Franka FR3 at {self._config.address}, {hand}, server version {self._version}; "
            f"{priority} real-time priority, real-time kernel {kernel}"
        )

    @property
    def limits(self) -> JointLimits:
        """The limits that were read from this robot.

        Raises:
            ConnectionLostError: the robot was never connected.
        """
        if self._limits is None:
            raise ConnectionLostError(self._not_connected())
        return self._limits

    @property
    def gripper_temperature_c(self) -> float | None:
        """The hand's temperature, degrees C; None if there is no hand.

        The arm does not report its temperature.
        """
        return None if self._gripper is None else self._gripper.temperature_c

    def connect(self) -> None:
        """Connect to the robot, read its version and limits, and apply the settings.

        The threads then start to read states. The method may be called again after the connection
        is lost.

        Raises:
            ConnectionLostError: the robot does not answer; the message says what to check.
            CommandRefusedError: the robot is in a mode in which it refuses settings, for example
                after a reflex or while the user stop is pressed; a person must end this mode.
            RobotError: the robot's version, model or settings are not supported.
            ImportError: franky is not installed.
        """
        self.close()
        config, timeout_s = self._config, self._config.connect_timeout_s
        version = read_server_version(config.address, timeout_s)
        require_version(version)
        franky = _franky()
        if config.gripper is not None:
            require_port(config.address, GRIPPER_PORT, timeout_s)
        where = f"the robot at {config.address}"
        try:
            robot = call(lambda: self._open(franky), 2 * timeout_s, where)
            limits = limits_from_urdf(robot.model_urdf, like=limits_of_server(version))
            _require_order(robot.model_urdf)
            self._arm = Arm(franky, robot, config, limits)
            if config.gripper is not None:
                hand = call(lambda: franky.Gripper(config.address), timeout_s, where)
                if config.gripper.homing:
                    call(hand.homing, _HOMING_S, f"the hand of {where}")
                self._gripper = Gripper(hand, config.gripper)
        except Exception as error:
            self.close()
            if isinstance(error, RobotError):
                raise
            if isinstance(error, franky.NetworkException):
                raise ConnectionLostError(f"{where}: {text_of(error)}") from error
            if isinstance(error, franky.CommandException):
                raise CommandRefusedError(f"{where}: {text_of(error)}{_NOT_READY}") from error
            hint = _NO_REALTIME if isinstance(error, franky.RealtimeException) else ""
            raise RobotError(f"{where} cannot be set up: {text_of(error)}{hint}") from error
        self._version, self._limits = version, limits

    def state(self) -> RobotState:
        """Return the newest state of the arm, without waiting.

        Raises:
            ConnectionLostError: the robot is not connected; the message has the cause.
        """
        arm = self._connected()
        raw, stamp_s = arm.newest
        return RobotState(
            stamp_s=stamp_s,
            joint_positions_rad=raw.q,
            joint_velocities_rad_s=raw.dq,
            joint_torques_nm=raw.tau_J,
            external_torques_nm=raw.tau_ext_hat_filtered,
            gripper=None if self._gripper is None else self._gripper.state(),
            mode=_MODES.get(raw.robot_mode.name, "other"),
            errors=errors_of(raw, arm.fault),
            command_success_rate=float(raw.control_command_success_rate),
        )

    def command(self, joint_positions_rad: Floats) -> Floats:
        """Move the arm to these joint positions [j], rad, and hold them until the next call.

        The call does not wait for the motion. It returns the positions [j] that were sent.

        Raises:
            CommandRefusedError: the robot does not accept commands because of its mode or an error,
                or the target is invalid.
            ConnectionLostError: the robot does not answer.
        """
        arm = self._connected()
        raw, _ = arm.newest
        mode = _MODES.get(raw.robot_mode.name, "other")
        if mode not in ("idle", "moving"):
            errors = ", ".join(errors_of(raw, arm.fault))
            listed = f" ({errors})" if errors else ""
            raise CommandRefusedError(f"the robot is {mode}: it {MODES[mode]}{listed}")
        target = self._checked(joint_positions_rad)
        arm.command(target)
        return target.copy()

    def move_gripper(self, width_m: float) -> None:
        """Request a distance between the fingers, m, without waiting for the motion.

        If a request is still waiting, the new one replaces it.

        Raises:
            CommandRefusedError: there is no hand, the hand does not know its maximum width, or the
                width is not finite.
            ConnectionLostError: the robot is not connected.
        """
        self._connected()
        if self._gripper is None:
            raise CommandRefusedError("the robot has no gripper: the config has gripper: null")
        if not math.isfinite(width_m):
            raise CommandRefusedError(f"the gripper's width must be finite, got {width_m}")
        if not self._gripper.state().knows_its_range:
            raise CommandRefusedError(HOME_THE_HAND)
        self._gripper.request(width_m)

    def stop(self) -> None:
        """Bring the arm to rest within `stop_timeout_s`; the arm then holds its pose."""
        if self._arm is not None:
            self._arm.stop()

    def recover(self) -> None:
        """Clear the robot's errors.

        Raises:
            CommandRefusedError: the user stop is pressed, or a person must correct the error.
            ConnectionLostError: the robot does not answer.
        """
        arm = self._connected()
        if self.state().mode == "user_stopped":
            raise CommandRefusedError("the user stop is pressed: a person must release it first")
        arm.recover()
        state = self.state()
        if state.mode not in ("idle", "moving") or state.errors:
            errors = ", ".join(state.errors) or "without an error"
            raise CommandRefusedError(
                f"after recovery the robot is {state.mode} ({errors}): it {MODES[state.mode]}; "
                "check the arm, and Desk"
            )

    def close(self) -> None:
        """Stop the arm, disconnect and end the threads.

        A hand that holds an object continues to hold it.
        """
        arm, self._arm = self._arm, None
        gripper, self._gripper = self._gripper, None
        if arm is not None:
            arm.close()
        if gripper is not None:
            gripper.close()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self, franky: Any) -> Any:
        config = self._config
        enforce = config.realtime == "enforce"
        kind = franky.RealtimeConfig.Enforce if enforce else franky.RealtimeConfig.Ignore
        robot = franky.Robot(config.address, realtime_config=kind)
        robot.set_collision_behavior(
            list(config.collision_torque_nm), list(config.collision_force_n)
        )
        payload = config.payload
        robot.set_load(payload.mass_kg, list(payload.center_m), payload.inertia_matrix())
        return robot

    def _connected(self) -> Arm:
        if self._arm is None:
            raise ConnectionLostError(self._not_connected())
        return self._arm

    def _not_connected(self) -> str:
        return f"the robot at {self._config.address} is not connected: call connect()"

    def _checked(self, joint_positions_rad: Floats) -> Floats:
        """Check a target [j]: it must be finite and within the joint limits; return it as array."""
        target = np.array(joint_positions_rad, dtype=np.float64)
        if target.shape != (NUM_JOINTS,) or not np.isfinite(target).all():
            raise CommandRefusedError(f"a target needs {NUM_JOINTS} finite numbers, got {target}")
        lower, upper = np.array(self.limits.lower_rad), np.array(self.limits.upper_rad)
        beyond = np.maximum(lower - target, target - upper)
        if (beyond > _ROUNDING_RAD).any():
            joint = int(np.argmax(beyond))
            raise CommandRefusedError(
                f"joint {joint + 1} at {target[joint]:.4f} rad is outside its limits "
                f"[{lower[joint]:.4f}, {upper[joint]:.4f}] rad"
            )
        return target


def _require_order(urdf: str) -> None:
    """Check that the URDF lists the joints in the order of the robot's states, from the base on."""
    joints = ElementTree.fromstring(urdf).iter("joint")
    names = [str(joint.get("name")) for joint in joints if joint.get("type") == "revolute"]
    wrong = [name for index, name in enumerate(names, 1) if not name.endswith(f"joint{index}")]
    if wrong:
        raise RobotError(
            f"the robot's model has the joints {', '.join(names)}; expected names that end in "
            f"joint1 to joint{NUM_JOINTS}, in this order"
        )


def _franky() -> Any:
    try:
        import franky
    except ImportError as error:
        raise ImportError(
            "the Franka driver needs franky: pip install 'toto-robot[franka]', which is "
            "franky-control 2 for an FR3 with system 5.9 or later"
        ) from error
    return franky
