"""Give any environment with pictures Toto's embeddings instead.

    env = TotoObservation(env, load_encoder("toto-nano"))              # gymnasium.Env
    envs = TotoVectorObservation(envs, load_encoder("toto-nano"))      # gymnasium.vector.VectorEnv
    venv = TotoVecEnv(venv, load_encoder("toto-nano"))                 # Stable-Baselines3's VecEnv
    env = TotoObservation(env, encoder, stream=StreamConfig(context=16))       # with a memory

Of a Dict observation every `image_<camera>` (uint8 [h w 3]) becomes `embedding_<camera>` (float32
[e]), and all else passes through. An observation that is one picture becomes one embedding. All
pictures of a step (all cameras, all environments, and the last pictures of episodes that have just
ended) of one size go through the encoder in one call.

With a stream, each camera of each environment has a past of its own, which begins anew with every
episode, whichever way the environment is reset. A past grows by one frame a step, and never else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from ..encoders.streaming import StreamConfig
from .embedder import Eyes, FrameEncoder, Observation

__all__ = [
    "FrameEncoder",
    "PartialSteps",
    "TotoVectorObservation",
]

StepResult = tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


@runtime_checkable
class PartialSteps(Protocol):
    """A vector environment that says while it steps which of its environments are done."""

    def step_partial(
        self,
        actions: Any,
        ready: Callable[[Sequence[int], Observation, Mapping[int, Observation]], None],
        /,
    ) -> StepResult:
        """Step all environments, and give what `step` gives.

        Args:
            actions: as for `step`.
            ready: to be called with environments that are done, while others still step: their
                indices; the observations of all, in which these rows are valid and stay so; and
                their `final_obs`, by index. Every environment must be in one call.
        """
        ...


class TotoVectorObservation(VectorWrapper):
    """Wrap a `gymnasium.vector.VectorEnv`, in any of its three autoreset modes.

    With `AutoresetMode.SAME_STEP` the `final_obs` of the infos are embedded, too.

    Args:
        env: its single observations are a Dict with `image_<camera>` entries, or one picture.
        encoder: what `load_encoder` gives.
        envs_per_call: how many environments' pictures go through the encoder in one call; None:
            all. With a number, and if `env` is a `PartialSteps`, a call is made as soon as its
            environments are done, while others still step. The calls hold the same pictures
            whenever that is, so embeddings do not depend on timing or on the number of workers,
            not even if the encoder's last bits depend on what else is in a call (those of
            "toto-nano" did not, on the one CPU where it was tried, for 1 to 40 pictures).
        stream: how each camera's past is kept; None: each frame by itself. It begins anew with
            each episode: in the step that shows its first frame, or in a `reset` with a
            `reset_mask`, which leaves the others' pasts as they are. The last frame of an ended
            episode (`final_obs`) still sees that episode's past.

    On few cores, `envs_per_call` gains next to nothing, since encoder and environments use the same
    cores, and the encoder most of them: 8 environments with two pictures of 128 px and "toto-nano"
    made 32 steps a second on 2 cores with 4 environments a call, 31 with all after the step (torch
    with one thread), but 51 with all after the step and two threads. Hence the default. An encoder
    in each worker (`TotoObservation` there) made 50 (benchmarks/vector_env.py). What it gains with
    an encoder on a graphics card was not measured.

    Raises:
        ValueError: no picture in the observation space, or one that is not uint8 [h w 3];
            `envs_per_call` below 1; or a stream that cannot be.
    """

    def __init__(
        self,
        env: VectorEnv,
        encoder: FrameEncoder,
        envs_per_call: int | None = None,
        stream: StreamConfig | None = None,
    ) -> None:
        super().__init__(env)
        if envs_per_call is not None and envs_per_call < 1:
            raise ValueError(f"envs_per_call must be at least 1 or None, got {envs_per_call}")
        self.encoder = encoder
        self.envs_per_call = envs_per_call
        self._eyes = Eyes(env.single_observation_space, encoder, self.num_envs, stream)
        self.single_observation_space = self._eyes.space(env.single_observation_space, batch=None)
        self.observation_space = self._eyes.space(env.observation_space, batch=env.num_envs)
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._latest: Observation = None  # embeddings, for environments that are not reset

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset, and embed the first observations."""
        mask = None if options is None else options.get("reset_mask")
        observations, infos = self.env.reset(seed=seed, options=options)
        self._ended = np.zeros(self.num_envs, np.bool_)
        if self._eyes.remembers and mask is not None and self._latest is not None:
            return self._begin_some(observations, np.flatnonzero(mask)), infos
        begins = np.ones(self.num_envs, np.bool_)
        calls = _Calls(self._eyes, begins, self.envs_per_call)
        calls.ready(range(self.num_envs), observations, {})
        return self._keep(calls.embedded(observations)), infos

    def step(self, actions: Any) -> StepResult:
        """Step, and embed the observations, and those of ended episodes."""
        # where nothing is reset within a step, nothing begins in it
        begins = np.zeros(self.num_envs, np.bool_)
        if self._mode == AutoresetMode.NEXT_STEP:
            begins = self._ended
        if self.envs_per_call is not None and isinstance(self.env, PartialSteps):
            calls = _Calls(self._eyes, begins, self.envs_per_call)
            result = self.env.step_partial(actions, calls.ready)
        else:
            result = self.env.step(actions)
            ended = np.asarray(result[2] | result[3])
            if self._mode == AutoresetMode.SAME_STEP:
                begins = ended
            calls = _Calls(self._eyes, begins, self.envs_per_call)
            finals = self._finals(result[-1].get("final_obs"), ended)
            calls.ready(range(self.num_envs), result[0], finals)
        observations, rewards, terminations, truncations, infos = result
        self._ended = np.asarray(terminations | truncations)
        if "final_obs" in infos:
            infos = infos | {"final_obs": calls.embedded_finals(infos["final_obs"])}
        embedded = self._keep(calls.embedded(observations))
        return embedded, rewards, terminations, truncations, infos

    def _begin_some(self, observations: Observation, rows: NDArray[np.intp]) -> Observation:
        """Embed the first observations of some environments; the others have shown nothing new."""
        eyes = self._eyes
        embedded = eyes.join(observations, [self._latest])
        if len(rows):
            pictures = eyes.pictures(observations, rows)
            (part,) = eyes.embed([pictures], [rows.tolist()], [np.ones(len(rows), np.bool_)])
            eyes.replace_rows(embedded, rows, part)
        return self._keep(embedded)

    def _keep(self, embedded: Observation) -> Observation:
        if self._eyes.remembers:
            self._latest = self._eyes.embeddings(embedded)
        return embedded

    def _finals(self, final: Any, ended: NDArray[np.bool_]) -> dict[int, Observation]:
        """Take `final_obs` apart, as every kind of vector environment gives them."""
        if final is None:
            return {}
        if _one_each(final):
            return {row: one for row, one in enumerate(final) if one is not None}
        return {row: self._eyes.row(final, row) for row in np.flatnonzero(ended).tolist()}


