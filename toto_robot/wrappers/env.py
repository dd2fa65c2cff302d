"""A wrapper of `gymnasium.Env` that replaces images by embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from ..encoders.streaming import StreamConfig
from .embedder import AnyEncoder, ImageChoice, Observation, ObservationEmbedder
from .upside_down import warn_upside_down


class TotoObservation(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """A wrapper of `gymnasium.Env` that replaces images by embeddings.

    Args:
        env: environment whose observations contain images of uint8, or of floats in [0, 1].
        encoder: an encoder, or a name or folder that `load_encoder` accepts.
        stream: settings of streams, with which embeddings also depend on earlier frames of the
            episode; None: embeddings depend on one frame only. An episode begins with `reset`, or
            with the step after an episode's end if `env` resets itself.
        cameras: paths (such as `pixels/top`) or camera names of the images; a mapping from paths to
            names renames cameras. None: all detected images.
        exclude: paths or camera names of images that are not embedded.
        layout: order of the axes of images with an ambiguous shape, `hwc`, `chw` or `hw`; one value
            for all of them, or a mapping by path or camera name. None: detected from the shape.
        colour_order: order of the colour channels of all images, `rgb` or `bgr` (OpenCV).
        flip: operation that turns images upright, `vertical` or `rotate180`; one value for all
            images, or a mapping by path or camera name. None: images are not turned.

    Raises:
        ValueError: the space has no image or only ambiguous images (the message lists them and the
            argument to add), or the settings of the stream are invalid.
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
        # for `env.spec.make()`, which `check_env` calls; the encoder is shared
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
        warn_upside_down(env, flip)
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
        """The embedded images: for each camera, a text with the path and the conversion."""
        return self._embedder.cameras

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset the environment, and return the embedded observation and the info."""
        self._begins = True
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Step the environment, and return its results with the embedded observation."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._begins = terminated or truncated
        return observation, reward, terminated, truncated, info

    def observation(self, observation: Observation) -> Observation:
        """Return an observation with embeddings in place of images.

        With a stream, `observation` must be the next observation of the episode.
        """
        begins = np.array([self._begins])
        self._begins = False
        images = self._embedder.images(observation, None)
        (parts,) = self._embedder.embed([images], [[0]], [begins])
        return self._embedder.replace(observation, parts, single=True)
