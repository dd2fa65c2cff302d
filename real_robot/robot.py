"""The `Robot` protocol of a robot arm, its states, targets, modes and errors.

A driver is a class that implements this protocol.

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

All times are seconds of `time.monotonic()` on the machine that runs the driver. They cannot be
compared with times of another machine.
"""

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


class RobotError(RuntimeError):
    """An error of a robot or its driver; the control loop ends the episode with its text."""


class ConnectionLostError(RobotError):
    """The robot does not answer, or was never connected."""


class CommandRefusedError(RobotError):
    """The robot refuses a command because of its mode or its errors."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GripperState:
    """The gripper's newest state, with its own time, since its reads block.

    Attributes:
        stamp_s: time when the state was read, s of `time.monotonic()`.
        width_m: distance between the fingers.
        max_width_m: distance between the fingers of the open gripper.
        is_grasping: whether the gripper reports a grasped object.
        error: error of the last motion; None if it succeeded.
    """

    stamp_s: float
    width_m: float
    max_width_m: float
    is_grasping: bool
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RobotState:
    """The arm's newest state. It may contain NaN from the robot; the safety layer checks this.

    Attributes:
        stamp_s: time when the state arrived, s of `time.monotonic()`.
        joint_positions_rad: measured positions [j].
        joint_velocities_rad_s: measured velocities [j].
        joint_torques_nm: measured torques [j].
        external_torques_nm: the robot's estimate of external torques [j].
        gripper: the gripper's state; None without a gripper.
        mode: one of `MODES`.
        errors: the robot's names of its errors; empty without errors.
        command_success_rate: share of the last commands that arrived in time, 0 to 1.
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
            # A copy, since a driver may continue to write into its own arrays.
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or values.shape != num_joints:
                raise ValueError(f"{name} must have the shape {num_joints}, got {values.shape}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Target:
    """A target of arm and gripper.

    Attributes:
        joint_positions_rad: target positions [j].
        gripper_width_m: target distance between the fingers; None to leave the gripper unchanged.
    """

    joint_positions_rad: Floats
    gripper_width_m: float | None


@runtime_checkable
class Robot(Protocol):
    """A driver of one arm with its gripper. No call blocks for long; slow work has its own thread.

    As a context manager it connects at the start, and always stops and closes at the end.
    """

    @property
    def name(self) -> str:
        """The arm's name, as in `Interface.arm`."""
        ...

    @property
    def description(self) -> str:
        """One line for logs: address, server version, firmware."""
        ...

    @property
    def limits(self) -> JointLimits:
        """The joint limits, read from this robot at connection."""
        ...

    def connect(self) -> None:
        """Connect to the robot, read version and limits, and start reading states.

        Raises:
            ConnectionLostError: the robot does not answer; the message has what to check.
            RobotError: the driver does not support this robot; the message names what does.
        """
        ...

    def state(self) -> RobotState:
        """Return the newest state without waiting; `stamp_s` is its time of arrival.

        Raises:
            ConnectionLostError: no state has arrived yet, or the connection is lost.
        """
        ...

    def command(self, joint_positions_rad: Floats) -> Floats:
        """Track these joint positions [j], rad, until the next call, and return the sent ones.

        Starts the controller at the arm's current pose if it does not run.

        Raises:
            CommandRefusedError: the robot's mode or an error forbids it.
            ConnectionLostError: the robot does not answer.
        """
        ...

    def move_gripper(self, width_m: float) -> None:
        """Request a width between the fingers; the newest request counts. It does not wait."""
        ...

    def stop(self) -> None:
        """Bring the arm to rest and end the controller; the arm then holds its pose.

        May be called at any time and repeatedly; raises no error that would hide another one.
        """
        ...

    def recover(self) -> None:
        """Clear the robot's errors.

        Raises:
            CommandRefusedError: the user stop is pressed, or the error needs a person.
        """
        ...

    def close(self) -> None:
        """Stop, disconnect and end the threads; repeated calls are allowed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
