"""Safety layer between a policy and an arm: `SafetyLayer.command` checks every target.

The layer has no thread and reads no clock. Times are arguments, so that a test can simulate any
sequence of events. At each time step, `command` returns a `Decision`: the target to send, and one
of four verdicts.

    move   the requested target is sent, changed if it violates the limits or the workspace
    hold   data are stale: the arm brakes on the line that was checked, and waits for new data
    stop   there is a fault: the arm brakes in the same way, and the episode ends when it is at rest
    end    the arm does not follow targets (reflex, user stop, error): nothing is sent

After `stop` and `end`, the arm moves again only after a new `begin`. After a user stop, `begin`
fails until `acknowledge` is called on the input of a person. The same is true after a reflex, if
automatic recovery is not allowed. `begin`, `command` and `notice` look for both events in the
states that they receive. Other code that reads the robot's states must pass them to `notice`.

This layer is for research. It does not replace the user stop, a wired button in a person's hand.
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
from ..robot import HOME_THE_HAND, MODES, RobotState, Target
from .attention import Attention
from .config import SafetyConfig
from .motion import Intervention, Motion, MotionFilter
from .workspace import Enclosure

Verdict = Literal["move", "hold", "stop", "end"]

# A timestamp of another thread may be slightly later than the time that the loop has read.
_FUTURE_S = 0.005


class UnsafeStartError(ValueError):
    """Error: an episode must not begin; the message lists all reasons."""


class RecoveryRefusedError(ValueError):
    """Error: the robot must not recover without a person; the message has the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ages:
    """Ages of the action and of the camera frames, s.

    Attributes:
        action_s: time since the observation from which the action was computed. For an action
            without an observation, it is the time since the action was computed.
        cameras_s: time since the last new frame of each camera, by name (see `Camera.age_s`). The
            age also grows while a camera is frozen or disconnected.
    """

    action_s: float
    cameras_s: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decision:
    """Decision of the safety layer at one time step.

    Attributes:
        target: the target to send; None if nothing may be sent.
        verdict: `move`, `hold`, `stop` or `end`; see the description of the module.
        causes: the reasons for `hold`, `stop` or `end`, as text; empty for `move`.
        interventions: the changes of the requested target, each with its reason and amount; empty
            if the requested target is sent without change, or nothing is sent.
        ended: True if the episode is over, because the arm has come to rest after `stop`, or does
            not follow targets.
    """

    target: Target | None
    verdict: Verdict
    causes: tuple[str, ...]
    interventions: tuple[Intervention, ...]
    ended: bool


