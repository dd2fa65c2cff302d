"""Control loop: it runs one episode, from the first frame until the arm is at rest.

    record = run_episode(robot, cameras, layer, translator, agent, config, task="pick", start=home)

At each time step, the loop

1. reads the newest frames and the robot state, and passes them to the agent's thread;
2. selects the action for this time step by its timestamp;
3. checks the target of the action with the safety layer, and sends the target to the arm.

The time steps have absolute deadlines. The loop does not wait for a slow agent: the age of the
newest action then grows. The safety layer first brakes and waits (`hold`), and later ends the
episode (`stop`). Whatever ends the episode, the safety layer brings the arm to rest. The record
contains the reason and a message.
"""

import dataclasses
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from envs.geometry import Floats

from ..cameras.camera import Camera, CameraError
from ..episode import (
    TRANSPORT_FAULT,
    Agent,
    EpisodeRecord,
    Listener,
    Observation,
    Reason,
    Step,
)
from ..robot import CommandRefusedError, ConnectionLostError, Robot, Target
from ..safety.layer import SafetyLayer
from ..translator import Translator
from .agent_thread import AgentThread
from .clock import Clock, MonotonicClock
from .config import LoopConfig
from .driving import Driver
from .episode_end import EpisodeEnd, stopped
from .listeners import Listeners
from .signals import Interrupts
from .success import Check, SuccessCheck
from .timing import StopWatch

_CLOSE_S = 0.5  # longest time to wait for the end of the agent's thread

Operator = Callable[[], tuple[Reason, str] | None]


