"""Run episodes: who acts, what is seen, what is kept, and where the time goes.

Episodes run in groups. A group's environments go in lockstep, so that the frames of all of them and
of all cameras are tokenised and embedded in one call, each exactly once; an episode that has ended
leaves the group. A group is one task for one worker process with an encoder of its own: nothing
passes between processes while it runs, and on few cores that is quicker than a vector environment
whose workers wait for the encoder and the other way round: measured on 2 cores, 54 steps a second
against 44 with `AsyncVectorEnv`, 40 in one process and 27 one frame at a time
(benchmarks/dagger_collect.py).

A group's result depends on its task alone, not on who ran it or what ran before, so a run that was
killed goes on to the same numbers.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from envs.interface import Interface
from toto_robot.device import num_cpus
from toto_robot.encoders.contract import Codes, compress_each

from ..demonstrations.episode import Episode
from ..environment import EnvConfig, interface_of, make_env
from ..policy import Policy
from ..student import StudentPolicy, load_student
from ..teacher_policy import choose_expert
from ..vision import ObservationEmbedder, VisionConfig

STAGES = ("start-up", "environment and rendering", "tokenizer", "transformer", "expert", "student")

Mixing = Literal["step", "episode"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """Say how episodes are spread over the machine.

    Attributes:
        num_workers: worker processes; 0: none, all in this one; None: one for each core.
        group: episodes that one worker runs in lockstep.
    """

    num_workers: int | None
    group: int

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if self.group < 1:
            raise ValueError(f"group must be at least 1, got {self.group}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Theatre:
    """Where episodes happen, and with which eyes: all that a worker must know beforehand.

    Attributes:
        env: the environment.
        vision: the eyes.
        privileged: whether the expert is there, to act or to label.
        device: where the encoder runs.
        teacher: checkpoint of the teacher that is the expert; None: the scripted one.
    """

    env: EnvConfig
    vision: VisionConfig
    privileged: bool
    device: str
    teacher: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A group of episodes.

    Attributes:
        seeds: the environment's seed of each.
        policy: checkpoint of the student; None: the expert acts throughout.
        beta: probability that the expert acts in the student's place.
        mixing: whether that is drawn at every step, as in Ross et al. 2011, or once an episode.
        mixing_seeds: seed of these draws, for each episode.
        recorded: whether episodes are kept, with the expert's labels, or only their outcome.
        steps_after_success: an episode goes on for so many steps when it has succeeded.
        round: written into the episodes.
    """

    seeds: tuple[int, ...]
    policy: Path | None
    beta: float
    mixing: Mixing
    mixing_seeds: tuple[tuple[int, ...], ...]
    recorded: bool
    steps_after_success: int
    round: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rollout:
    """What came of one episode.

    Attributes:
        seed: the environment's.
        success: whether it succeeded.
        num_steps: its length.
        episode: with its labels, when it was recorded.
        features: float16 [T+1 c e], the embeddings of a recorded episode.
    """

    seed: int
    success: bool
    num_steps: int
    episode: Episode | None
    features: NDArray[np.float16] | None


