"""Wrap a `VecEnv` of Stable-Baselines3."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..encoders.streaming import StreamConfig
from .embedder import AnyEncoder, Observation, ObservationEmbedder

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv
else:
    VecEnv = Any  # an extra, which the library does not import


def TotoVecEnv(venv: VecEnv, encoder: AnyEncoder, stream: StreamConfig | None = None) -> VecEnv:
    """Wrap a `VecEnv` of Stable-Baselines3; `terminal_observation` is embedded, too.

    A function, so that the library does not need Stable-Baselines3 (the extra `sb3`).

    Args:
        venv: its observations are a Dict with `image_<camera>` entries, or one picture; channels
            last, so before a `VecTransposeImage`.
        encoder: what `load_encoder` returns, or what it opens: a shipped name or a folder.
        stream: how each camera's past is kept; None: each frame by itself.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
        ValueError: no picture in the observation space, or one that is not uint8 [h w 3]; or a
            stream that cannot be.
    """
    return _vec_env_class()(venv, encoder, stream)


@cache
def _vec_env_class() -> Any:
    try:
        from stable_baselines3.common.vec_env import VecEnvWrapper
    except ImportError as error:
        raise ImportError(
            "TotoVecEnv needs Stable-Baselines3: pip install 'toto-robot[sb3]'"
        ) from error

    class TotoVecEnvWrapper(VecEnvWrapper):
        def __init__(self, venv: VecEnv, encoder: AnyEncoder, stream: StreamConfig | None) -> None:
            self._embedder = ObservationEmbedder(
                venv.observation_space, encoder, venv.num_envs, stream
            )
            super().__init__(venv, self._embedder.space(venv.observation_space, batch=None))
            self.encoder = self._embedder.encoder

        def reset(self) -> Observation:
            observations = self.venv.reset()
            self.reset_infos = self.venv.reset_infos
            everyone = range(self.num_envs)
            begins = np.ones(self.num_envs, np.bool_)
            (embedded,) = self._embedder.embed([observations], [everyone], [begins])
            return embedded

        def step_wait(self) -> tuple[Observation, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
            observations, rewards, dones, infos = self.venv.step_wait()
            key = "terminal_observation"
            ended = [index for index, info in enumerate(infos) if key in info]
            last = [self._embedder.pictures(infos[index][key], None) for index in ended]
            *embedded_last, embedded = self._embedder.embed(
                [*last, observations],
                [*([index] for index in ended), range(self.num_envs)],
                [*(np.zeros(1, np.bool_) for _ in ended), np.asarray(dones, np.bool_)],
            )
            infos = list(infos)
            for index, one in zip(ended, embedded_last, strict=True):
                whole = self._embedder.join_one(infos[index][key], one)
                infos[index] = infos[index] | {key: whole}
            self.reset_infos = self.venv.reset_infos
            return embedded, rewards, dones, infos

    return TotoVecEnvWrapper
