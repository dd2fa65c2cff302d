"""The control loop: one episode of an agent on an arm, from the first frame to rest.

    record = run_episode(robot, cameras, layer, translator, agent, config, task="pick", start=home)

Each tick: newest frames and state -> the agent, in a thread of its own -> its action, blended by
time -> the safety layer -> the arm. Ticks have absolute deadlines. An agent that is late is not
waited for: ages grow, and the safety layer holds, brakes and stops. Whatever happens, the arm is
brought to rest through the safety layer, and the record comes back with the reason and its words.
"""

import dataclasses
import math
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..cameras.camera import Camera, CameraError
from ..episode import (
    Agent,
    EpisodeRecord,
    Listener,
    Observation,
    Proposal,
    Reason,
    Step,
)
from ..robot import CommandRefusedError, ConnectionLostError, Floats, Robot, RobotState, Target
from ..safety.layer import Ages, Decision, SafetyLayer, UnsafeStartError
from ..translator import Translator
from .chunks import Chunks
from .clock import Clock, MonotonicClock
from .config import LoopConfig
from .episode_end import EpisodeEnd, halted, stopped
from .sending import Sender, bring_to_rest
from .signals import Interrupts
from .success import Check, SuccessCheck
from .timing import StopWatch
from .worker import Worker

_CLOSE_S = 0.5  # how long an agent's thread may take to end

Operator = Callable[[], tuple[Reason, str] | None]
_Asked = Worker[tuple[bool, Observation], Proposal | None]


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
    """Run one episode and give its record, however it ends. It raises for no fault of the world.

    While it runs, Ctrl-C and SIGTERM end the episode with a braking arm, and a second one stops the
    arm at once; the record comes back either way, with the reason `interrupted`.

    Args:
        robot: connected.
        cameras: open, those of the interface in its order.
        layer: the robot's safety layer.
        translator: of the robot and the agent's interface.
        agent: chooses the actions; closed by its owner, not here.
        config: how.
        task: what is to be done, in words.
        start: [j] the pose where the arm must be; None where any will do.
        check: says whether the task is done now; asked once a tick, in a thread of its own.
        operator: says whether a person wants to end the episode, and how it went; called at each
            tick, must return at once.
        listeners: hear of every step. One that raises is left out from then on, and noted.
        notes: plain data to go into the record.
        clock: that of all stamps; None: `time.monotonic`.

    Raises:
        ValueError: cameras that are not those of the interface.
    """
    names, wanted = [camera.name for camera in cameras], translator.interface.camera_names
    if tuple(names) != tuple(wanted):
        raise ValueError(f"the interface has the cameras {list(wanted)}, these are {names}")
    episode = _Episode(
        robot, cameras, layer, translator, agent, config, clock or MonotonicClock(), listeners
    )
    return episode.run(task, start, check, operator, dict(notes or {}))


