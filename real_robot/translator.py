"""Conversion of a policy's actions to targets, and of robot states to proprioception.

It equals the simulated environment's conversion for the same `Interface`: an increment is added to
the stored joint target, not to the measured position, and the hand's command is absolute. A hand
whose motions cannot be interrupted gets its commands from a `GripperSwitch`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.arms.arm import Arm
from envs.geometry import Floats
from envs.interface import Interface

from .limits import JointLimits
from .robot import RobotState, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class GripperSwitch:
    """Settings that turn a policy's requested openings into commands to open or to close.

    A policy outputs an opening in [-1, 1] at every time step. Its training data contain only 1 and
    -1, so a value between them means uncertainty. A Franka Hand completes each motion before the
    next one, so a motion for every such value would cause delays.

    Attributes:
        close_below: a requested opening below this value, in [-1, 1], closes the hand.
        open_above: a requested opening above this value opens the hand; between the two values the
            last command stays.
        hold_s: shortest time between two commands, as long as a motion of the hand takes.
    """

    close_below: float
    open_above: float
    hold_s: float

    def __post_init__(self) -> None:
        if not -1 <= self.close_below <= self.open_above <= 1:
            raise ValueError(
                "-1 <= close_below <= open_above <= 1 must hold, got "
                f"{self.close_below}, {self.open_above}"
            )
        if not 0 <= self.hold_s < math.inf:
            raise ValueError(f"hold_s must be finite and not negative, got {self.hold_s}")


class Translator:
    """A converter of actions to targets and of states to `proprio`, for one robot and interface.

    Attributes:
        interface: the meaning of actions and proprioception.
    """

    def __init__(
        self,
        interface: Interface,
        arm: Arm,
        limits: JointLimits,
        switch: GripperSwitch | None = None,
    ) -> None:
        """Check that the robot has all actions and readings of the interface.

        Args:
            interface: the meaning of actions and proprioception.
            arm: the arm's joints and hand.
            limits: limits of the joints.
            switch: settings for a hand that only opens and closes; None for a hand that follows
                every width.

        Raises:
            ValueError: the robot lacks an action or reading; the message lists what it has.
        """
        joints = arm.joint_names
        expected = tuple(f"{name}_increment" for name in joints)
        (gripper,) = arm.hand_servos if len(arm.hand_servos) == 1 else (None,)
        if gripper is not None:
            expected = (*expected, f"{gripper.name}_opening")
        if interface.action_kind != "joint_increment" or interface.action != expected:
            raise ValueError(
                f"a policy for {arm.name} needs joint_increment actions {', '.join(expected)}; "
                f"this interface has {interface.action_kind} {', '.join(interface.action)}"
            )
        self.interface = interface
        self._num_joints = len(joints)
        self._scale = np.array(interface.action_scale[: self._num_joints])
        self._lower, self._upper = np.array(limits.lower_rad), np.array(limits.upper_rad)
        self._targets = np.zeros(self._num_joints)
        self._has_gripper = gripper is not None
        self._max_width_m = 0.0 if gripper is None else gripper.upper * len(gripper.joints)
        self._command = 1.0
        self._switch = switch
        self._hold_ticks = 0 if switch is None else math.ceil(switch.hold_s * interface.rate_hz)
        self._ticks = self._hold_ticks  # since the last change of the command
        hand = None if gripper is None else gripper.name
        self._readings = self._find_readings(interface.proprio, joints, hand)

    @property
    def joint_targets_rad(self) -> Floats:
        """Return the stored joint targets [j]."""
        return self._targets.copy()

    @property
    def gripper_command(self) -> float:
        """Return the last command to the gripper, in [-1, 1]; 1 is open."""
        return self._command

    def begin(self, state: RobotState) -> None:
        """Begin an episode: take stored targets and gripper command from the measured state."""
        self._targets = state.joint_positions_rad.astype(np.float64)
        if state.gripper is not None:
            share = state.gripper.width_m / self._max_width_m
            self._command = float(np.clip(2 * share - 1, -1.0, 1.0))
        self._ticks = self._hold_ticks

    def target(self, action: NDArray[np.float32]) -> Target:
        """Return the requested target of an action [a], without storing it.

        Non-finite values stay, since the safety layer rejects them.
        """
        values = np.asarray(action, dtype=np.float64)
        if values.shape != (len(self.interface.action),):
            return Target(joint_positions_rad=values, gripper_width_m=None)
        increments = np.clip(values[: self._num_joints], -1.0, 1.0)  # NaN stays NaN
        joints = np.clip(self._targets + self._scale * increments, self._lower, self._upper)
        width_m = None
        if self._has_gripper:
            width_m = self._max_width_m * (self.gripper_order(float(values[-1])) + 1) / 2
        return Target(joint_positions_rad=joints, gripper_width_m=width_m)

    def gripper_order(self, requested: float) -> float:
        """Return the gripper's command, in [-1, 1], for a requested opening in [-1, 1]."""
        requested, switch = float(np.clip(requested, -1.0, 1.0)), self._switch
        if switch is None or math.isnan(requested):
            return requested
        if self._ticks < self._hold_ticks or switch.close_below <= requested <= switch.open_above:
            return self._command
        return 1.0 if requested > switch.open_above else -1.0

    def sent(self, target: Target) -> None:
        """Store the target that was sent; the next increment is added to it."""
        self._targets = np.array(target.joint_positions_rad, dtype=np.float64)
        self._ticks += 1
        if target.gripper_width_m is None:
            return
        command = 2 * target.gripper_width_m / self._max_width_m - 1
        if not math.isclose(command, self._command, abs_tol=1e-6):
            self._ticks = 0
        self._command = command

    def action_of(self, joint_positions_rad: Floats, gripper_width_m: float) -> NDArray[np.float32]:
        """Return the action [a] that requests these joints and this width, clipped to [-1, 1].

        An expert or hand guiding provides such joint positions.
        """
        increments = (np.asarray(joint_positions_rad) - self._targets) / self._scale
        if self._has_gripper:
            increments = np.append(increments, 2 * gripper_width_m / self._max_width_m - 1)
        return np.clip(increments, -1.0, 1.0).astype(np.float32)

    def proprio(self, state: RobotState) -> NDArray[np.float32]:
        """Return the `proprio` vector [p] that the interface names."""
        return np.array([read(state) for read in self._readings], dtype=np.float32)

    def _find_readings(
        self, names: Sequence[str], joints: Sequence[str], gripper: str | None
    ) -> list[Callable[[RobotState], float]]:
        known: dict[str, Callable[[RobotState], float]] = {}
        for index, joint in enumerate(joints):
            known[f"{joint}_position"] = lambda s, i=index: float(s.joint_positions_rad[i])
            known[f"{joint}_velocity"] = lambda s, i=index: float(s.joint_velocities_rad_s[i])
            known[f"{joint}_target"] = lambda _, i=index: float(self._targets[i])
            known[f"{joint}_tracking_error"] = lambda s, i=index: float(
                self._targets[i] - s.joint_positions_rad[i]
            )
        if gripper is not None:
            known[f"{gripper}_width"] = _width_m
            known[f"{gripper}_command"] = lambda _: self._command
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"the robot has no reading {', '.join(unknown)} of the interface's proprio; it "
                f"has {', '.join(known)}"
            )
        return [known[name] for name in names]


def _width_m(state: RobotState) -> float:
    return math.nan if state.gripper is None else state.gripper.width_m
