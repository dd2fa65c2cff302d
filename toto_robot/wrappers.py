"""Give any environment with pictures Toto's embeddings instead.

    env = TotoObservation(env, load_encoder("toto-nano"))              # gymnasium.Env
    envs = TotoVectorObservation(envs, load_encoder("toto-nano"))      # gymnasium.vector.VectorEnv
    venv = TotoVecEnv(venv, load_encoder("toto-nano"))                 # Stable-Baselines3's VecEnv

Of a Dict observation every `image_<camera>` (uint8 [h w 3]) becomes `embedding_<camera>` (float32
[e]), and all else passes through. An observation that is one picture becomes one embedding. All
pictures of a step (all cameras, all environments, and the last pictures of episodes that have just
ended) of one size go through the encoder in one call.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv
else:
    VecEnv = Any  # an extra, which the library does not import

__all__ = [
    "FrameEncoder",
    "PartialSteps",
    "TotoObservation",
    "TotoVecEnv",
    "TotoVectorObservation",
]

IMAGE, EMBEDDING = "image_", "embedding_"
Observation = Any  # an array, or a dict of what the observation space says
StepResult = tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


@runtime_checkable
class FrameEncoder(Protocol):
    """What the wrappers need of an encoder.

    Attributes:
        dim: width e of the embedding.
    """

    dim: int

    def __call__(self, frames: np.ndarray, /) -> Tensor:
        """Turn frames uint8 [b h w 3] into float32 [b e]."""
        ...


class TotoObservation(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Wrap a `gymnasium.Env`.

    Args:
        env: its observations are a Dict with `image_<camera>` entries, or one picture.
        encoder: what `load_encoder` gives.

    Raises:
        ValueError: no picture in the observation space, or one that is not uint8 [h w 3].
    """

    def __init__(self, env: gymnasium.Env, encoder: FrameEncoder) -> None:
        # so that `env.spec.make()` works, which `check_env` calls; the encoder is shared
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, encoder=encoder)
        gymnasium.ObservationWrapper.__init__(self, env)
        self.encoder = encoder
        self._eyes = _Eyes(env.observation_space, encoder)
        self.observation_space = self._eyes.space(env.observation_space, batch=None)

    def observation(self, observation: Observation) -> Observation:
        """Replace the pictures of one observation."""
        (embedded,) = self._eyes.embed_each([observation])
        return embedded


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

    On few cores, `envs_per_call` gains next to nothing, since encoder and environments use the same
    cores, and the encoder most of them: 8 environments with two pictures of 128 px and "toto-nano"
    made 32 steps a second on 2 cores with 4 environments a call, 31 with all after the step (torch
    with one thread), but 51 with all after the step and two threads. Hence the default. An encoder
    in each worker (`TotoObservation` there) made 50 (benchmarks/vector_env.py). What it gains with
    an encoder on a graphics card was not measured.

    Raises:
        ValueError: no picture in the observation space, or one that is not uint8 [h w 3]; or
            `envs_per_call` below 1.
    """

    def __init__(
        self, env: VectorEnv, encoder: FrameEncoder, envs_per_call: int | None = None
    ) -> None:
        super().__init__(env)
        if envs_per_call is not None and envs_per_call < 1:
            raise ValueError(f"envs_per_call must be at least 1 or None, got {envs_per_call}")
        self.encoder = encoder
        self.envs_per_call = envs_per_call
        self._eyes = _Eyes(env.single_observation_space, encoder)
        self.single_observation_space = self._eyes.space(env.single_observation_space, batch=None)
        self.observation_space = self._eyes.space(env.observation_space, batch=env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset, and embed the first observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        calls = _Calls(self._eyes, self.num_envs, self.envs_per_call)
        calls.ready(range(self.num_envs), observations, {})
        return calls.embedded(observations), infos

    def step(self, actions: Any) -> StepResult:
        """Step, and embed the observations, and those of ended episodes."""
        calls = _Calls(self._eyes, self.num_envs, self.envs_per_call)
        if self.envs_per_call is not None and isinstance(self.env, PartialSteps):
            result = self.env.step_partial(actions, calls.ready)
        else:
            result = self.env.step(actions)
            finals = self._finals(result[-1].get("final_obs"))
            calls.ready(range(self.num_envs), result[0], finals)
        observations, rewards, terminations, truncations, infos = result
        if "final_obs" in infos:
            infos = infos | {"final_obs": calls.embedded_finals(infos["final_obs"])}
        return calls.embedded(observations), rewards, terminations, truncations, infos

    def _finals(self, final: Any) -> dict[int, Observation]:
        """Take `final_obs` apart, as every kind of vector environment gives them."""
        if final is None:
            return {}
        if _one_each(final):
            return {row: one for row, one in enumerate(final) if one is not None}
        return {row: self._eyes.row(final, row) for row in range(self.num_envs)}


class _Calls:
    """Embed a step's pictures in calls of the encoder, each as soon as all of it is there."""

    def __init__(self, eyes: "_Eyes", num_envs: int, envs_per_call: int | None) -> None:
        size = envs_per_call or num_envs
        self._eyes = eyes
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
            self._embeddings[call.start], *last = eyes.embed(
                [eyes.pictures(observations, call), *(self._pictures[row] for row in ended)]
            )
            self._final_embeddings |= dict(zip(ended, last, strict=True))

    def embedded(self, observations: Observation) -> Observation:
        """Give the step's observations with embeddings in the place of pictures."""
        parts = [self._embeddings[first] for first in sorted(self._embeddings)]
        return self._eyes.join(observations, parts)

    def embedded_finals(self, final: Any) -> Any:
        """Do the same to `final_obs`, however they are given."""
        parts = self._final_embeddings
        if not _one_each(final):
            return self._eyes.join(final, [parts[row] for row in sorted(parts)])
        embedded = np.full(len(final), None, dtype=object)
        for row, part in parts.items():
            embedded[row] = self._eyes.join_one(final[row], part)
        return embedded


