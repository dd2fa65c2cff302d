"""Give any environment with pictures Toto's embeddings instead.

    env = TotoObservation(env, load_encoder("toto-nano"))              # gymnasium.Env
    envs = TotoVectorObservation(envs, load_encoder("toto-nano"))      # gymnasium.vector.VectorEnv
    venv = TotoVecEnv(venv, load_encoder("toto-nano"))                 # Stable-Baselines3's VecEnv

Of a Dict observation every `image_<camera>` (uint8 [h w 3]) becomes `embedding_<camera>` (float32
[e]), and all else passes through. An observation that is one picture becomes one embedding. All
pictures of a step (all cameras, all environments, and the last pictures of episodes that have just
ended) of one size go through the encoder in one call.
"""

from collections.abc import Sequence
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

__all__ = ["FrameEncoder", "TotoObservation", "TotoVecEnv", "TotoVectorObservation"]

IMAGE, EMBEDDING = "image_", "embedding_"
Observation = Any  # an array, or a dict of what the observation space says


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


class TotoVectorObservation(VectorWrapper):
    """Wrap a `gymnasium.vector.VectorEnv`, in any of its three autoreset modes.

    With `AutoresetMode.SAME_STEP` the `final_obs` of the infos are embedded, too.

    Args:
        env: its single observations are a Dict with `image_<camera>` entries, or one picture.
        encoder: what `load_encoder` gives.

    Raises:
        ValueError: no picture in the observation space, or one that is not uint8 [h w 3].
    """

    def __init__(self, env: VectorEnv, encoder: FrameEncoder) -> None:
        super().__init__(env)
        self.encoder = encoder
        self._eyes = _Eyes(env.single_observation_space, encoder)
        self.single_observation_space = self._eyes.space(env.single_observation_space, batch=None)
        self.observation_space = self._eyes.space(env.observation_space, batch=env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset, and embed the first observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        (embedded,) = self._eyes.embed([observations])
        return embedded, infos

    def step(
        self, actions: Any
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step, and embed the observations, and those of ended episodes."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        final = infos.get("final_obs")
        if final is None:
            (embedded,) = self._eyes.embed([observations])
        elif isinstance(final, np.ndarray) and final.dtype.hasobject:
            # one observation, or None, for each environment
            ended = [index for index, one in enumerate(final) if one is not None]
            last = [self._eyes.as_batch(final[index]) for index in ended]
            embedded, *embedded_last = self._eyes.embed([observations, *last])
            final = np.full(len(final), None, dtype=object)
            for index, one in zip(ended, embedded_last, strict=True):
                final[index] = self._eyes.first(one)
            infos = infos | {"final_obs": final}
        else:  # a batch, as environments give that are vectorised by themselves
            embedded, final = self._eyes.embed([observations, final])
            infos = infos | {"final_obs": final}
        return embedded, rewards, terminations, truncations, infos


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
            last = [self._eyes.as_batch(infos[index][key]) for index in ended]
            embedded, *embedded_last = self._eyes.embed([observations, *last])
            infos = list(infos)
            for index, one in zip(ended, embedded_last, strict=True):
                infos[index] = infos[index] | {key: self._eyes.first(one)}
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
        batches = self.embed([self.as_batch(one) for one in observations])
        return [self.first(batch) for batch in batches]

    def as_batch(self, observation: Observation) -> Observation:
        """Make a batch of one; what is no picture is left as it is."""
        if self._bare:
            return np.asarray(observation)[None]
        return {k: np.asarray(v)[None] if k in self._names else v for k, v in observation.items()}

    def first(self, batch: Observation) -> Observation:
        """Undo `as_batch` after `embed`."""
        if self._bare:
            return batch[0]
        new = self._names.values()
        return {key: value[0] if key in new else value for key, value in batch.items()}


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
