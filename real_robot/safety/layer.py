"""What stands between a policy and an arm: every target goes through `SafetyLayer.command`.

The layer has no thread and no clock: time comes in as numbers, so a test can say what happens in
any order. It answers each tick with a `Decision`: what is really to be sent, and why.

    move   the wish, within limits, caps and workspace
    hold   something is late: slow down on the way that is known to be free, then wait for it
    stop   something is wrong: slow down likewise, and the episode ends at rest
    end    the arm does not follow any more (reflex, user stop, error): nothing is sent

A stop or an end is final: only a new `begin` moves the arm again. After the user stop, and after a
reflex unless recovery was opted in, `begin` wants a person's `acknowledge` first, whoever saw it:
`begin`, `command`, or anybody who read the robot's state and showed it by `notice`.

These are research aids. The user stop must be a wired button in a person's hand.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from envs.arms.arm import Arm
from envs.geometry import Floats
from toto_robot.moved import moved_names

from ..limits import JointLimits
from ..robot import MODES, RobotState, Target
from .attention import Attention
from .config import SafetyConfig
from .motion import Intervention, Motion, MotionFilter
from .workspace import Enclosure

Verdict = Literal["move", "hold", "stop", "end"]

# Stamps of other threads may be taken an instant after the loop's own.
_FUTURE_S = 0.005


class UnsafeStartError(ValueError):
    """An episode must not begin; with every reason."""


class RecoveryRefusedError(ValueError):
    """The robot must not be recovered by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ages:
    """How old what the policy acted on is.

    Attributes:
        action_s: since the observation that the action answers was taken, or since the action was
            given: what the loop bounds with `SafetyConfig.action`.
        cameras_s: since each camera last saw something new: `Camera.age_s`, which grows, too, while
            a camera is frozen or gone.
    """

    action_s: float
    cameras_s: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decision:
    """What is really to be sent.

    Attributes:
        target: None when nothing is to be sent.
        verdict: `move`, `hold`, `stop` or `end`.
        causes: why it is not `move`, in words; empty when it is.
        interventions: why the target is not the wish; empty when it is.
        ended: whether the episode is over: the arm is at rest, or does not follow.
    """

    target: Target | None
    verdict: Verdict
    causes: tuple[str, ...]
    interventions: tuple[Intervention, ...]
    ended: bool