class _Calls:
    """Embed a step's pictures in calls of the encoder, each as soon as all of it is there."""

    def __init__(self, eyes: Eyes, begins: NDArray[np.bool_], envs_per_call: int | None) -> None:
        num_envs = len(begins)
        size = envs_per_call or num_envs
        self._eyes = eyes
        self._begins = begins
        self._waiting = [range(i, min(i + size, num_envs)) for i in range(0, num_envs, size)]
        self._arrived = np.zeros(num_envs, np.bool_)
        self._pictures: dict[int, Observation] = {}  # of ended episodes
        self._embeddings: dict[int, Observation] = {}  # by the call's first environment
        self._final_embeddings: dict[int, Observation] = {}

    def ready(
        self, rows: Sequence[int], observations: Observation, finals: Mapping[int, Observation]
    ) -> None:
        """Take what has arrived, and make the calls that are complete."""
        eyes = self._eyes
        self._arrived[list(rows)] = True
        self._pictures |= {row: eyes.pictures(one, None) for row, one in finals.items()}
        done = [call for call in self._waiting if self._arrived[call.start : call.stop].all()]
        for call in done:
            self._waiting.remove(call)
            ended = [row for row in call if row in self._pictures]
            begins = self._begins[call.start : call.stop] | np.isin(call, ended)
            *last, self._embeddings[call.start] = eyes.embed(
                [*(self._pictures[row] for row in ended), eyes.pictures(observations, call)],
                [*([row] for row in ended), call],
                [*(np.zeros(1, np.bool_) for _ in ended), begins],
            )
            self._final_embeddings |= dict(zip(ended, last, strict=True))

    def embedded(self, observations: Observation) -> Observation:
        """Give the step's observations with embeddings in the place of pictures."""
        parts = [self._embeddings[first] for first in sorted(self._embeddings)]
        return self._eyes.join(observations, parts)

    def embedded_finals(self, final: Any) -> Any:
        """Do the same to `final_obs`, however they are given."""
        parts = self._final_embeddings
        if not _one_each(final):  # a batch, in which the rows of running episodes mean nothing
            nothing = self._eyes.nothing()
            return self._eyes.join(final, [parts.get(i, nothing) for i in range(len(self._begins))])
        embedded = np.full(len(final), None, dtype=object)
        for row, part in parts.items():
            embedded[row] = self._eyes.join_one(final[row], part)
        return embedded


def _one_each(final: Any) -> bool:
    """Tell one observation, or None, for each environment from a batch of observations."""
    return isinstance(final, np.ndarray) and final.dtype.hasobject
