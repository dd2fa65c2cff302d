"""Move the arm to its start pose; the motion is slow, and the safety layer checks each target."""

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

_CHECK_STEP_RAD = 0.02  # distance between the points of the line where the workspace is checked
_ARRIVED_RAD = 1e-6
_GRIPPER_M = 0.003


class NotHomeError(RuntimeError):
    """Error: the arm is not at its start pose. The message has the cause and what to do."""


class PersonNeededError(NotHomeError):
    """Error: a person must acknowledge a user stop or a reflex before the arm may move."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HomeConfig:
    """Settings of the motion to the start pose.

    Attributes:
        speed_rad_s: speed of the joint that has the longest distance to move, rad/s.
        acceleration_rad_s2: acceleration and deceleration of this joint, rad/s^2.
        slack_rad: the safety layer keeps each joint a margin away from the robot's joint limits. A
            joint may begin the motion at most this far inside the margin, rad, but must be within
            the robot's limits.
        slack_m: the arm may begin the motion at most this far outside the workspace, m.
        tolerance_rad: greatest distance of each joint from the start pose at the end, rad.
        settle_s: time limit for the arm to come to rest at the start pose, and for the gripper to
            reach its width, s.
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
    """Move the arm to `pose` on a straight line in joint space, and wait until it is at rest.

    The arm may begin a small distance outside the limits of the safety layer: see `slack_rad` and
    `slack_m` in `HomeConfig`. The whole line must be inside the workspace, extended by `slack_m`.
    The robot is stopped at the end in every case, including Ctrl-C, SIGTERM and SIGHUP.

    Args:
        robot: the connected robot.
        safety: settings of the safety layer.
        arm: the kinematics of the arm.
        pose: goal pose [j], rad, one value per joint.
        config: settings of the motion.
        gripper_width_m: width to which the gripper is moved first, m; None does not move it.
        attention: `SafetyLayer.attention` of the arm's episodes, which stores user stops and
            reflexes that a person must acknowledge. None if the arm has run no episode.
        clock: the clock of all timestamps; None uses `time.monotonic`.

    Raises:
        PersonNeededError: a user stop or a reflex is not acknowledged.
        NotHomeError: the safety layer refuses the motion, the line leaves the workspace, or the arm
            did not arrive.
        RobotError: the robot refused a command, or the connection was lost.
    """
    clock = clock or MonotonicClock()
    goal = np.asarray(pose, dtype=np.float64)
    layer = SafetyLayer(_relaxed(safety, config), robot.limits, arm, attention=attention)
    layer.notice(robot.state())
    if (cause := layer.attention.cause) is not None:
        raise PersonNeededError(
            f"the arm must not go home: {cause}: a person must check the arm and acknowledge() "
            "first; then lead the arm by hand towards its start pose, or go home again"
        )
    try:
        _check_start(robot, layer, clock)
        if gripper_width_m is not None:
            robot.move_gripper(gripper_width_m)
        _follow_line(robot, layer, Enclosure(layer.config.workspace, arm), goal, config, clock)
    finally:
        robot.stop()
    _settle(robot, layer, goal, gripper_width_m, config, clock)


def _relaxed(safety: SafetyConfig, config: HomeConfig) -> SafetyConfig:
    """Return the safety settings of the motion: limits extended by `slack_rad` and `slack_m`."""
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


def _check_start(robot: Robot, layer: SafetyLayer, clock: Clock) -> None:
    """Check that arm and gripper may begin to move.

    Raises:
        NotHomeError: the safety layer refuses the motion.
    """
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
    # The limit is long, because the safety layer may move the arm more slowly than requested.
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
            raise NotHomeError("the motion home stopped: " + "; ".join(decision.causes))
        if now_s > until_s:
            raise NotHomeError(
                f"the arm did not reach its start pose in time: {farthest:.3f} rad are left"
                + "".join(f"; {change.detail}" for change in decision.interventions)
            )
        robot.command(decision.target.joint_positions_rad)
        here = decision.target.joint_positions_rad
        # if the clock was set back, do not wait for the time that was planned before
        due_s = min(max(due_s + period_s, now_s), now_s + period_s)
        clock.wait(None, due_s)
        if float(np.abs(goal - here).max()) < _ARRIVED_RAD:
            return


def _check_line(first: Floats, last: Floats, enclosure: Enclosure) -> None:
    """Check that the line between two poses [j] stays in the workspace.

    Raises:
        NotHomeError: the line leaves the workspace; the message has the place.
    """
    count = 1 + math.ceil(float(np.abs(last - first).max()) / _CHECK_STEP_RAD)
    for share in np.linspace(0.0, 1.0, count + 1):
        outside = enclosure.violations(first + share * (last - first))
        if outside:
            raise NotHomeError(
                f"the straight line to the start pose leaves the workspace after {share:.0%}: "
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
        gripper_off_m, gripper_error = 0.0, None
        if gripper_width_m is not None and state.gripper is not None:
            gripper_off_m = abs(state.gripper.width_m - gripper_width_m)
            gripper_error = state.gripper.error
        arrived = error.max() <= config.tolerance_rad and gripper_off_m <= _GRIPPER_M
        if arrived and speed <= REST_RAD_S:
            return
        if clock.now_s() > until_s:
            joint = int(error.argmax())
            raise NotHomeError(
                f"the arm is not at its start pose: joint {joint + 1} is {error[joint]:.3f} rad "
                f"away (at most {config.tolerance_rad}), it moves at {speed:.3f} rad/s (at most "
                f"{REST_RAD_S}), the gripper is {gripper_off_m:.3f} m away (at most {_GRIPPER_M})"
                + ("" if gripper_error is None else f"; {gripper_error}")
            )
        clock.wait(None, clock.now_s() + 0.02)