def _one_each(final: Any) -> bool:
    """Tell one observation, or None, for each environment from a batch of observations."""
    return isinstance(final, np.ndarray) and final.dtype.hasobject


def TotoVecEnv(venv: VecEnv, encoder: FrameEncoder) -> VecEnv:
    """Wrap a `VecEnv` of Stable-Baselines3; `terminal_observation` is embedded, too.

    A function, so that the library does not need Stable-Baselines3 (the extra `sb3`).

    Args:
        venv: its observations are a Dict with `image_<camera>` entries, or one picture; channels
            last, so before a `VecTransposeImage`.
        encoder: what `load_encoder` gives.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
        ValueError: no picture in the observation space, or one that is not uint8 [h w 3].
    """
    return _vec_env_class()(venv, encoder)


@cache
def _vec_env_class() -> Any:
    try:
        from stable_baselines3.common.vec_env import VecEnvWrapper
    except ImportError as error:
        raise ImportError(
            "TotoVecEnv needs Stable-Baselines3: pip install 'toto-robot[sb3]'"
        ) from error

    class TotoVecEnvWrapper(VecEnvWrapper):
        def __init__(self, venv: VecEnv, encoder: FrameEncoder) -> None:
            self._eyes = _Eyes(venv.observation_space, encoder)
            super().__init__(venv, self._eyes.space(venv.observation_space, batch=None))
            self.encoder = encoder

        def reset(self) -> Observation:
            observations = self.venv.reset()
            self.reset_infos = self.venv.reset_infos
            (embedded,) = self._eyes.embed([observations])
            return embedded

        def step_wait(self) -> tuple[Observation, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
            observations, rewards, dones, infos = self.venv.step_wait()
            key = "terminal_observation"
            ended = [index for index, info in enumerate(infos) if key in info]
            last = [self._eyes.pictures(infos[index][key], None) for index in ended]
            embedded, *embedded_last = self._eyes.embed([observations, *last])
            infos = list(infos)
            for index, one in zip(ended, embedded_last, strict=True):
                whole = self._eyes.join_one(infos[index][key], one)
                infos[index] = infos[index] | {key: whole}
            self.reset_infos = self.venv.reset_infos
            return embedded, rewards, dones, infos

    return TotoVecEnvWrapper


class _Eyes:
    """Know which entries of an observation are pictures, and replace them.

    An observation that is one picture is treated as a Dict with the single entry "".
    """

    def __init__(self, space: spaces.Space, encoder: FrameEncoder) -> None:
        self._encoder = encoder
        self._bare = not isinstance(space, spaces.Dict)
        if isinstance(space, spaces.Dict):
            found = {key: one for key, one in space.items() if key.startswith(IMAGE)}
            if not found:
                raise ValueError(
                    f"no key of the observation begins with {IMAGE!r}; found: {sorted(space)}. "
                    f"Rename the pictures to {IMAGE}<camera>, for example with "
                    "gymnasium.wrappers.TransformObservation"
                )
            self._names = {key: EMBEDDING + key.removeprefix(IMAGE) for key in found}
            if taken := sorted(set(self._names.values()) & set(space)):
                raise ValueError(f"the observation already has {taken}")
        else:
            found = {"": space}
            self._names = {"": ""}
        for key, one in found.items():
            _check_picture(f"observation[{key!r}]" if key else "the observation", one)

    def space(self, space: spaces.Space, batch: int | None) -> spaces.Space:
        """Give the space of what `embed` makes of `space`, which is batched if `batch` is given."""
        embedding: spaces.Space = spaces.Box(-np.inf, np.inf, (self._encoder.dim,), np.float32)
        if batch is not None:
            embedding = batch_space(embedding, batch)
        if not isinstance(space, spaces.Dict):
            return embedding
        passed = {key: one for key, one in space.items() if key not in self._names}
        return spaces.Dict(passed | dict.fromkeys(self._names.values(), embedding))

    def embed(self, batches: Sequence[Observation]) -> list[Observation]:
        """Replace the pictures of several batches of observations, in as few calls as sizes."""
        dicts = [{"": one} if self._bare else one for one in batches]
        by_size: dict[tuple[int, ...], list[tuple[int, str]]] = {}
        for index, batch in enumerate(dicts):
            for key in self._names:
                by_size.setdefault(np.shape(batch[key])[1:], []).append((index, key))
        made: list[dict[str, NDArray[np.float32]]] = [{} for _ in dicts]
        for places in by_size.values():
            frames = [np.asarray(dicts[index][key]) for index, key in places]
            embeddings = self._encoder(np.concatenate(frames)).detach().cpu().numpy()
            stops = np.cumsum([len(some) for some in frames])[:-1]
            for (index, key), some in zip(places, np.split(embeddings, stops), strict=True):
                made[index][self._names[key]] = some.copy()  # no alias of another camera's
        if self._bare:
            return [one[""] for one in made]
        return [
            {key: value for key, value in batch.items() if key not in self._names} | new
            for batch, new in zip(dicts, made, strict=True)
        ]

    def embed_each(self, observations: Sequence[Observation]) -> list[Observation]:
        """Replace the pictures of single observations."""
        parts = self.embed([self.pictures(one, None) for one in observations])
        return [self.join_one(one, part) for one, part in zip(observations, parts, strict=True)]

    def pictures(self, observation: Observation, rows: range | None) -> Observation:
        """Give the pictures of a batch's rows; or without rows, of one observation as a batch."""
        at = None if rows is None else slice(rows.start, rows.stop)
        if self._bare:
            return np.asarray(observation)[at]
        return {key: np.asarray(observation[key])[at] for key in self._names}

    def row(self, batch: Observation, row: int) -> Observation:
        """Give the pictures of one of a batch's observations."""
        return batch[row] if self._bare else {key: batch[key][row] for key in self._names}

    def join(self, batch: Observation, parts: Sequence[Observation]) -> Observation:
        """Replace a batch's pictures by the embeddings of its parts."""
        if self._bare:
            return np.concatenate(parts)
        passed = {key: value for key, value in batch.items() if key not in self._names}
        new = self._names.values()
        return passed | {key: np.concatenate([part[key] for part in parts]) for key in new}

    def join_one(self, observation: Observation, part: Observation) -> Observation:
        """Replace an observation's pictures by their embeddings, a batch of one."""
        if self._bare:
            return part[0]
        passed = {key: value for key, value in observation.items() if key not in self._names}
        return passed | {key: part[key][0] for key in self._names.values()}


def _check_picture(name: str, space: spaces.Space) -> None:
    """Refuse what is no picture, and say why."""
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{name} must be a Box of uint8 [h w 3], got {space}")
    shape, dtype = space.shape, space.dtype
    if dtype != np.uint8:
        hint = " (images in [0, 1] become (image * 255).round())" if np.all(space.high <= 1) else ""
        raise ValueError(f"{name} must be uint8 in 0..255, got {dtype}{hint}")
    if len(shape) == 3 and shape[0] == 3 and shape[2] != 3:
        raise ValueError(f"{name} must be channels last [h w 3], got {shape}: channels come first")
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"{name} must be RGB [h w 3], got {shape}")
    if np.any(space.high <= 1):
        raise ValueError(f"{name} must have values in 0..255, got at most {space.high.max()}")
