"""A wrapper of Stable-Baselines3's `VecEnv` that replaces images by embeddings."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..encoders.streaming import StreamConfig
from .embedder import AnyEncoder, ImageChoice, Observation, ObservationEmbedder
from .upside_down import warn_upside_down

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv
else:
    VecEnv = Any  # Stable-Baselines3 is an optional extra


def TotoVecEnv(
    venv: VecEnv,
    encoder: AnyEncoder,
    stream: StreamConfig | None = None,
    *,
    cameras: Sequence[str] | Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    layout: str | Mapping[str, str] | None = None,
    colour_order: str = "rgb",
    flip: str | Mapping[str, str] | None = None,
) -> VecEnv:
    """Return a wrapper of a Stable-Baselines3 `VecEnv` that replaces images by embeddings.

    The images in `terminal_observation` are also replaced. This is a function and not a class, so
    that the library does not need Stable-Baselines3 (the extra `sb3`) at import.

    Args:
        venv: environments whose observations contain images of uint8, or of floats in [0, 1].
        encoder: an encoder, or a name or folder that `load_encoder` accepts.
        stream: settings of streams, with which embeddings also depend on earlier frames of the
            episode; None: embeddings depend on one frame only.
        cameras: paths (such as `pixels/top`) or camera names of the images; a mapping from paths to
            names renames cameras. None: all detected images.
        exclude: paths or camera names of images that are not embedded.
        layout: order of the axes of images with an ambiguous shape, `hwc`, `chw` or `hw`; one value
            for all of them, or a mapping by path or camera name. None: detected from the shape.
        colour_order: order of the colour channels of all images, `rgb` or `bgr` (OpenCV).
        flip: operation that turns images upright, `vertical` or `rotate180`; one value for all
            images, or a mapping by path or camera name. None: images are not turned.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
        ValueError: the space has no image or only ambiguous images (the message lists them and the
            argument to add), or the settings of the stream are invalid.
    """
    wrapper = _vec_env_class()
    warn_upside_down(venv, flip)
    choice = ImageChoice(
        cameras=cameras, exclude=exclude, layout=layout, colour_order=colour_order, flip=flip
    )
    return wrapper(venv, encoder, stream, choice)


@cache
def _vec_env_class() -> Any:
    try:
        from stable_baselines3.common.vec_env import VecEnvWrapper
    except ImportError as error:
        raise ImportError(
            "TotoVecEnv needs Stable-Baselines3: pip install 'toto-robot[sb3]'"
        ) from error

    class TotoVecEnvWrapper(VecEnvWrapper):
        def __init__(
            self,
            venv: VecEnv,
            encoder: AnyEncoder,
            stream: StreamConfig | None,
            choice: ImageChoice,
        ) -> None:
            self._embedder = ObservationEmbedder(
                venv.observation_space, encoder, venv.num_envs, stream, choice
            )
            super().__init__(venv, self._embedder.space(venv.observation_space, batch=None))
            self.encoder = self._embedder.encoder
            self.cameras = self._embedder.cameras

        def reset(self) -> Observation:
            observations = self.venv.reset()
            self.reset_infos = self.venv.reset_infos
            images = self._embedder.images(observations, slice(None))
            begins = np.ones(self.num_envs, np.bool_)
            (parts,) = self._embedder.embed([images], [range(self.num_envs)], [begins])
            return self._embedder.replace(observations, parts, single=False)

        def step_wait(self) -> tuple[Observation, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
            observations, rewards, dones, infos = self.venv.step_wait()
            key = "terminal_observation"
            ended = [index for index, info in enumerate(infos) if key in info]
            last = [self._embedder.images(infos[index][key], None) for index in ended]
            *last_parts, parts = self._embedder.embed(
                [*last, self._embedder.images(observations, slice(None))],
                [*([index] for index in ended), range(self.num_envs)],
                [*(np.zeros(1, np.bool_) for _ in ended), np.asarray(dones, np.bool_)],
            )
            infos = list(infos)
            for index, one in zip(ended, last_parts, strict=True):
                whole = self._embedder.replace(infos[index][key], one, single=True)
                infos[index] = infos[index] | {key: whole}
            self.reset_infos = self.venv.reset_infos
            return self._embedder.replace(observations, parts, single=False), rewards, dones, infos

    return TotoVecEnvWrapper
