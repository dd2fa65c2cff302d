"""Bring the arm to its start pose, slowly and through the safety layer."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from envs.arms.arm import Arm
from envs.geometry import Floats, Vector

from ..robot import Robot, Target
from ..safety.attention import Attention
from ..safety.config import SafetyConfig
from ..safety.layer import Ages, SafetyLayer, UnsafeStartError
from ..safety.workspace import Enclosure
from .clock import Clock, MonotonicClock
from .sending import REST_RAD_S

_LOOK_RAD = 0.02  # how far apart on the line the workspace is looked at
_ARRIVED_RAD = 1e-6
_GRIPPER_M = 0.003


class NotHomeError(RuntimeError):
    """The arm is not at its start pose; with the reason, and what a person can do."""


class PersonNeededError(NotHomeError):
    """The arm does not set out before a person acknowledges what it stopped for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HomeConfig:
    """Say how the arm goes home.

    Attributes:
        speed_rad_s: of the joint that has farthest to go.
        acceleration_rad_s2: with which that joint starts and stops.
        slack_rad: how far a joint may be beyond the safety layer's margin when it sets out, as long
            as it is within the robot's own limits.
        slack_m: how far the arm may be outside of the workspace when it sets out.
        tolerance_rad: how near is there.
        settle_s: how long the arm may take to come to rest there, and the gripper to open.
    """

    speed_rad_s: float
    acceleration_rad_s2: float
    slack_rad: float
    slack_m: float
    tolerance_rad: float
    settle_s: float

    def __post_init__(self) -> None:
        for name in ("speed_rad_s", "acceleration_rad_s2", "tolerance_rad", "settle_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("slack_rad", "slack_m"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def go_home(
    robot: Robot,
    safety: SafetyConfig,
    arm: Arm,
    pose: ArrayLike,
    config: HomeConfig,
    *,
    gripper_width_m: float | None = None,
    attention: Attention | None = None,
    clock: Clock | None = None,
) -> None:
    """Bring the arm to `pose` on a straight line in joint space; it is at rest there afterwards.

    An arm that is a little outside of margin or workspace, by the config's slacks, may come back
    in; the whole line must be within the workspace and its slack. The robot is stopped whatever
    happens, Ctrl-C included.

    Args:
        robot: connected.
        safety: what the arm may do.
        arm: its kinematics.
        pose: [j] where to.
        config: how.
        gripper_width_m: to which the gripper is moved first; None to leave it.
        attention: what a person must look at, `SafetyLayer.attention` of the arm's episodes; None
            for an arm that has done none.
        clock: that of all stamps; None: `time.monotonic`.

    Raises:
        PersonNeededError: a user stop or a reflex was seen, and nobody has acknowledged it.
        NotHomeError: the arm must not set out, must not go that way, or did not arrive.
        RobotError: the robot refused or was lost.
    """
    clock = clock or MonotonicClock()
    goal = np.asarray(pose, dtype=np.float64)
    layer = SafetyLayer(_relaxed(safety, config), robot.limits, arm, attention=attention)
    layer.notice(robot.state())
    if (cause := layer.attention.cause) is not None:
        raise PersonNeededError(
            f"the arm must not go home: {cause}: a person must look and acknowledge() first; then "
            "lead the arm by hand towards its start pose, or let it go"
        )
    try:
        _look_at_start(robot, layer, clock)
        if gripper_width_m is not None:
            robot.move_gripper(gripper_width_m)
        _follow_line(robot, layer, Enclosure(layer.config.workspace, arm), goal, config, clock)
    finally:
        robot.stop()
    _settle(robot, layer, goal, gripper_width_m, config, clock)


def _relaxed(safety: SafetyConfig, config: HomeConfig) -> SafetyConfig:
    """Return the margins and walls that hold on the way: those of the config, less the slacks."""
    motion, space = safety.motion, safety.workspace
    margin_rad = max(0.0, motion.joint_margin_rad - config.slack_rad)
    slack = config.slack_m
    return replace(
        safety,
        motion=replace(motion, joint_margin_rad=margin_rad),
        workspace=replace(
            space,
            low_m=_moved(space.low_m, -slack),
            high_m=_moved(space.high_m, slack),
            table_m=space.table_m - slack,
        ),
    )


