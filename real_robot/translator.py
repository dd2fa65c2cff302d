"""Convert a policy's actions to targets of the arm, and robot states to proprioception.

The conversion is the same as in a simulated environment with the same action and observation spec
(`Interface`). The increment of an action is added to the newest joint target, which is stored here,
and not to the measured position. The command to the hand is absolute. For a hand whose motions
cannot be interrupted, `GripperSwitch` decides when a new command is sent.
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
    """Thresholds that convert a policy's requested opening to a command: open or close.

    At every time step, a policy outputs an opening of the hand between -1 (closed) and 1 (open).
    Its training data contain only -1 and 1, so a value between them means that the policy is
    uncertain. A Franka Hand completes each motion before the next one. If every such value started
    a motion, the hand would be late.

    Attributes:
        close_below: a requested opening below this value closes the hand, in [-1, 1].
        open_above: a requested opening above this value opens the hand, in [-1, 1]. Between the
            two thresholds, the command does not change.
        hold_s: shortest time between two commands, s; it should be the duration of a motion.
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
    """Converter from actions to targets, and from robot states to proprioception, for one robot.

    Attributes:
        interface: the policy's action and observation spec, which names each number of an action
            and of the proprioception.
    """

    def __init__(
        self,
        interface: Interface,
        arm: Arm,
        limits: JointLimits,
        switch: GripperSwitch | None = None,
    ) -> None:
        """Check that the robot has all actions and measurements of the policy's spec.

        Args:
            interface: the policy's action and observation spec.
            arm: kinematics of the arm, and its hand.
            limits: limits of the joints.
            switch: settings for a hand that can only open and close; None for a hand that can move
                to every width.

        Raises:
            ValueError: the robot lacks an action or a measurement of the spec; the message lists
                the actions or measurements that it has.
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
        self._ticks = self._hold_ticks  # number of time steps since the last change of the command
        hand = None if gripper is None else gripper.name
        self._readings = self._find_readings(interface.proprio, joints, hand)

    @property
    def joint_targets_rad(self) -> Floats:
        """Return the joint targets that were sent last [j], rad, one value per joint."""
        return self._targets.copy()

    @property
    def gripper_command(self) -> float:
        """Return the newest command to the gripper, in [-1, 1]; 1 is open."""
        return self._command

    def begin(self, state: RobotState) -> None:
        """Set the stored targets to the measured state, at the start of an episode."""
        self._targets = state.joint_positions_rad.astype(np.float64)
        if state.gripper is not None:
            share = state.gripper.width_m / self._max_width_m
            self._command = float(np.clip(2 * share - 1, -1.0, 1.0))
        self._ticks = self._hold_ticks

    def target(self, action: NDArray[np.float32]) -> Target:
        """Return the target that an action [a] requests; the target is not stored yet.

        The numbers of the action are clipped to [-1, 1], and the joint positions to the joint
        limits. NaN and a wrong shape are kept, because the safety layer detects and rejects them.
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
        """Return the command to the gripper for a requested opening; both are in [-1, 1]."""
        requested, switch = float(np.clip(requested, -1.0, 1.0)), self._switch
        if switch is None or math.isnan(requested):
            return requested
        if self._ticks < self._hold_ticks or switch.close_below <= requested <= switch.open_above:
            return self._command
        return 1.0 if requested > switch.open_above else -1.0

    def sent(self, target: Target) -> None:
        """Store a target that was sent; the next action's increment is added to this target."""
        self._targets = np.array(target.joint_positions_rad, dtype=np.float64)
        self._ticks += 1
        if target.gripper_width_m is None:
            return
        command = 2 * target.gripper_width_m / self._max_width_m - 1
        if not math.isclose(command, self._command, abs_tol=1e-6):
            self._ticks = 0
        self._command = command

    def action_of(self, joint_positions_rad: Floats, gripper_width_m: float) -> NDArray[np.float32]:
        """Return the action [a] that moves the arm from the stored target to these positions.

        The last number requests the gripper's width, if there is a gripper. The method is the
        inverse of `target` for a robot without `GripperSwitch`, and is used for agents that compute
        joint positions, such as guiding by hand. The numbers of the action are clipped to [-1, 1].
        """
        increments = (np.asarray(joint_positions_rad) - self._targets) / self._scale
        if self._has_gripper:
            increments = np.append(increments, 2 * gripper_width_m / self._max_width_m - 1)
        return np.clip(increments, -1.0, 1.0).astype(np.float32)

    def proprio(self, state: RobotState) -> NDArray[np.float32]:
        """Return the proprioception [p]: the measurements that `Interface.proprio` lists."""
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