class _Episode:
    """The state of one episode."""

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
    ) -> None:
        self._robot, self._cameras, self._layer = robot, cameras, layer
        self._translator, self._agent, self._config = translator, agent, config
        self._clock, self._listeners = clock, list(listeners)
        self._period_s = 1 / translator.interface.rate_hz
        self._num_actions = len(translator.interface.action)
        self._chunks = Chunks(self._period_s, config.ensemble_decay)
        self._steps: list[Step] = []
        self._notes: dict[str, Any] = {}
        self._sender: Sender | None = None  # from the moment when the arm may move
        self._proposal: Proposal | None = None  # the newest, since the last tick
        self._begun_s = self._decided_s = clock.now_s()

    def run(
        self,
        task: str,
        start: Floats | None,
        check: Check | None,
        operator: Operator | None,
        notes: dict[str, Any],
    ) -> EpisodeRecord:
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._notes = {
            **notes,
            "robot": self._robot.description,
            "loop": {**dataclasses.asdict(self._config), "rate_hz": 1 / self._period_s},
        }
        self._tell("begin", task, self._agent.name)
        asked = Worker(self._answer, f"agent {self._agent.name}")
        checked = SuccessCheck(check, self._config.success_steps)
        reason, message = "error", "the episode did not begin"
        with Interrupts() as interrupts:
            try:
                try:
                    self._begin(asked, start)
                    self._loop(asked, checked, operator, interrupts)
                except EpisodeEnd as end:
                    reason, message = end.reason, end.message
                except ConnectionLostError as error:
                    reason, message = "connection", str(error)
                except CommandRefusedError as error:
                    reason, message = self._refused(error)
                except Exception as error:
                    reason, message = "error", f"{type(error).__name__}: {error}"
                    self._notes["traceback"] = traceback.format_exc()
                self._rest()
            except BaseException as error:
                if self._sender is not None:
                    self._robot.stop()
                if isinstance(error, KeyboardInterrupt):
                    reason, message = "interrupted", "a second Ctrl-C stopped the arm at once"
                elif isinstance(error, Exception):
                    self._notes["traceback"] = traceback.format_exc()
                    message += f"; bringing the arm to rest failed: {error!r}"
                else:
                    raise
        for name, worker in (("agent", asked), ("check", checked)):
            if not worker.close(_CLOSE_S):
                self._notes[f"{name}_still_busy"] = True
        if checked.problem is not None:
            self._notes["check_failed"] = checked.problem
        record = EpisodeRecord(
            task=task,
            agent=self._agent.name,
            weights_hash=self._agent.weights_hash,
            steps=tuple(self._steps),
            reason=reason,
            message=message,
            success=checked.verdict(reason),
            started=started,
            notes=self._notes,
        )
        self._tell("end", record)
        return record

    def _answer(self, question: tuple[bool, Observation]) -> Proposal | None:
        """Ask the agent; in its thread."""
        is_first, observation = question
        if is_first:
            self._agent.reset(observation)
            return None
        return self._agent.act(observation)

    def _begin(self, asked: _Asked, start: Any) -> None:
        """Wait for frames and agent, then let the safety layer look at the start."""
        for camera in self._cameras:
            try:
                camera.wait(self._config.start_timeout_s)
            except CameraError as error:
                raise EpisodeEnd("camera", str(error)) from error
        state = self._robot.state()
        self._translator.begin(state)
        asked.ask((True, self._observe(self._clock.now_s())))
        if not asked.news.wait(self._config.start_timeout_s):
            raise EpisodeEnd(
                "policy",
                f"{self._agent.name} was not ready to begin within {self._config.start_timeout_s} "
                "s",
            )
        try:
            asked.take()
        except Exception as error:
            raise EpisodeEnd("policy", self._failed(error)) from error
        state = self._robot.state()
        try:
            self._layer.begin(state, start=start, now_s=self._clock.now_s())
        except UnsafeStartError as error:
            raise EpisodeEnd(halted(state) or "safety", str(error)) from error
        self._translator.begin(state)
        if not self._config.rehearsal:
            self._sender = Sender(
                self._robot,
                self._clock,
                state.joint_positions_rad,
                self._period_s,
                self._config.num_targets,
            )

    def _loop(
        self,
        asked: _Asked,
        checked: SuccessCheck,
        operator: Operator | None,
        interrupts: Interrupts,
    ) -> None:
        config, clock = self._config, self._clock
        planned_s = self._begun_s = clock.now_s()
        for index in range(config.max_steps):
            now_s = clock.now_s()
            late_s = now_s - planned_s
            # A tick that was missed altogether is not made up for.
            planned_s += math.floor(max(0.0, late_s) / self._period_s) * self._period_s
            if interrupts.name is not None:
                raise EpisodeEnd("interrupted", f"{interrupts.name} ended the episode")
            self._ask_people(checked, operator)
            watch = StopWatch(clock)
            observation = self._observe(now_s)
            watch.lap("observe")
            asked.ask((False, observation))
            send_s = planned_s + config.send_share * self._period_s
            failure = self._listen(asked, now_s, send_s)
            watch.lap("wait")
            self._tick(index, observation, failure, late_s, watch)
            planned_s += self._period_s
            self._wait(None, planned_s)
        if checked.done_step is not None:
            raise EpisodeEnd("success", self._done(checked.done_step))
        raise EpisodeEnd("time", f"{config.max_steps} steps were taken")

    def _listen(self, asked: _Asked, stamp_s: float, until_s: float) -> str | None:
        """Take in the agent's answers until it is time to send; say what failed."""
        while True:
            came = self._wait(asked.news, until_s)
            try:
                proposals = [self._checked_proposal(answer) for answer in asked.take()]
            except Exception as error:
                return self._failed(error)
            for proposal in proposals:
                self._chunks.add(proposal)
                self._proposal = proposal
                if proposal.end is not None:
                    return None
                if proposal.observed_s >= stamp_s:
                    self._wait(None, until_s)
                    return None
            # after an answer to an older observation the newest may still come in time
            if not came:
                return None

    def _tick(
        self,
        index: int,
        observation: Observation,
        failure: str | None,
        late_s: float,
        watch: StopWatch,
    ) -> None:
        """Decide and send; keep the step; end the episode if that is what it came to."""
        proposal, self._proposal = self._proposal, None
        if proposal is not None:
            if proposal.end is not None:
                raise EpisodeEnd(*proposal.end)
            watch.note(proposal.timings_s)
        action = None if failure else self._chunks.action(observation.stamp_s)
        if action is None:  # stay where we are; how long is the safety layer's business
            wish = Target(
                joint_positions_rad=self._translator.joint_targets_rad, gripper_width_m=None
            )
            action = np.full(self._num_actions, np.nan, np.float32)
        else:
            wish = self._translator.target(action)
        label = action if proposal is None or proposal.label is None else proposal.label
        state = self._robot.state()
        decision, now_s = self._decide(wish, state, failed=failure is not None)
        watch.lap("safety")
        sent = self._send(decision)
        watch.lap("send")
        oldest_s = min([frame.stamp_s for frame in observation.frames.values()], default=now_s)
        watch.note({"age": self._clock.now_s() - oldest_s})
        step = Step(
            index=index,
            observation=observation,
            action=action,
            label=label,
            wish=wish,
            decision=decision,
            sent_rad=sent,
            surprise=None if proposal is None else proposal.surprise,
            late_s=late_s,
            timings_s=watch.seconds,
        )
        self._steps.append(step)
        self._tell("step", step)
        if failure is not None:
            raise EpisodeEnd("policy", failure)
        if decision.verdict in ("stop", "end"):
            raise stopped(decision, state, self._agent.name, self._cameras)

    def _decide(self, wish: Target, state: RobotState, *, failed: bool) -> tuple[Decision, float]:
        now_s = self._decided_s = self._clock.now_s()
        if self._config.rehearsal:
            # Nothing moves, so each tick is the first one from where the arm is.
            try:
                self._layer.begin(state, start=None, now_s=now_s)
            except UnsafeStartError as error:
                raise EpisodeEnd(halted(state) or "safety", str(error)) from error
        newest_s = self._begun_s if self._chunks.newest_s is None else self._chunks.newest_s
        ages = Ages(
            action_s=math.inf if failed else max(0.0, now_s - newest_s),
            cameras_s={camera.name: camera.age_s() for camera in self._cameras},
        )
        return self._layer.command(wish, state, ages, now_s), now_s

    def _send(self, decision: Decision) -> Floats | None:
        target = decision.target
        if target is None or self._sender is None:
            if self._sender is None:
                self._translator.begin(self._robot.state())
            return None
        sent = self._sender.send(target.joint_positions_rad)
        if target.gripper_width_m is not None:
            self._robot.move_gripper(target.gripper_width_m)
        self._translator.sent(target)
        return sent

    def _observe(self, now_s: float) -> Observation:
        frames = {}
        for camera in self._cameras:
            try:
                # however old: its age is for the safety layer to judge
                frames[camera.name] = camera.read(math.inf)
            except CameraError as error:
                raise EpisodeEnd("camera", str(error)) from error
        state = self._robot.state()
        return Observation(
            stamp_s=now_s,
            frames=frames,
            state=state,
            proprio=self._translator.proprio(state),
        )

    def _checked_proposal(self, answer: Proposal | None) -> Proposal:
        if not isinstance(answer, Proposal):
            raise ValueError(f"an answer must be a Proposal, got {type(answer).__name__}")
        shape, wanted = answer.actions.shape[1:], (self._num_actions,)
        if shape != wanted:
            raise ValueError(f"an action must have shape {wanted}, got {shape}")
        if answer.label is not None and answer.label.shape != wanted:
            raise ValueError(f"a label must have shape {wanted}, got {answer.label.shape}")
        return answer

    def _ask_people(self, checked: SuccessCheck, operator: Operator | None) -> None:
        """End the episode if the operator wants to, or the task has been done for long enough."""
        if operator is not None and (wish := operator()) is not None:
            raise EpisodeEnd(*wish)
        checked.look(len(self._steps))
        done, after = checked.done_step, self._config.steps_after_success
        if done is not None and after is not None and len(self._steps) >= done + after:
            raise EpisodeEnd("success", self._done(done))

    def _done(self, step: int) -> str:
        return f"the task was done after {step * self._period_s:.1f} s"

    def _refused(self, error: CommandRefusedError) -> tuple[Reason, str]:
        """Say why the robot does not take a command, as its state tells."""
        try:
            state = self._robot.state()
        except ConnectionLostError as lost:
            return "connection", f"{error}; then: {lost}"
        causes = [f"the robot reports {name}" for name in state.errors]
        # A second look through the layer, so that it knows what it must ask a person about.
        with_layer = self._sender is not None and not self._config.rehearsal
        if with_layer:
            hold = Target(joint_positions_rad=state.joint_positions_rad, gripper_width_m=None)
            self._decide(hold, state, failed=True)
        return halted(state) or "reflex", "; ".join([str(error), *causes])

    def _failed(self, error: BaseException) -> str:
        self._notes["traceback"] = "".join(traceback.format_exception(error))
        return f"{self._agent.name} failed: {type(error).__name__}: {error}"

    def _rest(self) -> None:
        """Bring the arm to rest, if it may have been moved, and note how that went."""
        if self._sender is None:
            return
        stay = Target(joint_positions_rad=self._translator.joint_targets_rad, gripper_width_m=None)

        def brake() -> Decision:
            # Nobody acts any more: to the safety layer the action is as old as can be.
            return self._decide(stay, self._robot.state(), failed=True)[0]

        self._notes["rest"] = bring_to_rest(
            self._robot,
            self._sender,
            self._clock,
            brake,
            decided_s=self._decided_s,
            period_s=self._period_s,
            timeout_s=self._config.rest_timeout_s,
        )

    def _wait(self, news: threading.Event | None, until_s: float) -> bool:
        waits = self._clock if self._sender is None else self._sender
        return waits.wait(news, until_s)

    def _tell(self, event: str, *arguments: Any) -> None:
        for listener in list(self._listeners):
            try:
                if event == "begin":
                    listener.begin(*arguments)
                elif event == "step":
                    listener.step(*arguments)
                else:
                    listener.end(*arguments)
            # A viewer's trouble is no reason to leave an arm alone.
            except Exception as error:
                self._listeners.remove(listener)
                name = type(listener).__name__
                self._notes.setdefault("listeners_lost", []).append(f"{name}: {error}")
