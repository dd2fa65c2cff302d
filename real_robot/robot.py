"""What a robot arm is to everything else here: the `Robot` protocol, and the data that it speaks.

A driver is one class in one file that keeps this protocol; the twin and the tests' fake are others.

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

All times are seconds of `time.monotonic()` on the machine that runs the driver: they can be
subtracted from each other, and from nothing else.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np

from envs.geometry import Floats

from .limits import JointLimits

# The modes of Franka's control interface, in our words.
Mode = Literal["idle", "moving", "guiding", "reflex", "user_stopped", "recovering", "other"]

MODES: dict[Mode, str] = {
    "idle": "holds its pose; takes commands",
    "moving": "follows commands",
    "guiding": "is led by hand; takes no commands",
    "reflex": "stopped itself after an error; needs recover()",
    "user_stopped": "the user stop is pressed; a person must release it",
    "recovering": "is busy with recover()",
    "other": "takes no commands: brakes locked, or a mode that the driver does not know",
}


class RobotError(RuntimeError):
    """A robot does not follow its commands; the control loop ends the episode with this text."""


class ConnectionLostError(RobotError):
    """The robot does not answer any more, or never did."""


class CommandRefusedError(RobotError):
    """The robot answers and refuses: its mode or its errors forbid it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GripperState:
    """What the gripper last said; its reads block, so it has a stamp of its own.

    Attributes:
        stamp_s: when it was read.
        width_m: distance between the fingers.
        max_width_m: that of the open gripper.
        is_grasping: whether it holds something, as far as it knows.
        error: what its last motion failed with; None when it did not.
    """

    stamp_s: float
    width_m: float
    max_width_m: float
    is_grasping: bool
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RobotState:
    """What the arm last said. Values may be NaN if the robot sent NaN; the safety layer looks.

    Attributes:
        stamp_s: when it came.
        joint_positions_rad: [j].
        joint_velocities_rad_s: [j].
        joint_torques_nm: [j], measured.
        external_torques_nm: [j], what the robot takes for pushes from outside.
        gripper: None for an arm without one.
        mode: one of `MODES`.
        errors: the robot's own names of its errors; empty when all is well.
        command_success_rate: share of the last commands that came in time, 0 to 1.
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
            # a copy: a driver may go on to write into its own arrays
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or values.shape != num_joints:
                raise ValueError(f"{name} must be {num_joints}, one number a joint: {values.shape}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Target:
    """What an arm is to do next.

    Attributes:
        joint_positions_rad: [j].
        gripper_width_m: None to leave the gripper as it is.
    """

    joint_positions_rad: Floats
    gripper_width_m: float | None


@runtime_checkable
class Robot(Protocol):
    """Drive one arm with its gripper. Every call returns soon: blocking work has its own thread.

    As a context manager it connects, and at the end, whatever the reason, stops and closes.
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
        """The limits that were read from this robot when it was connected."""
        ...

    def connect(self) -> None:
        """Find the robot, read version and limits, and start reading its state.

        Raises:
            ConnectionLostError: it is not there; naming the address and what to look at.
            RobotError: it is there and of a kind that this driver cannot drive; naming what fits.
        """
        ...

    def state(self) -> RobotState:
        """Return the newest state without waiting; its stamp tells how old it is.

        Raises:
            ConnectionLostError: nothing has come yet, or the connection is gone.
        """
        ...

    def command(self, joint_positions_rad: Floats) -> Floats:
        """Track these joint positions [j] until the next ones come; give what was really sent.

        Starts the controller if it does not run, from the pose where the arm is.

        Raises:
            CommandRefusedError: by the mode or an error, which are named.
            ConnectionLostError: the robot does not answer.
        """
        ...

    def move_gripper(self, width_m: float) -> None:
        """Move the fingers apart by this much; the newest wish wins, and nothing waits for it."""
        ...

    def stop(self) -> None:
        """Bring the arm to rest and end the controller; it then holds its pose.

        Safe to call at any time and more than once; raises nothing that hides another error.
        """
        ...

    def recover(self) -> None:
        """Clear the robot's errors, if it can.

        Raises:
            CommandRefusedError: the user stop is pressed, or the error needs a person.
        """
        ...

    def close(self) -> None:
        """Stop, disconnect and end the threads; more than once is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
