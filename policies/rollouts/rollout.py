"""Run groups of episodes: mix actions of expert and student, record labels, and encode frames.

Episodes run in groups. The environments of a group run in lockstep, so that the frames of all
environments and cameras are tokenised and embedded in one batch, each exactly once. Episodes that
have ended leave the group. One worker process with its own encoder runs a whole group, and
exchanges no data with other processes meanwhile. This is faster than a vector environment, where
the workers wait for the encoder and the encoder for the workers. Environment steps per second on 2
cores (benchmarks/dagger_collect.py):

    groups on two workers                    54
    `AsyncVectorEnv`                         44
    groups in one process                    40
    one process, one frame per encoder call  27

The result of a group depends only on its `RolloutJob`, not on the worker process or on earlier
groups. So a run that was killed and resumed gets the same numbers.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from envs.batch_manipulation import BatchManipulationEnv
from envs.experts.scripted import ScriptedExpert
from envs.interface import Interface
from toto_robot.encoders.contract import Codes, compress_each
from toto_robot.moved import moved_names

from ..demonstrations.episode import Episode
from ..environment import AnyEnv, describe_env, is_batched, make_batch, make_env
from ..oracle import interface_for, proprio_for
from ..policy import Policy
from ..student import StudentPolicy, load_student
from ..teacher_policy import STATE, TeacherPolicy, choose_expert
from ..vision import Blind, EpisodeEmbedder, StateVision, VisionConfig
from .group_envs import BatchEnvs, GroupEnvs, Observation, SeparateEnvs, StepResult
from .job import PhaseClock, Rollout, RolloutJob


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSpec:
    """What a worker process needs to run episodes: environment, encoder and expert.

    Attributes:
        env: id and options of the environment.
        vision: settings of the encoder.
        privileged: True if an expert or a teacher acts or labels.
        device: device of the encoder.
        teacher: checkpoint of a teacher that is used as the expert; None: the scripted expert.
        expert: `module:function` that replaces the environment's scripted expert.
    """

    env: AnyEnv
    vision: VisionConfig
    privileged: bool
    device: str
    teacher: Path | None = None
    expert: str | None = None

    def interface(self) -> Interface:
        """Return the action and observation spec of policies in the environment.

        If an expert or a teacher is needed, also check that it can be opened.

        Raises:
            FileNotFoundError: a file of the teacher's checkpoint is missing.
            ValueError: the environment does not exist or has no expert, or the teacher was trained
                for another environment.
        """
        env = self.make()
        if self.privileged:
            self.make_expert(env)
        interface = interface_for(self.vision, env)
        env.close()
        if is_batched(self.env):
            self._make_batch(1).close()
        return interface

    def make_envs(self) -> GroupEnvs:
        """Return the environments of a group of episodes."""
        if is_batched(self.env):
            return BatchEnvs(self._make_batch, self.make())
        return SeparateEnvs(self.make)

    def _make_batch(self, num_envs: int) -> BatchManipulationEnv:
        assert is_batched(self.env)
        return make_batch(
            self.env, num_envs, with_images=self._with_images, privileged=self._shows_state
        )

    def make(self, *, filmed: bool = False) -> gymnasium.Env[Any, Any]:
        """Make the environment, without images if there is no encoder."""
        return make_env(
            self.env,
            with_images=self._with_images,
            privileged=self._shows_state,
            filmed=filmed,
        )

    def require_video(self) -> None:
        """Open, reset and render the environment once, as for a video.

        Raises:
            ValueError: the environment cannot be opened for a video, or renders no image.
        """
        try:
            with closing(self.make(filmed=True)) as env:
                env.reset(seed=0)
                if np.asarray(env.render()).ndim != 3:
                    raise ValueError("render() returns no image")
        except ValueError as error:
            raise ValueError(
                f"no video of {self.env.id} can be made: {error}; set video_episodes=0, or "
                "videos=false in a study"
            ) from error

    @property
    def _with_images(self) -> bool:
        return not isinstance(self.vision, Blind)

    @property
    def _shows_state(self) -> bool:
        return self.privileged or isinstance(self.vision, StateVision)

    def describe_env(self) -> str:
        """Return the text of `policies.environment.describe_env` for this environment."""
        return describe_env(self.env, with_images=self._with_images)

    def make_expert(self, env: gymnasium.Env[Any, Any]) -> Policy:
        """Make the expert, or open the teacher, that acts in an environment."""
        return choose_expert(self.env.id, self.teacher, env, self.expert)


@dataclass(slots=True)
class _EpisodeState:
    """A running episode of a group, and what was recorded so far.

    Attributes:
        row: index of the episode in its group.
    """

    row: int
    expert: Policy | None
    seed: int
    rng: np.random.Generator
    observation: Observation = field(default_factory=dict)
    tokens: list[Codes] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    proprio: list[NDArray[np.float32]] = field(default_factory=list)
    labels: list[NDArray[np.float32]] = field(default_factory=list)
    executed: list[NDArray[np.float32]] = field(default_factory=list)
    by_expert: list[bool] = field(default_factory=list)
    success: bool = False
    steps_since_success: int = 0
    ended: bool = False

    def choose(
        self,
        student_action: NDArray[np.float32] | None,
        label: NDArray[np.float32] | None,
        job: RolloutJob,
    ) -> NDArray[np.float32]:
        """Record and return the action [a] of the student or of the expert.

        Args:
            student_action: [a] the action of the student, if the student acts; None: the expert
                acts.
            label: [a] the action of the expert; None: the expert is not needed.
            job: the group of the episode.
        """
        label = student_action if label is None else label.clip(-1.0, 1.0)  # limits of all actions
        action = label if student_action is None else student_action
        assert action is not None
        assert label is not None
        self.executed.append(action)
        if job.recorded:
            self.labels.append(label)
            self.by_expert.append(student_action is None)
        return action

    def take(self, result: StepResult, job: RolloutJob) -> None:
        """Record the result of a control step."""
        self.observation = result.observation
        self.steps_since_success += self.success
        self.success |= result.success
        enough = self.success and self.steps_since_success >= job.steps_after_success
        self.ended = result.ended or enough

    def result(self, job: RolloutJob) -> Rollout:
        """Return the result of the finished episode."""
        episode = features = None
        actions = np.stack(self.executed)
        if job.recorded:
            episode = Episode(
                tokens=np.stack(self.tokens),
                proprio=np.stack(self.proprio),
                labels=np.stack(self.labels),
                executed=actions,
                acted_by_expert=np.array(self.by_expert),
                success=self.success,
                seed=self.seed,
                round=job.round,
            )
            features = np.stack(self.features)
        return Rollout(
            seed=self.seed,
            success=self.success,
            actions=actions,
            episode=episode,
            features=features,
        )


class RolloutWorker:
    """A worker with environments, experts and an encoder, which runs one group at a time."""

    def __init__(self, spec: RolloutSpec) -> None:
        self._spec = spec
        self._experts: list[Policy] = []
        self._students: dict[Path, StudentPolicy] = {}
        self.encoder = spec.vision.build(torch.device(spec.device))
        self._envs = spec.make_envs()
        self.interface: Interface = interface_for(spec.vision, self._envs.example)
        self._cameras = self.interface.camera_names if self.encoder is not None else ()

    def run(self, job: RolloutJob) -> tuple[list[Rollout], dict[str, float]]:
        """Run a group of episodes.

        Returns:
            The result of each episode in order, and the seconds that each phase took.
        """
        clock = PhaseClock()
        with clock("start-up"):
            self._grow(len(job.seeds))
            student = None if job.policy is None else self._student(job.policy)
        states = self._begin(job, student)
        embedder = None
        if self.encoder is not None:
            embedder = EpisodeEmbedder(self.encoder, len(states), len(self._cameras))
        whole_episode = [state.rng.random() < job.beta for state in states]
        with clock("environment and rendering"):
            observations = self._envs.reset(job.seeds)
            for state, observation in zip(states, observations, strict=True):
                state.observation = observation
        for state in states:
            if state.expert is not None:
                state.expert.reset()
        to_encode = states  # episodes whose newest frames are not encoded yet
        while to_encode:
            self._encode(to_encode, embedder, job, clock)
            acting = [state for state in to_encode if not state.ended]
            if not acting:
                break
            student_actions = self._student_actions(acting, student, clock)
            chosen: list[NDArray[np.float32] | None] = []
            for row, state in enumerate(acting):
                draw = state.rng.random() < job.beta
                by_expert = student is None or (
                    whole_episode[state.row] if job.mixing == "episode" else draw
                )
                chosen.append(None if by_expert else student_actions[row])
            labels = self._labels(acting, [job.recorded or one is None for one in chosen], clock)
            actions = [
                state.choose(one, label, job)
                for state, one, label in zip(acting, chosen, labels, strict=True)
            ]
            with clock("environment and rendering"):
                results = self._envs.step([state.row for state in acting], actions)
            for state, result in zip(acting, results, strict=True):
                state.take(result, job)
            # the last frame of a recorded episode is encoded, too: T + 1 observations
            to_encode = [state for state in acting if job.recorded or not state.ended]
        return [state.result(job) for state in states], clock.seconds

    def _begin(self, job: RolloutJob, student: StudentPolicy | None) -> list[_EpisodeState]:
        """Return one `_EpisodeState` per episode of a group; the environments are not reset yet."""
        privileged = self._spec.privileged
        if not privileged and (student is None or job.recorded or job.beta > 0):
            raise ValueError("this job needs the expert: set RolloutSpec(privileged=True)")
        return [
            _EpisodeState(
                row=index,
                expert=self._experts[index % len(self._experts)] if privileged else None,
                seed=seed,
                rng=np.random.default_rng(mixing_seed),
            )
            for index, (seed, mixing_seed) in enumerate(
                zip(job.seeds, job.mixing_seeds, strict=True)
            )
        ]

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()

    def _grow(self, size: int) -> None:
        self._envs.prepare(size)
        while self._spec.privileged and len(self._experts) < size and not self._shares_expert:
            self._experts.append(self._spec.make_expert(self._envs.example))

    def _student(self, folder: Path) -> StudentPolicy:
        if folder not in self._students:
            self._students = {folder: load_student(folder, self.encoder, self.interface)}
        return self._students[folder]

    def _encode(
        self,
        states: Sequence[_EpisodeState],
        embedder: EpisodeEmbedder | None,
        job: RolloutJob,
        clock: PhaseClock,
    ) -> None:
        """Tokenise the newest frames of all episodes in one batch, then embed them in one batch.

        Args:
            states: the running episodes; tokens and embeddings are stored in them.
            embedder: computes the embeddings; None: no embeddings are needed.
            job: the group of the episodes.
            clock: measures the times.
        """
        cameras = self._cameras
        for state in states:
            state.proprio.append(proprio_for(self._spec.vision, state.observation))
        if self.encoder is None or embedder is None or not (job.recorded or job.policy is not None):
            nothing = np.zeros((0, 0), np.uint16)
            for state in states:
                state.tokens.append(nothing)
                state.features.append(nothing.astype(np.float16))
            return
        with clock("tokenizer"):
            frames = [state.observation[f"image_{name}"] for state in states for name in cameras]
            tokens = compress_each(self.encoder, frames).reshape(len(states), len(cameras), -1)
        with clock("transformer"):
            features = embedder.embed(tokens, [state.row for state in states])
        for row, state in enumerate(states):
            state.tokens.append(tokens[row])
            state.features.append(features[row])

    @property
    def _shares_expert(self) -> bool:
        """Whether one expert, which accepts batches, acts for all worlds of a simulator."""
        accepts = bool(self._experts) and isinstance(
            self._experts[0], ScriptedExpert | TeacherPolicy
        )
        return accepts and is_batched(self._spec.env)

    def _labels(
        self, states: Sequence[_EpisodeState], needed: Sequence[bool], clock: PhaseClock
    ) -> list[NDArray[np.float32] | None]:
        """Return the actions of the experts, not clipped; None where no label is needed."""
        labels: list[NDArray[np.float32] | None] = [None] * len(states)
        rows = [row for row, state in enumerate(states) if needed[row] and state.expert is not None]
        if rows and self._shares_expert:
            with clock("expert"):
                state = np.stack([states[row].observation[STATE] for row in rows])
                for row, action in zip(rows, self._experts[0].act({STATE: state}), strict=True):
                    labels[row] = action
            return labels
        for row in rows:
            expert = states[row].expert
            assert expert is not None
            with clock("expert"):
                labels[row] = np.asarray(expert.act(states[row].observation), np.float32)
        return labels

    def _student_actions(
        self, states: Sequence[_EpisodeState], student: StudentPolicy | None, clock: PhaseClock
    ) -> NDArray[np.float32]:
        if student is None:
            return np.zeros((len(states), 0), np.float32)
        observation: dict[str, NDArray[Any]] = {
            f"embedding_{name}": np.stack([state.features[-1][camera] for state in states])
            for camera, name in enumerate(self._cameras)
        }
        observation["proprio"] = np.stack([state.proprio[-1] for state in states])
        with clock("student"):
            return student.act(observation)


__getattr__ = moved_names(
    __name__,
    {name: f"policies.rollouts.pool:{name}" for name in ("RolloutConfig", "RolloutPool")}
    | {"STAGES": "policies.rollouts.job:PHASES", "Mixing": "policies.rollouts.job:Mixing"}
    | {"Theatre": "policies.rollouts.rollout:RolloutSpec"}
    | {"Stage": "policies.rollouts.rollout:RolloutWorker"},
)