@dataclass(slots=True)
class StageClock:
    """Count seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the seconds of a `with` block as those of `stage`."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(slots=True)
class _Lane:
    """One episode while it runs.

    Attributes:
        row: its place in the group.
    """

    row: int
    env: gymnasium.Env[Any, Any]
    expert: Policy | None
    seed: int
    rng: np.random.Generator
    observation: dict[str, NDArray[Any]] = field(default_factory=dict)
    tokens: list[Codes] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    proprio: list[NDArray[np.float32]] = field(default_factory=list)
    labels: list[NDArray[np.float32]] = field(default_factory=list)
    executed: list[NDArray[np.float32]] = field(default_factory=list)
    by_expert: list[bool] = field(default_factory=list)
    success: bool = False
    steps_since_success: int = 0
    num_steps: int = 0
    ended: bool = False


class Stage:
    """Environments, experts and an encoder, built when first needed; runs one group at a time."""

    def __init__(self, theatre: Theatre) -> None:
        self._theatre = theatre
        self._envs: list[gymnasium.Env[Any, Any]] = []
        self._experts: list[Policy] = []
        self._students: dict[Path, StudentPolicy] = {}
        self.encoder = theatre.vision.build(torch.device(theatre.device))
        self._grow(1)
        self.interface: Interface = interface_of(self._envs[0])
        self._cameras = self.interface.camera_names if self.encoder is not None else ()

    def run(self, task: Task) -> tuple[list[Rollout], dict[str, float]]:
        """Run a group; give what came of each episode in order, and the seconds of each stage."""
        clock = StageClock()
        with clock("start-up"):
            self._grow(len(task.seeds))
            student = None if task.policy is None else self._student(task.policy)
        privileged = self._theatre.privileged
        if not privileged and (student is None or task.recorded or task.beta > 0):
            raise ValueError("the expert is needed here: make the stage privileged")
        lanes = [
            _Lane(
                row=index,
                env=self._envs[index],
                expert=self._experts[index] if privileged else None,
                seed=seed,
                rng=np.random.default_rng(mixing_seed),
            )
            for index, (seed, mixing_seed) in enumerate(
                zip(task.seeds, task.mixing_seeds, strict=True)
            )
        ]
        embedder = None
        if self.encoder is not None:
            embedder = ObservationEmbedder(self.encoder, len(lanes), len(self._cameras))
        whole_episode = [lane.rng.random() < task.beta for lane in lanes]
        with clock("environment and rendering"):
            for lane in lanes:
                lane.observation, _ = lane.env.reset(seed=lane.seed)
        for lane in lanes:
            if lane.expert is not None:
                lane.expert.reset()
        seen = lanes  # whose newest frames are still to be looked at
        while seen:
            self._look(seen, embedder, task, clock)
            acting = [lane for lane in seen if not lane.ended]
            if not acting:
                break
            actions = self._student_actions(acting, student, clock)
            for row, lane in enumerate(acting):
                draw = lane.rng.random() < task.beta
                by_expert = student is None or (
                    whole_episode[lane.row] if task.mixing == "episode" else draw
                )
                self._step(lane, None if by_expert else actions[row], task, clock)
            # an ended episode is looked at once more if it is kept: T + 1 observations
            seen = [lane for lane in acting if task.recorded or not lane.ended]
        return [self._result(lane, task) for lane in lanes], clock.seconds

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _grow(self, size: int) -> None:
        theatre = self._theatre
        while len(self._envs) < size:
            sighted = theatre.vision.kind != "none"
            env = make_env(theatre.env, sighted=sighted, privileged=theatre.privileged)
            self._envs.append(env)
            if theatre.privileged:
                self._experts.append(choose_expert(theatre.env.id, theatre.teacher, env))

    def _student(self, folder: Path) -> StudentPolicy:
        if folder not in self._students:
            self._students = {folder: load_student(folder, self.encoder, self.interface)}
        return self._students[folder]

    def _look(
        self,
        lanes: Sequence[_Lane],
        embedder: ObservationEmbedder | None,
        task: Task,
        clock: StageClock,
    ) -> None:
        """Tokenise and embed the newest frames of all lanes, in one call each."""
        cameras = self._cameras
        for lane in lanes:
            lane.proprio.append(np.asarray(lane.observation["proprio"], np.float32))
        if (
            self.encoder is None
            or embedder is None
            or not (task.recorded or task.policy is not None)
        ):
            nothing = np.zeros((0, 0), np.uint16)
            for lane in lanes:
                lane.tokens.append(nothing)
                lane.features.append(nothing.astype(np.float16))
            return
        with clock("tokenizer"):
            frames = [lane.observation[f"image_{name}"] for lane in lanes for name in cameras]
            tokens = compress_each(self.encoder, frames).reshape(len(lanes), len(cameras), -1)
        with clock("transformer"):
            features = embedder.embed(tokens, [lane.row for lane in lanes])
        for row, lane in enumerate(lanes):
            lane.tokens.append(tokens[row])
            lane.features.append(features[row])

    def _student_actions(
        self, lanes: Sequence[_Lane], student: StudentPolicy | None, clock: StageClock
    ) -> NDArray[np.float32]:
        if student is None:
            return np.zeros((len(lanes), 0), np.float32)
        observation: dict[str, NDArray[Any]] = {
            f"embedding_{name}": np.stack([lane.features[-1][camera] for lane in lanes])
            for camera, name in enumerate(self._cameras)
        }
        observation["proprio"] = np.stack([lane.proprio[-1] for lane in lanes])
        with clock("student"):
            return student.act(observation)

    def _step(
        self,
        lane: _Lane,
        student_action: NDArray[np.float32] | None,
        task: Task,
        clock: StageClock,
    ) -> None:
        """Do one step; the expert is asked where it acts and where its label is kept."""
        label = student_action
        if lane.expert is not None and (task.recorded or student_action is None):
            with clock("expert"):
                label = np.asarray(lane.expert.act(lane.observation), np.float32)
            label = label.clip(-1.0, 1.0)  # where every environment of ours has its limits
        action = label if student_action is None else student_action
        assert action is not None
        assert label is not None
        if task.recorded:
            lane.labels.append(label)
            lane.executed.append(action)
            lane.by_expert.append(student_action is None)
        with clock("environment and rendering"):
            lane.observation, _, terminated, truncated, info = lane.env.step(action)
        lane.num_steps += 1
        if "success" not in info:
            raise ValueError(f"{self._theatre.env.id}: the environment's info has no 'success'")
        lane.steps_since_success += lane.success
        lane.success |= bool(info["success"])
        enough = lane.success and lane.steps_since_success >= task.steps_after_success
        lane.ended = terminated or truncated or enough

    def _result(self, lane: _Lane, task: Task) -> Rollout:
        episode = features = None
        if task.recorded:
            episode = Episode(
                tokens=np.stack(lane.tokens),
                proprio=np.stack(lane.proprio),
                labels=np.stack(lane.labels),
                executed=np.stack(lane.executed),
                acted_by_expert=np.array(lane.by_expert),
                success=lane.success,
                seed=lane.seed,
                round=task.round,
            )
            features = np.stack(lane.features)
        return Rollout(
            seed=lane.seed,
            success=lane.success,
            num_steps=lane.num_steps,
            episode=episode,
            features=features,
        )


class RolloutPool:
    """Runs groups on worker processes, or in this one; results come in the order of the tasks.

    Attributes:
        seconds: wall seconds by stage so far. While several workers run, the wall time is shared
            out in proportion to the seconds that they spent.
        num_workers: worker processes.
    """

    def __init__(self, theatre: Theatre, config: RolloutConfig) -> None:
        self.seconds: dict[str, float] = {}
        self.num_workers = num_cpus() if config.num_workers is None else config.num_workers
        self._theatre = theatre
        self._executor: ProcessPoolExecutor | None = None
        self._stage: Stage | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        if self._stage is not None:
            self._stage.close()

    def run(
        self, tasks: Sequence[Task], each: Callable[[list[Rollout]], None] = lambda _: None
    ) -> list[Rollout]:
        """Run groups; give all that came of them.

        Args:
            tasks: the groups.
            each: called with each group's results, in order, as soon as they are there.
        """
        if not tasks:
            return []
        start, spent, everything = time.perf_counter(), dict[str, float](), list[Rollout]()
        for rollouts, seconds in self._map(tasks):
            for stage, value in seconds.items():
                spent[stage] = spent.get(stage, 0.0) + value
            everything += [
                Rollout(
                    seed=rollout.seed,
                    success=rollout.success,
                    num_steps=rollout.num_steps,
                    episode=None,
                    features=None,
                )
                for rollout in rollouts
            ]
            each(rollouts)
        wall, total = time.perf_counter() - start, sum(spent.values())
        for stage, value in spent.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + wall * value / total
        return everything

    def _map(self, tasks: Sequence[Task]) -> Iterator[tuple[list[Rollout], dict[str, float]]]:
        if self.num_workers == 0:
            if self._stage is None:
                self._stage = Stage(self._theatre)
            yield from map(self._stage.run, tasks)
            return
        if self._executor is None:
            # spawn: neither EGL contexts nor torch's threads survive a fork
            self._executor = ProcessPoolExecutor(
                self.num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self._theatre, time.time()),
            )
        yield from self._executor.map(_run_in_worker, tasks)


_worker: Stage | None = None
_start_up_s: float = 0.0


def _start_worker(theatre: Theatre, created_s: float) -> None:
    """Build a worker process's stage."""
    global _worker, _start_up_s
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker = Stage(theatre)
    _start_up_s = time.time() - created_s


def _run_in_worker(task: Task) -> tuple[list[Rollout], dict[str, float]]:
    global _start_up_s
    assert _worker is not None
    rollouts, seconds = _worker.run(task)
    seconds["start-up"] += _start_up_s
    _start_up_s = 0.0
    return rollouts, seconds


def _die_with_parent() -> None:
    """End this worker when its parent is gone, even by kill -9; it would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
