"""Record an arm that a person guides by hand, and compute the actions from its motion.

No command is sent to the arm. The action of a time step is the action that moves the joint targets
to the positions that are measured at the next time step. The record therefore has the same form as
the record of an arm that was controlled by actions, and a policy can learn from it in the same way.
The tracking error is 0, because the targets are the measured positions. A policy that is trained
only on guided demonstrations ignores it: inputs that never vary in training have no effect.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from ..cameras.camera import Camera, CameraError, Frame
from ..control.clock import Clock, MonotonicClock
from ..control.listeners import Listeners
from ..control.signals import Interrupts
from ..episode import EpisodeRecord, Listener, Observation, Reason, Step
from ..robot import Robot, RobotError, RobotState, Target
from ..safety.layer import Decision
from ..translator import Translator
from .device import Command

_GUIDED = ("the arm is guided by hand",)
_NAME = "operator guiding the arm"
_MAX_FRAME_AGE_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tick:
    """Observation of one time step; its action is computed later."""

    stamp_s: float
    late_s: float
    observe_s: float
    frames: Mapping[str, Frame]
    state: RobotState
    # Last command to the gripper: 1 open, -1 close; None before the first command.
    gripper: float | None


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
    """Record an arm from the time when a person begins to guide it until the person releases it.

    The recording starts when the robot's mode becomes `guiding`. No motion of the arm is commanded.

    Args:
        robot: the connected robot.
        cameras: the open cameras, in the order of the translator's `interface`.
        translator: the converter between the robot and the policy's actions and observations.
        task: description of the task, as text.
        max_steps: greatest number of time steps.
        wait_s: longest time to wait until guiding starts, s.
        read: function that returns the person's commands: to the gripper, and to end the episode.
            None if the person has no device for commands.
        listeners: objects that are called with all steps at the end of the episode.
        notes: data that are added to the record; JSON must be able to represent them.
        notice: function that is called with each state that is read. Pass `SafetyLayer.notice`, so
            that a person must acknowledge a user stop before the arm moves again.
        clock: the clock of all timestamps; None uses `time.monotonic`.
    """
    clock = clock or MonotonicClock()

    def read_state() -> RobotState:
        state = robot.state()
        notice(state)
        return state

    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    ticks: list[_Tick] = []
    with Interrupts() as interrupts:
        try:
            reason, message = _follow(
                robot,
                read_state,
                cameras,
                translator,
                ticks,
                max_steps,
                wait_s,
                read,
                interrupts,
                clock,
            )
        except CameraError as error:
            reason, message = "camera", str(error)
        except RobotError as error:
            reason, message = "connection", str(error)
        except KeyboardInterrupt:
            reason, message = "interrupted", "a second Ctrl-C ended the recording at once"
        except Exception as error:  # such as a closed terminal: keep what was recorded
            reason, message = "error", f"{type(error).__name__}: {error}"
    notes = {**(notes or {}), "robot": robot.description, "guided": True}
    record = EpisodeRecord(
        task=task,
        agent=_NAME,
        weights_hash=None,
        steps=tuple(_steps(ticks, translator)),
        reason=reason,
        message=message,
        success={"success": True, "failure": False}.get(reason),
        started=started,
        notes=notes,
    )
    watching = Listeners(listeners, notes)
    watching.begin(task, _NAME)
    for step in record.steps:
        watching.step(step)
    watching.end(record)
    return record


def _follow(
    robot: Robot,
    read_state: Callable[[], RobotState],
    cameras: Sequence[Camera],
    translator: Translator,
    ticks: list[_Tick],
    max_steps: int,
    wait_s: float,
    read: Callable[[], Command] | None,
    interrupts: Interrupts,
    clock: Clock,
) -> tuple[Reason, str]:
    """Wait for guiding, then append the observation of each time step to `ticks`.

    Return the reason and the message of the end.
    """
    period_s = 1 / translator.interface.rate_hz
    until_s = clock.now_s() + wait_s
    while (mode := read_state().mode) != "guiding":
        if interrupts.name is not None:
            return "interrupted", f"{interrupts.name} ended the recording"
        if clock.now_s() > until_s:
            return "safety", f"guiding did not start within {wait_s} s: the robot is {mode}"
        clock.wait(None, clock.now_s() + period_s / 2)
    due_s = clock.now_s()
    gripper: float | None = None
    while True:
        now_s = clock.now_s()
        state = read_state()
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
    """Return the steps with their actions, computed from the observations.

    The final observation has no step: it is only used for the action of the step before.
    """
    steps: list[Step] = []
    if len(ticks) < 2:
        return steps
    translator.begin(ticks[0].state)
    for index, (tick, after) in enumerate(pairwise(ticks)):
        proprio = translator.proprio(tick.state)
        width_m = 0.0 if after.state.gripper is None else after.state.gripper.width_m
        action = translator.action_of(after.state.joint_positions_rad, width_m)
        if tick.gripper is not None:
            # Use the command, because fingers that hold an object do not reach the requested width.
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
                    target=None, verdict="hold", causes=_GUIDED, interventions=(), ended=False
                ),
                sent_rad=None,
                surprise=None,
                late_s=tick.late_s,
                timings_s={"observe": tick.observe_s},
            )
        )
        # Store the target as if it had been sent, because the next action starts from it.
        translator.sent(
            Target(
                joint_positions_rad=np.array(requested.joint_positions_rad),
                gripper_width_m=requested.gripper_width_m,
            )
        )
    return steps
