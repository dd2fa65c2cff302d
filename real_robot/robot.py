"""The protocol `Robot`, which the driver of each robot arm implements.

The module also contains the states, targets, modes and errors of an arm. Example:

    with driver as robot:
        layer = SafetyLayer(config, robot.limits, arm)
        layer.begin(robot.state(), start=None, now_s=time.monotonic())
        while True:
            ...
            decision = layer.command(target, robot.state(), ages, now_s=time.monotonic())
            if decision.target is not None:
                robot.command(decision.target.joint_positions_rad)
                if decision.target.gripper_width_m is not None:
                    robot.move_gripper(decision.target.gripper_width_m)
            if decision.ended:
                break

All times are in seconds, from `time.monotonic()` on the machine that runs the driver. They cannot
be compared with times of another machine.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np

from envs.geometry import Floats

from .limits import JointLimits

# The modes of Franka's control interface.
Mode = Literal["idle", "moving", "guiding", "reflex", "user_stopped", "recovering", "other"]

MODES: dict[Mode, str] = {
    "idle": "holds its pose and accepts commands",
    "moving": "follows commands",
    "guiding": "is guided by hand and accepts no commands",
    "reflex": "stopped after an error and needs recover()",
    "user_stopped": "accepts no commands until a person releases the user stop",
    "recovering": "is busy with recover()",
    "other": "accepts no commands: its brakes are locked, or the driver does not know its mode",
}


_LEAST_OPENING_M = 0.01  # a gripper that opens less does not know its range
# What to do about a hand of which this is so.
HOME_THE_HAND = (
    "the gripper does not know its maximum width: take out what is between the fingers, and run "
    "`python -m real_robot.franka address=ADDRESS gripper.homing=true` once"
)


class RobotError(RuntimeError):
    """Error of a robot or its driver; the control loop then ends the episode with this message."""


class ConnectionLostError(RobotError):
    """The robot does not answer, or was never connected."""


class CommandRefusedError(RobotError):
    """The robot refuses a command because of its mode or its errors."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GripperState:
    """Newest state of the gripper.

    It has a separate timestamp: reading the gripper is slow, so a thread reads it less often than
    the arm.

    Attributes:
        stamp_s: time when the state was read, s of `time.monotonic()`.
        width_m: distance between the fingers, m.
        max_width_m: distance between the fingers when the gripper is open, m.
        is_grasping: True if the gripper reports that it holds an object.
        error: error message of the most recent motion; None if the motion succeeded.
    """

    stamp_s: float
    width_m: float
    max_width_m: float
    is_grasping: bool
    error: str | None

    @property
    def knows_its_range(self) -> bool:
        """Return whether `max_width_m` is plausible: after it is switched on, a hand reports 0."""
        return _LEAST_OPENING_M <= self.max_width_m < math.inf


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RobotState:
    """Newest state of the arm. If the robot sends NaN, the state contains NaN.

    The safety layer detects NaN and stops. [j] means one value per joint.

    Attributes:
        stamp_s: time when the state arrived, s of `time.monotonic()`.
        joint_positions_rad: measured positions [j], rad.
        joint_velocities_rad_s: measured velocities [j], rad/s.
        joint_torques_nm: measured torques [j], Nm.
        external_torques_nm: the robot's estimate of the external torques [j], Nm.
        gripper: the gripper's state; None if the arm has no gripper.
        mode: one of `MODES`.
        errors: names of the active errors, as the robot reports them; empty if there are none.
        command_success_rate: share of the most recent commands that arrived in time, 0 to 1.
    """

    stamp_s: float
    joint_positions_rad: Floats
    joint_velocities_rad_s: Floats
    joint_torques_nm: Floats
    external_torques_nm: Floats
    gripper: GripperState | None
    mode: Mode
    errors: tuple[str, ...]
    command_success_rate: float

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; known: {', '.join(MODES)}")
        num_joints = np.shape(self.joint_positions_rad)
        for name in (
            "joint_positions_rad",
            "joint_velocities_rad_s",
            "joint_torques_nm",
            "external_torques_nm",
        ):
            # Copy the arrays, because a driver may continue to write into them.
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or values.shape != num_joints:
                raise ValueError(f"{name} must have the shape {num_joints}, got {values.shape}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Target:
    """Target positions of arm and gripper.

    Attributes:
        joint_positions_rad: target positions of the joints [j], rad, one value per joint.
        gripper_width_m: target distance between the fingers, m; None sends nothing to the gripper.
    """

    joint_positions_rad: Floats
    gripper_width_m: float | None


@runtime_checkable
class Robot(Protocol):
    """Driver of one arm and its gripper.

    No method blocks for long: a driver does slow work in a separate thread. A driver is a context
    manager. It connects at the start, and always stops the arm and disconnects at the end.
    """

    @property
    def name(self) -> str:
        """The name of the arm's model, as in `Interface.arm`."""
        ...

    @property
    def description(self) -> str:
        """A description of the robot in one line for logs: address, server version, firmware."""
        ...

    @property
    def limits(self) -> JointLimits:
        """The joint limits, which are read from this robot when it is connected."""
        ...

    def connect(self) -> None:
        """Connect to the robot, read its version and limits, and start to read its states.

        Raises:
            ConnectionLostError: the robot does not answer; the message says what to check.
            RobotError: the driver does not support this robot; the message says which software
                supports it.
        """
        ...

    def state(self) -> RobotState:
        """Return the newest state, without waiting; `stamp_s` is the time when it arrived.

        Raises:
            ConnectionLostError: no state has arrived yet, or the connection is lost.
        """
        ...

    def command(self, joint_positions_rad: Floats) -> Floats:
        """Move the arm to these joint positions [j], rad, and hold them until the next call.

        The call does not wait for the motion. If the robot's controller does not run, it is started
        at the arm's current pose. The call returns the positions [j] that were really sent.

        Raises:
            CommandRefusedError: the robot does not accept commands because of its mode or an error.
            ConnectionLostError: the robot does not answer.
        """
        ...

    def move_gripper(self, width_m: float) -> None:
        """Request a distance between the fingers, m, without waiting for the motion.

        If a request is still waiting, the new one replaces it.
        """
        ...

    def stop(self) -> None:
        """Bring the arm to rest and end the controller; the arm then holds its pose.

        It may be called at any time, and repeatedly. It raises no errors, because it is called
        while another error is handled, which must stay visible.
        """
        ...

    def recover(self) -> None:
        """Clear the robot's errors.

        Raises:
            CommandRefusedError: the user stop is pressed, or a person must correct the error.
        """
        ...

    def close(self) -> None:
        """Stop the arm, disconnect, and end the driver's threads; repeated calls are allowed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