class SafetyLayer:
    """Safety layer of one robot; at each time step it decides which target is sent.

    Attributes:
        config: limits on the motion, the workspace and the ages of data.
        attention: record of user stops and reflexes that no person has acknowledged; all safety
            layers of one arm share this object.
    """

    def __init__(
        self,
        config: SafetyConfig,
        limits: JointLimits,
        arm: Arm,
        *,
        attention: Attention | None = None,
    ) -> None:
        """Create the layer; `begin` must be called before each episode.

        Args:
            config: limits on the motion, the workspace and the ages of data.
            limits: joint limits, read from the connected robot.
            arm: kinematics of the arm, with as many joints as `limits`.
            attention: the `attention` of another safety layer of the same arm; None for the first
                layer of an arm.

        Raises:
            ValueError: the limits and the arm have different numbers of joints.
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
        # The motion that was sent before `_now`, and its time.
        self._before: tuple[Motion, float] | None = None
        self._now: tuple[Motion, float] | None = None
        self._final: tuple[Verdict, tuple[str, ...]] | None = None
        self._num_recoveries = 0

    def begin(self, state: RobotState, *, start: ArrayLike | None, now_s: float) -> None:
        """Check that an episode may begin, and take the measured pose as the first target.

        Args:
            state: the newest state of the robot.
            start: start pose [j] that the arm must be near, rad, one value per joint; None accepts
                any pose.
            now_s: the current time, s, on the clock of the timestamps.

        Raises:
            UnsafeStartError: the episode must not begin; the error lists all reasons.
        """
        self._before = self._now = None
        self.notice(state)
        problems = [f"the robot is {state.mode}: it {MODES[state.mode]}"]
        if state.mode in ("idle", "moving"):
            problems = []
        problems += [f"the robot reports {error}" for error in state.errors]
        if (cause := self.attention.cause) is not None:
            problems.append(f"{cause}: a person must check the arm and acknowledge() first")
        problems += self._state_faults(state, now_s, "hold")
        if state.gripper is not None and not state.gripper.knows_its_range:
            problems.append(HOME_THE_HAND)
        if not problems:
            problems = self._pose_problems(state, start)
        if problems:
            raise UnsafeStartError("the episode must not begin: " + "; ".join(problems))
        self._final = None
        # The first target is sent one period later, or the arm may take one period to reach it.
        earlier_s = now_s - self.config.motion.period_s
        self._before = self._now = (self._filter.rest(state.joint_positions_rad), earlier_s)

    def command(self, target: Target, state: RobotState, ages: Ages, now_s: float) -> Decision:
        """Check a requested target, and return the decision about the target to send.

        The call is idempotent: if `command` is called a second time with the same `now_s`, and the
        target of the first decision is requested, the second decision has the same target.

        Args:
            target: the requested target. A target with NaN, infinite values or a wrong shape ends
                the episode.
            state: the newest state of the robot.
            ages: the ages of the action and of the camera frames.
            now_s: the current time, s, on the clock of the timestamps.

        Raises:
            RuntimeError: `begin` was not called.
        """
        if self._now is None or self._before is None:
            raise RuntimeError("call begin() before command()")
        self.notice(state)
        now_s = _float(now_s)
        if self._final is not None and self._final[0] == "end":
            return self._ended()
        if halted := self._halted(state):
            self._final = ("end", halted)
            return self._ended()
        last, last_s = self._before if now_s == self._now[1] else self._now
        requested, faults = self._read(target)
        faults += self._state_faults(state, now_s, "stop")
        faults += self._tracking_faults(last, state)
        faults += self._stale(ages, "stop")
        elapsed_s = now_s - last_s
        if not elapsed_s > 0:
            faults.append(f"the clock does not advance: {now_s} s follows {last_s} s")
            elapsed_s = self.config.motion.period_s
        if faults and self._final is None:
            self._final = ("stop", tuple(faults))
        stale = self._stale(ages, "hold")
        stale += self._state_faults(state, now_s, "hold")
        if self._final is None and not stale and requested is not None:
            motion, changes = self._filter.step(
                last, requested.joint_positions_rad, state.joint_positions_rad, elapsed_s
            )
            width_m, gripper_changes = self._grip(requested, state)
            verdict, causes = "move", ()
            interventions = (*changes, *gripper_changes)
        else:
            verdict, causes = self._final or ("hold", tuple(stale))
            motion = self._filter.brake(last, min(elapsed_s, self.config.motion.period_s))
            width_m = None
            interventions = self._difference(verdict, requested, motion)
        self._before, self._now = (last, last_s), (motion, now_s)
        return Decision(
            # Copy the target: the caller may write into it, and the next decision begins at it.
            target=Target(joint_positions_rad=motion.positions_rad.copy(), gripper_width_m=width_m),
            verdict=verdict,
            causes=causes,
            interventions=interventions,
            ended=verdict == "stop" and motion.at_rest,
        )

    def note_partial_send(self, goal_rad: Floats, share: float) -> None:
        """Record that only a part of the way to the newest target was sent to the arm.

        The way is the straight line in joint space from the previous target to the newest target.
        Call this method if a target was divided into steps, and not all of the steps were sent in
        time. The next decision then begins at the position that was sent last. It is on the line
        that `command` has already checked, so the arm can still stop within the workspace.

        Args:
            goal_rad: the target at the end of the line [j], rad, one value per joint. If it is not
                the newest target, the call has no effect.
            share: fraction of the line that was sent, in [0, 1].
        """
        if self._now is None or self._before is None:
            return
        (before, _), (last, last_s) = self._before, self._now
        if not np.array_equal(goal_rad, last.positions_rad):
            return
        line = last.positions_rad - before.positions_rad
        position = before.positions_rad + min(max(share, 0.0), 1.0) * line
        self._now = (replace(last, positions_rad=position), last_s)

    def notice(self, state: RobotState) -> None:
        """Record a user stop or a reflex, if a state that other code has read shows one."""
        self.attention.notice(state)

    def acknowledge(self) -> None:
        """Record that a person has checked the arm, and reset the count of recoveries.

        Call this only after the input of a person, never from a loop.
        """
        self.attention.acknowledge()
        self._num_recoveries = 0

    def allow_recovery(self) -> None:
        """Permit the robot to recover from a reflex without a person, and count the recovery.

        The counted recoveries are limited by `max_recoveries`.

        Raises:
            RecoveryRefusedError: there was no reflex, a person must acknowledge a user stop, or
                `max_recoveries` is reached.
        """
        most, attention = self.config.max_recoveries, self.attention
        if attention.user_stopped or not attention.reflexed:
            raise RecoveryRefusedError(
                attention.cause or "there was no reflex in this episode: nothing to recover from"
            )
        if self._num_recoveries >= most:
            raise RecoveryRefusedError(
                f"the robot has recovered from {self._num_recoveries} of max_recoveries={most} "
                "reflexes: a person must check the arm and acknowledge()"
            )
        self._num_recoveries += 1
        attention.recover()

    def _halted(self, state: RobotState) -> tuple[str, ...]:
        """Return the reasons why the arm does not follow targets; empty if it follows them."""
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
        """Return the requested target as float arrays, or None and a list of what is invalid."""
        try:
            # Copy the array, because the policy may write into it later.
            positions = np.array(target.joint_positions_rad, dtype=np.float64)
        # Catch every error: an exception here would leave the arm without braking.
        except Exception as error:
            return None, [f"the action is not a list of numbers: {error}"]
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

    def _state_faults(
        self, state: RobotState, now_s: float, to: Literal["hold", "stop"]
    ) -> list[str]:
        """Return what is invalid in the state of arm and gripper: age, NaN, shape or position.

        Args:
            state: the state.
            now_s: the current time, s.
            to: `hold` or `stop`: which of the two age limits is used.
        """
        if state.joint_positions_rad.shape != (self._num_joints,):
            return [
                f"the robot reports {len(state.joint_positions_rad)} joints, "
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
        ages = [("the robot's state", state.stamp_s, self.config.state)]
        if state.gripper is not None:
            error = "" if state.gripper.error is None else f" ({state.gripper.error})"
            ages.append((f"the gripper's state{error}", state.gripper.stamp_s, self.config.gripper))
        for name, stamp_s, watchdog in ages:
            faults += _too_old(name, now_s - _float(stamp_s), watchdog.limit_s(to))
        return faults

    def _tracking_faults(self, last: Motion, state: RobotState) -> list[str]:
        """Return one text for each joint that is too far from the newest target that was sent."""
        if state.joint_positions_rad.shape != last.positions_rad.shape:
            return []
        error = np.abs(state.joint_positions_rad - last.positions_rad)
        most = self.config.max_tracking_error_rad
        return [
            f"joint {joint + 1} is {error[joint]:.3f} rad from its last target (at most {most} rad)"
            for joint in np.flatnonzero(error > most)
        ]

    def _stale(self, ages: Ages, to: Literal["hold", "stop"]) -> list[str]:
        """Return one text for each kind of data that is too old.

        Args:
            ages: the ages of the data.
            to: `hold` or `stop`: which of the two age limits is used.
        """
        causes = []
        for name, age_s, watchdog in (
            ("the action", ages.action_s, self.config.action),
            *(
                (f"the frame of camera {camera}", age_s, self.config.camera)
                for camera, age_s in ages.cameras_s.items()
            ),
        ):
            causes += _too_old(name, age_s, watchdog.limit_s(to))
        return causes

    def _pose_problems(self, state: RobotState, start: ArrayLike | None) -> list[str]:
        positions, config = state.joint_positions_rad, self.config
        problems = self._filter.outside(positions)
        problems += [
            f"joint {joint + 1} moves at {state.joint_velocities_rad_s[joint]:.3f} rad/s "
            f"(at most {config.start_velocity_rad_s})"
            for joint in np.flatnonzero(
                np.abs(state.joint_velocities_rad_s) > config.start_velocity_rad_s
            )
        ]
        if start is None:
            return problems
        goal = np.asarray(start, dtype=np.float64)
        if goal.shape != positions.shape or not np.isfinite(goal).all():
            return [
                *problems,
                f"the start pose needs {self._num_joints} finite numbers: {goal}",
            ]
        return problems + [
            f"joint {joint + 1} is {abs(positions[joint] - goal[joint]):.3f} rad from the start "
            f"pose (at most {config.start_tolerance_rad})"
            for joint in np.flatnonzero(np.abs(positions - goal) > config.start_tolerance_rad)
        ]

    def _grip(
        self, requested: Target, state: RobotState
    ) -> tuple[float | None, list[Intervention]]:
        """Limit the requested gripper width to the gripper's range.

        Return the width, m, or None if none is sent, and the changes of the request.
        """
        requested_m = requested.gripper_width_m
        if requested_m is None:
            return None, []
        if state.gripper is None:
            return None, [_gripper_change(abs(requested_m), "the robot has no gripper")]
        most_m = state.gripper.max_width_m
        if not state.gripper.knows_its_range:
            return None, [
                _gripper_change(abs(requested_m), f"its reported greatest width is {most_m}")
            ]
        width_m = min(max(requested_m, 0.0), most_m)
        if width_m == requested_m:
            return width_m, []
        return width_m, [_gripper_change(abs(requested_m - width_m), f"between 0 and {most_m} m")]

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
    """Return a value as a float; NaN if it is not a number, or too large for a float."""
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
        return [f"{name} has an invalid age of {age_s} s: is its timestamp of another clock?"]
    if age_s > most_s:
        return [f"{name} is {age_s:.3f} s old (at most {most_s} s)"]
    return []


def _gripper_change(amount_m: float, detail: str) -> Intervention:
    return Intervention(name="gripper", amount=amount_m, unit="m", detail=detail)


__getattr__ = moved_names(
    __name__,
    {
        "Watchdog": "real_robot.safety.config:Watchdog",
    },
)