def run_episode(
    robot: Robot,
    cameras: Sequence[Camera],
    layer: SafetyLayer,
    translator: Translator,
    agent: Agent,
    config: LoopConfig,
    *,
    task: str,
    start: Floats | None,
    check: Check | None = None,
    operator: Operator | None = None,
    listeners: Sequence[Listener] = (),
    notes: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> EpisodeRecord:
    """Run one episode and return its record.

    A fault of the robot, a camera or the agent raises no error: it ends the episode, and the record
    contains its reason. After Ctrl-C, SIGTERM or SIGHUP (a closed terminal), the arm brakes and the
    episode ends. A second Ctrl-C or SIGTERM stops the arm at once. In both cases the record has the
    reason `interrupted`.

    Args:
        robot: the connected robot.
        cameras: the open cameras, in the order of the translator's `interface`.
        layer: the safety layer of the robot.
        translator: the converter between the robot and the agent's actions and observations.
        agent: the agent that chooses the actions; it is not closed here.
        config: settings of the episode.
        task: description of the task, as text.
        start: pose [j] where the arm must be at the start, rad, one value per joint; None accepts
            any pose.
        check: function that returns whether the task is done now. It runs in a separate thread,
            and is called about once per time step.
        operator: function that returns reason and message if a person ends the episode, else
            None. It is called at each time step and must return at once.
        listeners: objects that are called at every time step. A listener that raises an error is
            removed, and its name is added to the notes.
        notes: data that are added to the record; JSON must be able to represent them.
        clock: the clock of all timestamps; None uses `time.monotonic`.

    Raises:
        ValueError: the names or the order of the cameras differ from the translator's `interface`.
    """
    names, expected = [camera.name for camera in cameras], translator.interface.camera_names
    if tuple(names) != tuple(expected):
        raise ValueError(f"the interface needs the cameras {list(expected)}, got {names}")
    begun = {
        **(notes or {}),
        "robot": robot.description,
        "loop": {**dataclasses.asdict(config), "rate_hz": translator.interface.rate_hz},
    }
    episode = _Episode(
        robot,
        cameras,
        layer,
        translator,
        agent,
        config,
        clock or MonotonicClock(),
        listeners,
        begun,
    )
    return episode.run(task, start, SuccessCheck(check, config.success_steps), operator)


class _Episode:
    """State of one running episode, and the steps of the control loop."""

    def __init__(
        self,
        robot: Robot,
        cameras: Sequence[Camera],
        layer: SafetyLayer,
        translator: Translator,
        agent: Agent,
        config: LoopConfig,
        clock: Clock,
        listeners: Sequence[Listener],
        notes: dict[str, Any],
    ) -> None:
        self._robot, self._cameras, self._translator = robot, cameras, translator
        self._agent, self._config, self._clock, self._notes = agent, config, clock, notes
        self._listeners = Listeners(listeners, notes)
        self._period_s = 1 / translator.interface.rate_hz
        self._driver = Driver(
            robot,
            cameras,
            layer,
            translator,
            clock,
            num_targets=config.num_targets,
            rehearsal=config.rehearsal,
        )
        self._steps: list[Step] = []
        # timestamp of the oldest frame of each observation, by the timestamp of the observation
        self._oldest_frame_s: dict[float, float] = {}
        self._begun_s = clock.now_s()

    def run(
        self, task: str, start: Floats | None, check: SuccessCheck, operator: Operator | None
    ) -> EpisodeRecord:
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._listeners.begin(task, self._agent.name)
        agent = AgentThread(
            self._agent,
            num_actions=len(self._translator.interface.action),
            period_s=self._period_s,
            ensemble_decay=self._config.ensemble_decay,
            notes=self._notes,
        )
        with Interrupts() as interrupts:
            reason, message = self._from_start_to_rest(agent, start, check, operator, interrupts)
            interrupts.settle()
            for name, worker in (("agent", agent), ("check", check)):
                if not worker.close(_CLOSE_S):
                    self._notes[f"{name}_still_busy"] = True
            if check.problem is not None:
                self._notes["check_failed"] = check.problem
            success = check.verdict(reason)
            if interrupts.name is not None and reason != "interrupted":
                message = f"{interrupts.name} after the episode had ended by {reason}: {message}"
                reason = "interrupted"
            record = EpisodeRecord(
                task=task,
                agent=self._agent.name,
                weights_hash=self._agent.weights_hash,
                steps=tuple(self._steps),
                reason=reason,
                message=message,
                success=success,
                started=started,
                notes=self._notes,
            )
            self._listeners.end(record)
        return record

    def _from_start_to_rest(
        self,
        agent: AgentThread,
        start: Floats | None,
        check: SuccessCheck,
        operator: Operator | None,
        interrupts: Interrupts,
    ) -> tuple[Reason, str]:
        """Run all time steps, then bring the arm to rest in every case.

        Return the reason and the message of the end.
        """
        reason: Reason = "error"
        message = "the episode did not begin"
        try:
            try:
                self._begin(agent, start, interrupts)
                self._loop(agent, check, operator, interrupts)
            except EpisodeEnd as end:
                reason, message = end.reason, end.message
                if reason == "policy" and (fault := agent.transport_fault()) is not None:
                    self._notes[TRANSPORT_FAULT] = fault
            except ConnectionLostError as error:
                reason, message = "connection", str(error)
            except CommandRefusedError as error:
                reason, message = self._driver.refused(error)
            except Exception as error:
                reason, message = "error", f"{type(error).__name__}: {error}"
                self._notes["traceback"] = traceback.format_exc()
            rest = self._driver.rest(self._config.rest_timeout_s)
            if rest is not None:
                self._notes["rest"] = rest
        except BaseException as error:
            self._driver.stop()
            if isinstance(error, KeyboardInterrupt):
                reason, message = "interrupted", "a second Ctrl-C stopped the arm at once"
            elif isinstance(error, Exception):
                self._notes["traceback"] = traceback.format_exc()
                message += f"; bringing the arm to rest failed: {error!r}"
            else:
                raise
        return reason, message

    def _begin(self, agent: AgentThread, start: Floats | None, interrupts: Interrupts) -> None:
        """Wait until cameras and agent are ready, then start the driver at the measured pose."""
        for camera in self._cameras:
            try:
                camera.wait(self._config.start_timeout_s)
            except CameraError as error:
                raise EpisodeEnd("camera", str(error)) from error
        self._translator.begin(self._driver.state())
        agent.begin(
            self._observe(self._clock.now_s()),
            self._config.start_timeout_s,
            interrupts.raise_if_interrupted,
        )
        self._driver.begin(start)

    def _loop(
        self,
        agent: AgentThread,
        check: SuccessCheck,
        operator: Operator | None,
        interrupts: Interrupts,
    ) -> None:
        config, clock, driver = self._config, self._clock, self._driver
        planned_s = self._begun_s = clock.now_s()
        for index in range(config.max_steps):
            now_s = clock.now_s()
            late_s = now_s - planned_s
            # Time steps whose whole period has passed are skipped.
            planned_s += math.floor(max(0.0, late_s) / self._period_s) * self._period_s
            interrupts.raise_if_interrupted()
            self._check_end(check, operator)
            watch = StopWatch(clock)
            observation = self._observe(now_s)
            watch.lap("observe")
            agent.ask(observation)
            send_s = planned_s + config.send_share * self._period_s
            failure = agent.listen(now_s, send_s, driver.wait)
            watch.lap("wait")
            self._tick(index, agent, observation, failure, late_s, watch)
            planned_s += self._period_s
            driver.wait(None, planned_s)
        if check.done_step is not None:
            raise EpisodeEnd("success", self._done(check.done_step))
        raise EpisodeEnd("time", f"{config.max_steps} steps were taken")

    def _tick(
        self,
        index: int,
        agent: AgentThread,
        observation: Observation,
        failure: str | None,
        late_s: float,
        watch: StopWatch,
    ) -> None:
        """Select an action, check its target, send the target, and record the time step.

        Raises:
            EpisodeEnd: the agent failed or ended the episode, or the safety layer stopped the arm.
        """
        proposal = agent.take()
        if proposal is not None:
            if proposal.end is not None:
                raise EpisodeEnd(*proposal.end)
            watch.note(proposal.timings_s)
        action = None if failure else agent.action(observation.stamp_s)
        is_answered = action is not None
        if action is None:  # keep the previous target; the safety layer limits for how long
            requested = Target(
                joint_positions_rad=self._translator.joint_targets_rad, gripper_width_m=None
            )
            action = np.full(len(self._translator.interface.action), np.nan, np.float32)
        else:
            requested = self._translator.target(action)
        label = action if proposal is None or proposal.label is None else proposal.label
        state = self._driver.state()
        acted_s = self._begun_s if agent.newest_s is None else agent.newest_s
        decision, _ = self._driver.decide(requested, state, acted_s=None if failure else acted_s)
        watch.lap("safety")
        sent = self._driver.send(decision)
        watch.lap("send")
        if is_answered:
            oldest_s = self._oldest_frame_s.get(acted_s, acted_s)
            watch.note({"age": self._clock.now_s() - oldest_s})
        step = Step(
            index=index,
            observation=observation,
            action=action,
            label=label,
            requested=requested,
            decision=decision,
            sent_rad=sent,
            surprise=None if proposal is None else proposal.surprise,
            late_s=late_s,
            timings_s=watch.seconds,
        )
        self._steps.append(step)
        self._listeners.step(step)
        if failure is not None:
            raise EpisodeEnd("policy", failure)
        if decision.verdict in ("stop", "end"):
            raise stopped(decision, state, self._agent.name, self._cameras)

    def _observe(self, now_s: float) -> Observation:
        frames = {}
        for camera in self._cameras:
            try:
                # accept a frame of any age: the safety layer checks the age
                frames[camera.name] = camera.read(math.inf)
            except CameraError as error:
                raise EpisodeEnd("camera", str(error)) from error
        self._oldest_frame_s[now_s] = min(
            (frame.stamp_s for frame in frames.values()), default=now_s
        )
        state = self._driver.state()
        return Observation(
            stamp_s=now_s,
            frames=frames,
            state=state,
            proprio=self._translator.proprio(state),
        )

    def _check_end(self, check: SuccessCheck, operator: Operator | None) -> None:
        """Check whether the operator ends the episode or the task is done.

        Raises:
            EpisodeEnd: the operator ends the episode, or the task is done.
        """
        if operator is not None and (requested := operator()) is not None:
            raise EpisodeEnd(*requested)
        check.update(len(self._steps))
        done, after = check.done_step, self._config.steps_after_success
        if done is not None and after is not None and len(self._steps) >= done + after:
            raise EpisodeEnd("success", self._done(done))

    def _done(self, step: int) -> str:
        return f"the task was done after {step * self._period_s:.1f} s"
