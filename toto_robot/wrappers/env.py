"""Wrap a `gymnasium.Env`."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from ..encoders.streaming import StreamConfig
from .embedder import AnyEncoder, Observation, ObservationEmbedder


class TotoObservation(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Wrap a `gymnasium.Env`.

    Args:
        env: its observations are a Dict with `image_<camera>` entries, or one picture.
        encoder: what `load_encoder` returns, or what it opens: a shipped name or a folder.
        stream: how each camera's past is kept; None: each frame by itself. An episode begins with
            `reset`, or with the step after its end, where `env` resets itself.

    Raises:
        ValueError: no picture in the observation space, or one that is not uint8 [h w 3]; or a
            stream that cannot be.
    """

    def __init__(
        self, env: gymnasium.Env, encoder: AnyEncoder, stream: StreamConfig | None = None
    ) -> None:
        # so that `env.spec.make()` works, which `check_env` calls; the encoder is shared
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, encoder=encoder, stream=stream)
        gymnasium.ObservationWrapper.__init__(self, env)
        self._embedder = ObservationEmbedder(env.observation_space, encoder, 1, stream)
        self.encoder = self._embedder.encoder
        self._begins = True
        self.observation_space = self._embedder.space(env.observation_space, batch=None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset, and embed the first observation."""
        self._begins = True
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Step, and embed the observation."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._begins = terminated or truncated
        return observation, reward, terminated, truncated, info

    def observation(self, observation: Observation) -> Observation:
        """Replace the pictures of one observation; with a stream, it is the next of the episode."""
        embedder = self._embedder
        begins = np.array([self._begins])
        self._begins = False
        (part,) = embedder.embed([embedder.pictures(observation, None)], [[0]], [begins])
        return embedder.join_one(observation, part)