class SafetyLayer:
    """Decide for one robot, tick by tick.

    Attributes:
        config: what the arm may do.
        attention: what a person must look at; shared by all layers of an arm.
    """

    def __init__(
        self,
        config: SafetyConfig,
        limits: JointLimits,
        arm: Arm,
        *,
        attention: Attention | None = None,
    ) -> None:
        """Decide nothing yet.

        Args:
            config: what the arm may do.
            limits: of its joints.
            arm: its kinematics.
            attention: what a person must look at, of another layer of the same arm; None for an
                arm of which nothing was seen yet.
        """
        if limits.num_joints != len(arm.link_frames):
            raise ValueError(
                f"limits of {limits.num_joints} joints ({limits.source}) do not fit "
                f"{arm.name} with {len(arm.link_frames)}"
            )
        self.attention = Attention() if attention is None else attention
        self.config = config
        self._lowest = np.array(limits.lower_rad) - config.max_overshoot_rad
        self._highest = np.array(limits.upper_rad) + config.max_overshoot_rad
        self._num_joints = limits.num_joints
        self._filter = MotionFilter(config.motion, limits, Enclosure(config.workspace, arm))
        self._before: tuple[Motion, float] | None = None  # what was sent before `_now`, and when
        self._now: tuple[Motion, float] | None = None
        self._final: tuple[Verdict, tuple[str, ...]] | None = None
        self._num_recoveries = 0

    def begin(self, state: RobotState, *, start: ArrayLike | None, now_s: float) -> None:
        """Begin an episode where the arm is.

        Args:
            state: the robot's newest.
            start: [j] the start pose that the arm must be near; None where any pose will do.
            now_s: the time.

        Raises:
            UnsafeStartError: with every reason that speaks against it.
        """
        self._before = self._now = None
        self.notice(state)
        problems = [f"the robot is {state.mode}: it {MODES[state.mode]}"]
        if state.mode in ("idle", "moving"):
            problems = []
        problems += [f"the robot reports {error}" for error in state.errors]
        if (cause := self.attention.cause) is not None:
            problems.append(f"{cause}: a person must look and acknowledge() first")
        problems += self._state_faults(state, now_s, self.config.state.hold_after_s)
        if not problems:
            problems = self._pose_problems(state, start)
        if problems:
            raise UnsafeStartError("the episode must not begin: " + "; ".join(problems))
        self._final = None
        # The first target comes a period later, or is one that has that time.
        earlier_s = now_s - self.config.motion.period_s
        self._before = self._now = (self._filter.rest(state.joint_positions_rad), earlier_s)

    def command(self, target: Target, state: RobotState, ages: Ages, now_s: float) -> Decision:
        """Decide what is sent now.

        A second call with the same `now_s` decides the same tick again; sending the decided target
        through it changes nothing.

        Args:
            target: the wish. Anything that is no finite target of the right shape ends the episode.
            state: the robot's newest.
            ages: of the action and of the cameras.
            now_s: the time, on the clock of the stamps.

        Raises:
            RuntimeError: before `begin`.
        """
        if self._now is None or self._before is None:
            raise RuntimeError("begin() comes before command()")
        self.notice(state)
        now_s = _float(now_s)
        if self._final is not None and self._final[0] == "end":
            return self._ended()
        if halted := self._halted(state):
            self._final = ("end", halted)
            return self._ended()
        last, last_s = self._before if now_s == self._now[1] else self._now
        requested, faults = self._read(target)
        faults += self._state_faults(state, now_s, self.config.state.stop_after_s)
        faults += self._tracking_faults(last, state)
        faults += self._late(ages, "stop")
        elapsed_s = now_s - last_s
        if not elapsed_s > 0:
            faults.append(f"the clock does not go on: {now_s} s after {last_s} s")
            elapsed_s = self.config.motion.period_s
        if faults and self._final is None:
            self._final = ("stop", tuple(faults))
        late = self._late(ages, "hold")
        late += self._state_faults(state, now_s, self.config.state.hold_after_s)
        if self._final is None and not late and requested is not None:
            motion, changes = self._filter.step(
                last, requested.joint_positions_rad, state.joint_positions_rad, elapsed_s
            )
            width_m, gripper_changes = self._grip(requested, state)
            verdict, causes = "move", ()
            interventions = (*changes, *gripper_changes)
        else:
            verdict, causes = self._final or ("hold", tuple(late))
            motion = self._filter.brake(last, min(elapsed_s, self.config.motion.period_s))
            width_m = None
            interventions = self._difference(verdict, requested, motion)
        self._before, self._now = (last, last_s), (motion, now_s)
        return Decision(
            # a copy: whoever is told may write into it, and the next tick begins at this place
            target=Target(joint_positions_rad=motion.positions_rad.copy(), gripper_width_m=width_m),
            verdict=verdict,
            causes=causes,
            interventions=interventions,
            ended=verdict == "stop" and motion.at_rest,
        )

    def fell_short(self, goal_rad: Floats, share: float) -> None:
        """Note that the last target was sent only in part: the next tick begins at that place.

        That place is on the line that is known to be free, and stopping from it takes no more room.

        Args:
            goal_rad: [j] the target of which that is true; another one than the last is ignored.
            share: in [0, 1].
        """
        if self._now is None or self._before is None:
            return
        (before, _), (last, last_s) = self._before, self._now
        if not np.array_equal(goal_rad, last.positions_rad):
            return
        way = last.positions_rad - before.positions_rad
        place = before.positions_rad + min(max(share, 0.0), 1.0) * way
        self._now = (replace(last, positions_rad=place), last_s)

    def notice(self, state: RobotState) -> None:
        """Take in a state that somebody has read: a user stop in it must be acknowledged."""
        self.attention.notice(state)

    def acknowledge(self) -> None:
        """Note that a person has looked after a user stop or a reflex; recoveries count anew.

        Only a person's input may lead here, never a loop.
        """
        self.attention.acknowledge()
        self._num_recoveries = 0

    def allow_recovery(self) -> None:
        """Note that the robot is to be recovered from a reflex without a person, for a new episode.

        Raises:
            RecoveryRefusedError: there was no reflex, a person is needed, or it was often enough.
        """
        most, attention = self.config.max_recoveries, self.attention
        if attention.user_stopped or not attention.reflexed:
            raise RecoveryRefusedError(
                attention.cause or "there was no reflex to recover from in this episode"
            )
        if self._num_recoveries >= most:
            raise RecoveryRefusedError(
                f"{self._num_recoveries} of max_recoveries={most} reflexes were recovered from: "
                "a person must look and acknowledge()"
            )
        self._num_recoveries += 1
        attention.recover()

    def _halted(self, state: RobotState) -> tuple[str, ...]:
        """Return why the arm does not follow any more; empty when it does."""
        if state.mode in ("idle", "moving") and not state.errors:
            return ()
        causes = [f"the robot reports {error}" for error in state.errors]
        if state.mode not in ("idle", "moving"):
            causes.insert(0, f"the robot is {state.mode}: it {MODES[state.mode]}")
        return tuple(causes)

    def _ended(self) -> Decision:
        assert self._final is not None
        return Decision(
            target=None, verdict="end", causes=self._final[1], interventions=(), ended=True
        )

    def _read(self, target: Target) -> tuple[Target | None, list[str]]:
        """Return the wish as finite numbers, or what is wrong with it."""
        try:
            # a copy: whoever made the target may go on to write into it
            positions = np.array(target.joint_positions_rad, dtype=np.float64)
        # whatever a policy takes for a number: to raise here would be to leave the arm alone
        except Exception as error:
            return None, [f"the action is no list of numbers: {error}"]
        if positions.shape != (self._num_joints,):
            return None, [f"the action has shape {positions.shape}, expected ({self._num_joints},)"]
        faults = [
            f"the action of joint {joint + 1} is {positions[joint]}"
            for joint in np.flatnonzero(~np.isfinite(positions))
        ]
        width_m = target.gripper_width_m
        if width_m is not None:
            if not math.isfinite(width := _float(width_m)):
                faults.append(f"the action of the gripper is {_shown(width_m)}")
            width_m = width
        if faults:
            return None, faults
        return Target(joint_positions_rad=positions, gripper_width_m=width_m), []

    def _state_faults(self, state: RobotState, now_s: float, most_s: float) -> list[str]:
        """Say what is wrong with the robot's state."""
        if state.joint_positions_rad.shape != (self._num_joints,):
            return [
                f"the robot tells {len(state.joint_positions_rad)} joints, "
                f"expected {self._num_joints}"
            ]
        faults = [
            f"the robot's {what} of joint {joint + 1} is {values[joint]}"
            for what, values in (
                ("position", state.joint_positions_rad),
                ("velocity", state.joint_velocities_rad_s),
            )
            for joint in np.flatnonzero(~np.isfinite(values))
        ]
        faults += [
            f"the robot's position of joint {joint + 1} is {state.joint_positions_rad[joint]:.3f} "
            f"rad, beyond its own limits by more than {self.config.max_overshoot_rad} rad"
            for joint in np.flatnonzero(
                (state.joint_positions_rad < self._lowest)
                | (state.joint_positions_rad > self._highest)
            )
        ]
        return faults + _too_old("the robot's state", now_s - _float(state.stamp_s), most_s)

    def _tracking_faults(self, last: Motion, state: RobotState) -> list[str]:
        """Return which joints are too far from where they were sent."""
        if state.joint_positions_rad.shape != last.positions_rad.shape:
            return []
        error = np.abs(state.joint_positions_rad - last.positions_rad)
        most = self.config.max_tracking_error_rad
        return [
            f"joint {joint + 1} is {error[joint]:.3f} rad from its last target (most: {most} rad)"
            for joint in np.flatnonzero(error > most)
        ]

    def _late(self, ages: Ages, to: Literal["hold", "stop"]) -> list[str]:
        """Say what is older than it may be, to hold or to stop."""
        causes = []
        for name, age_s, watchdog in (
            ("the action", ages.action_s, self.config.action),
            *(
                (f"the frame of camera {camera}", age_s, self.config.camera)
                for camera, age_s in ages.cameras_s.items()
            ),
        ):
            most_s = watchdog.stop_after_s if to == "stop" else watchdog.hold_after_s
            causes += _too_old(name, age_s, most_s)
        return causes

    def _pose_problems(self, state: RobotState, start: ArrayLike | None) -> list[str]:
        positions, config = state.joint_positions_rad, self.config
        problems = self._filter.outside(positions)
        problems += [
            f"joint {joint + 1} moves at {state.joint_velocities_rad_s[joint]:.3f} rad/s "
            f"(most: {config.start_velocity_rad_s})"
            for joint in np.flatnonzero(
                np.abs(state.joint_velocities_rad_s) > config.start_velocity_rad_s
            )
        ]
        if start is None:
            return problems
        wanted = np.asarray(start, dtype=np.float64)
        if wanted.shape != positions.shape or not np.isfinite(wanted).all():
            return [*problems, f"the start pose is no {self._num_joints} finite numbers: {wanted}"]
        return problems + [
            f"joint {joint + 1} is {abs(positions[joint] - wanted[joint]):.3f} rad from the start "
            f"pose (most: {config.start_tolerance_rad})"
            for joint in np.flatnonzero(np.abs(positions - wanted) > config.start_tolerance_rad)
        ]

    def _grip(
        self, requested: Target, state: RobotState
    ) -> tuple[float | None, list[Intervention]]:
        """Return the gripper's width within what it can do."""
        wanted_m = requested.gripper_width_m
        if wanted_m is None:
            return None, []
        if state.gripper is None:
            return None, [_gripper_change(abs(wanted_m), "the robot has no gripper")]
        most_m = state.gripper.max_width_m
        if not math.isfinite(most_m):
            return None, [_gripper_change(abs(wanted_m), f"its greatest width is {most_m}")]
        width_m = min(max(wanted_m, 0.0), max(most_m, 0.0))
        if width_m == wanted_m:
            return width_m, []
        return width_m, [_gripper_change(abs(wanted_m - width_m), f"between 0 and {most_m} m")]

    def _difference(
        self, verdict: Verdict, requested: Target | None, motion: Motion
    ) -> tuple[Intervention, ...]:
        if requested is None:
            return ()
        change = float(np.abs(requested.joint_positions_rad - motion.positions_rad).max())
        if change == 0:
            return ()
        detail = "brakes and waits" if verdict == "hold" else "brakes and ends"
        return (Intervention(name=verdict, amount=change, unit="rad", detail=detail),)


def _float(value: object) -> float:
    """Return a number as a float; NaN for what is none, and for an integer beyond all floats."""
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except (OverflowError, ValueError):
        return math.nan


def _shown(value: object) -> str:
    try:
        return f"{value}"[:60]
    except ValueError:  # an integer of thousands of digits
        return f"{type(value).__name__} of too many digits"


def _too_old(name: str, age_s: float, most_s: float) -> list[str]:
    age_s = _float(age_s)
    if math.isnan(age_s) or age_s < -_FUTURE_S:
        return [f"{name} has an impossible age of {age_s} s: is it on another clock?"]
    if age_s > most_s:
        return [f"{name} is {age_s:.3f} s old (most: {most_s} s)"]
    return []


def _gripper_change(amount_m: float, detail: str) -> Intervention:
    return Intervention(name="gripper", amount=amount_m, unit="m", detail=detail)


__getattr__ = moved_names(
    __name__,
    {
        "Watchdog": "real_robot.safety.config:Watchdog",
    },
)
