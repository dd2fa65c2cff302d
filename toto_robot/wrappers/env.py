"""Wrap a `gymnasium.Env`."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from ..encoders.streaming import StreamConfig
from .embedder import AnyEncoder, ImageChoice, Observation, ObservationEmbedder


class TotoObservation(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Wrap a `gymnasium.Env`.

    Args:
        env: its observations contain images: uint8, or floats in [0, 1].
        encoder: what `load_encoder` returns, or what it opens: a shipped name or a folder.
        stream: how each camera's past is kept; None: each frame by itself. An episode begins with
            `reset`, or with the step after its end, where `env` resets itself.
        cameras: which images, by path (`pixels/top`) or camera name; a mapping gives each path its
            camera's name. None: every image that is recognised.
        exclude: paths or camera names of images that stay as they are.
        layout: `hwc`, `chw` or `hw`, where the shape of an image is ambiguous; of all, or by name.
        colour_order: `rgb` or `bgr`.
        flip: `vertical` or `rotate180`, where images are upside down; of all, or by name.

    Raises:
        ValueError: no image in the observation space, an ambiguous one, or an invalid stream; the
            message lists the candidates and the argument to add.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        encoder: AnyEncoder,
        stream: StreamConfig | None = None,
        *,
        cameras: Sequence[str] | Mapping[str, str] | None = None,
        exclude: Sequence[str] = (),
        layout: str | Mapping[str, str] | None = None,
        colour_order: str = "rgb",
        flip: str | Mapping[str, str] | None = None,
    ) -> None:
        # so that `env.spec.make()` works, which `check_env` calls; the encoder is shared
        RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            encoder=encoder,
            stream=stream,
            cameras=cameras,
            exclude=exclude,
            layout=layout,
            colour_order=colour_order,
            flip=flip,
        )
        gymnasium.ObservationWrapper.__init__(self, env)
        self._embedder = ObservationEmbedder(
            env.observation_space,
            encoder,
            1,
            stream,
            ImageChoice(
                cameras=cameras,
                exclude=exclude,
                layout=layout,
                colour_order=colour_order,
                flip=flip,
            ),
        )
        self.encoder = self._embedder.encoder
        self._begins = True
        self.observation_space = self._embedder.space(env.observation_space, batch=None)

    @property
    def cameras(self) -> dict[str, str]:
        """What is embedded: by camera, the image's place and how it is read."""
        return self._embedder.cameras

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
        """Replace the images of one observation; with a stream, it is the next of the episode."""
        begins = np.array([self._begins])
        self._begins = False
        images = self._embedder.images(observation, None)
        (parts,) = self._embedder.embed([images], [[0]], [begins])
        return self._embedder.replace(observation, parts, single=True)