def _moved(corner: Vector, by_m: float) -> Vector:
    x, y, z = corner
    return x + by_m, y + by_m, z + by_m


def _look_at_start(robot: Robot, layer: SafetyLayer, clock: Clock) -> None:
    """Refuse to move anything, the gripper too, of an arm that must not set out."""
    try:
        layer.begin(robot.state(), start=None, now_s=clock.now_s())
    except UnsafeStartError as error:
        raise NotHomeError(f"{error}; lead the arm by hand towards its start pose") from error


def _follow_line(
    robot: Robot,
    layer: SafetyLayer,
    enclosure: Enclosure,
    goal: Floats,
    config: HomeConfig,
    clock: Clock,
) -> None:
    here = robot.state().joint_positions_rad.copy()
    _check_line(here, goal, enclosure)
    period_s, speed = layer.config.motion.period_s, 0.0
    far_s = float(np.abs(goal - here).max()) / config.speed_rad_s
    # generous: the safety layer may be slower than was asked
    until_s = clock.now_s() + 10 * (far_s + config.settle_s)
    due_s = clock.now_s()
    while True:
        left = goal - here
        farthest = float(np.abs(left).max())
        speed = min(
            speed + config.acceleration_rad_s2 * period_s,
            config.speed_rad_s,
            math.sqrt(2 * config.acceleration_rad_s2 * farthest),
        )
        share = min(1.0, speed * period_s / farthest) if farthest > 0 else 1.0
        requested = Target(joint_positions_rad=here + share * left, gripper_width_m=None)
        now_s = clock.now_s()
        decision = layer.command(requested, robot.state(), Ages(action_s=0.0, cameras_s={}), now_s)
        if decision.target is None or decision.ended:
            raise NotHomeError("on the way home: " + "; ".join(decision.causes))
        if now_s > until_s:
            raise NotHomeError(
                f"the arm does not come home: {farthest:.3f} rad are left"
                + "".join(f"; {change.detail}" for change in decision.interventions)
            )
        robot.command(decision.target.joint_positions_rad)
        here = decision.target.joint_positions_rad
        # of a clock that was set back the arm does not wait for the old time
        due_s = min(max(due_s + period_s, now_s), now_s + period_s)
        clock.wait(None, due_s)
        if float(np.abs(goal - here).max()) < _ARRIVED_RAD:
            return


def _check_line(first: Floats, last: Floats, enclosure: Enclosure) -> None:
    """Refuse a line that leaves the workspace, and say where."""
    count = 1 + math.ceil(float(np.abs(last - first).max()) / _LOOK_RAD)
    for share in np.linspace(0.0, 1.0, count + 1):
        outside = enclosure.violations(first + share * (last - first))
        if outside:
            raise NotHomeError(
                f"the straight way to the start pose leaves the workspace after {share:.0%}: "
                f"{'; '.join(outside)}; lead the arm by hand towards its start pose"
            )


def _settle(
    robot: Robot,
    layer: SafetyLayer,
    goal: Floats,
    gripper_width_m: float | None,
    config: HomeConfig,
    clock: Clock,
) -> None:
    until_s = clock.now_s() + config.settle_s
    while True:
        state = robot.state()
        layer.notice(state)
        error = np.abs(state.joint_positions_rad - goal)
        speed = float(np.abs(state.joint_velocities_rad_s).max())
        gripper_off_m = 0.0
        if gripper_width_m is not None and state.gripper is not None:
            gripper_off_m = abs(state.gripper.width_m - gripper_width_m)
        there = error.max() <= config.tolerance_rad and gripper_off_m <= _GRIPPER_M
        if there and speed <= REST_RAD_S:
            return
        if clock.now_s() > until_s:
            joint = int(error.argmax())
            raise NotHomeError(
                f"the arm is not at its start pose: joint {joint + 1} is {error[joint]:.3f} rad "
                f"away (most: {config.tolerance_rad}), it moves at {speed:.3f} rad/s (most: "
                f"{REST_RAD_S}), the gripper is {gripper_off_m:.3f} m off (most: {_GRIPPER_M})"
            )
        clock.wait(None, clock.now_s() + 0.02)
