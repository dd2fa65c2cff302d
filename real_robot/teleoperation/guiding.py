"""A person leads the arm by hand: nothing is sent, and actions are made of the motion afterwards.

The action of a tick is the one that would have brought the stored target to where the hand brought
the joints by the next tick. So the record is like any other's, and a policy learns from it as from
an arm that was driven there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from ..cameras.camera import Camera, CameraError, Frame
from ..control.clock import Clock, MonotonicClock
from ..control.signals import Interrupts
from ..episode import EpisodeRecord, Listener, Observation, Reason, Step
from ..robot import Robot, RobotError, RobotState, Target
from ..safety.layer import Decision
from ..translator import Translator
from .device import Command

_LED = ("the arm is led by hand",)
_NAME = "operator who leads the arm"
_MAX_FRAME_AGE_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tick:
    """What was there at a tick, before it is known what came next."""

    stamp_s: float
    late_s: float
    observe_s: float
    frames: Mapping[str, Frame]
    state: RobotState
    gripper: float | None  # the last command, 1 open and -1 closed; None before the first


def record_guided(
    robot: Robot,
    cameras: Sequence[Camera],
    translator: Translator,
    *,
    task: str,
    max_steps: int,
    wait_s: float,
    read: Callable[[], Command] | None = None,
    listeners: Sequence[Listener] = (),
    notes: Mapping[str, Any] | None = None,
    notice: Callable[[RobotState], object] = lambda _: None,
    clock: Clock | None = None,
) -> EpisodeRecord:
    """Record an arm while its mode is `guiding`, until the person lets go; send no motion.

    Args:
        robot: connected.
        cameras: open, those of the interface in its order.
        translator: of the robot and the interface.
        task: what is done, in words.
        max_steps: most ticks.
        wait_s: for the person to begin; before that nothing is recorded.
        read: says what the person wants of the gripper, and how it ended; None where the hand alone
            says.
        listeners: hear of the episode at its end.
        notes: plain data to go into the record.
        notice: is shown each state that is read: `SafetyLayer.notice`, so that a user stop in it is
            acknowledged before anything moves.
        clock: that of all stamps; None: `time.monotonic`.
    """
    clock = clock or MonotonicClock()

    def look() -> RobotState:
        state = robot.state()
        notice(state)
        return state

    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    ticks: list[_Tick] = []
    with Interrupts() as interrupts:
        try:
            reason, message = _follow(
                robot, look, cameras, translator, ticks, max_steps, wait_s, read, interrupts, clock
            )
        except CameraError as error:
            reason, message = "camera", str(error)
        except RobotError as error:
            reason, message = "connection", str(error)
        except KeyboardInterrupt:
            reason, message = "interrupted", "a second Ctrl-C ended the recording at once"
    record = EpisodeRecord(
        task=task,
        agent=_NAME,
        weights_hash=None,
        steps=tuple(_steps(ticks, translator)),
        reason=reason,
        message=message,
        success={"success": True, "failure": False}.get(reason),
        started=started,
        notes={**(notes or {}), "robot": robot.description, "guided": True},
    )
    for listener in listeners:
        listener.begin(task, _NAME)
        for step in record.steps:
            listener.step(step)
        listener.end(record)
    return record


def _follow(
    robot: Robot,
    look: Callable[[], RobotState],
    cameras: Sequence[Camera],
    translator: Translator,
    ticks: list[_Tick],
    max_steps: int,
    wait_s: float,
    read: Callable[[], Command] | None,
    interrupts: Interrupts,
    clock: Clock,
) -> tuple[Reason, str]:
    """Keep what there is at each tick; say how it ended."""
    period_s = 1 / translator.interface.rate_hz
    until_s = clock.now_s() + wait_s
    while (mode := look().mode) != "guiding":
        if interrupts.name is not None:
            return "interrupted", f"{interrupts.name} ended the recording"
        if clock.now_s() > until_s:
            return "safety", f"nobody led the arm within {wait_s} s: it is {mode}"
        clock.wait(None, clock.now_s() + period_s / 2)
    due_s = clock.now_s()
    gripper: float | None = None
    while True:
        now_s = clock.now_s()
        state = look()
        if state.mode in ("reflex", "user_stopped") or state.errors:
            ended: Reason = "user_stop" if state.mode == "user_stopped" else "reflex"
            return ended, f"the robot is {state.mode}: {', '.join(state.errors)}"
        frames = {camera.name: camera.read(_MAX_FRAME_AGE_S) for camera in cameras}
        command = None if read is None else read()
        if command is not None and command.gripper is not None and state.gripper is not None:
            gripper = command.gripper
            robot.move_gripper(state.gripper.max_width_m * (gripper + 1) / 2)
        ticks.append(
            _Tick(
                stamp_s=now_s,
                late_s=now_s - due_s,
                observe_s=clock.now_s() - now_s,
                frames=frames,
                state=state,
                gripper=gripper,
            )
        )
        if state.mode != "guiding":
            return "operator", "the person let go of the arm"
        if interrupts.name is not None:
            return "interrupted", f"{interrupts.name} ended the recording"
        if command is not None and command.end is not None:
            return command.end
        if len(ticks) > max_steps:
            return "time", f"{max_steps} steps were recorded"
        due_s += period_s
        clock.wait(None, due_s)


def _steps(ticks: Sequence[_Tick], translator: Translator) -> list[Step]:
    """Make steps of ticks; the last one tells only where the one before it led."""
    steps: list[Step] = []
    if len(ticks) < 2:
        return steps
    translator.begin(ticks[0].state)
    for index, (tick, after) in enumerate(pairwise(ticks)):
        proprio = translator.proprio(tick.state)
        width_m = 0.0 if after.state.gripper is None else after.state.gripper.width_m
        action = translator.action_of(after.state.joint_positions_rad, width_m)
        if tick.gripper is not None:
            # fingers that hold something are not where they were told to go
            action[-1] = tick.gripper
        requested = translator.target(action)
        steps.append(
            Step(
                index=index,
                observation=Observation(
                    stamp_s=tick.stamp_s, frames=tick.frames, state=tick.state, proprio=proprio
                ),
                action=action,
                label=action,
                requested=requested,
                decision=Decision(
                    target=None, verdict="hold", causes=_LED, interventions=(), ended=False
                ),
                sent_rad=None,
                surprise=None,
                late_s=tick.late_s,
                timings_s={"observe": tick.observe_s},
            )
        )
        # as if it had been sent: the next action goes on from there
        translator.sent(
            Target(
                joint_positions_rad=np.array(requested.joint_positions_rad),
                gripper_width_m=requested.gripper_width_m,
            )
        )
    return steps
