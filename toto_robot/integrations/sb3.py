"""A features extractor for the policies of Stable-Baselines3.

    PPO("MultiInputPolicy", env, policy_kwargs=dict(
        features_extractor_class=TotoFeaturesExtractor,
        features_extractor_kwargs=dict(encoder="toto-nano"),
        normalize_images=False,
    ))

It encodes images at every forward pass of the policy, with PPO `1 + n_epochs` times for each image.
The wrapper `TotoVecEnv` encodes each image once, and the rollout buffer of the algorithm then
contains embeddings instead of images. Use the wrapper unless the environment cannot be wrapped.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from gymnasium import spaces
from torch import Tensor

from ..encoders.contract import FrameEmbedder
from ..wrappers.backbone import TotoBackbone
from ..wrappers.images import ImageEntry, find_images

__all__ = ["TotoFeaturesExtractor"]  # noqa: F822  # created at its first use


def __getattr__(name: str) -> Any:
    """Return `TotoFeaturesExtractor`, whose base class is imported from an optional package."""
    if name == "TotoFeaturesExtractor":
        return _extractor_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _extractor_class() -> Any:
    try:
        from stable_baselines3.common.preprocessing import get_flattened_obs_dim
        from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    except ImportError as error:
        raise ImportError(
            "TotoFeaturesExtractor needs Stable-Baselines3: pip install 'toto-robot[sb3]'"
        ) from error

    class TotoFeaturesExtractor(BaseFeaturesExtractor):
        """A features extractor that concatenates embeddings of images and all other entries.

        The encoder is frozen. Its weights are saved with the policy only if `encoder` is an object.

        Args:
            observation_space: an image, or a Dict with images; from Stable-Baselines3.
            encoder: an encoder, or a name or folder for `load_encoder`.
            cameras: keys or camera names of the images that are embedded. None: all images.
            layout: order of the axes of images with an ambiguous shape, `hwc`, `chw` or `hw`; one
                value for all of them, or a mapping by key or camera name. None: detected.

        Raises:
            ValueError: the space has no image or only ambiguous images, or an image is a stack of
                frames.
        """

        def __init__(
            self,
            observation_space: spaces.Space,
            encoder: FrameEmbedder | str | Path = "toto-nano",
            cameras: Sequence[str] | None = None,
            layout: str | Mapping[str, str] | None = None,
        ) -> None:
            space = observation_space
            entries, _ = find_images(space, cameras=cameras, layout=layout)
            for entry in entries:
                if entry.stacked:
                    raise ValueError(
                        f"{entry.describe()}: this extractor encodes single frames; the wrapper "
                        "TotoVecEnv encodes stacks"
                    )
            self._entries: dict[str, ImageEntry] = {entry.name: entry for entry in entries}
            others = [
                (key, one)
                for key, one in (space.items() if isinstance(space, spaces.Dict) else ())
                if key not in self._entries
            ]
            self._others = [key for key, _ in others]
            backbone = TotoBackbone(encoder, channels="last")
            rest = sum(get_flattened_obs_dim(one) for _, one in others)
            super().__init__(space, len(entries) * backbone.dim + rest)
            self._backbone = (backbone,)  # not a submodule: it is neither trained nor saved

        def forward(self, observations: Any) -> Tensor:
            images = [observations[name] if name else observations for name in self._entries]
            frames = [
                _frames(entry, image)
                for entry, image in zip(self._entries.values(), images, strict=True)
            ]
            (backbone,) = self._backbone
            backbone.to(frames[0].device)
            parts = [backbone(one) for one in frames]
            return torch.cat(
                [*parts, *(observations[key].flatten(1).float() for key in self._others)], dim=1
            )

    # so that a saved policy refers to the class by its module and name
    TotoFeaturesExtractor.__qualname__ = "TotoFeaturesExtractor"
    return TotoFeaturesExtractor


def _frames(entry: ImageEntry, images: Tensor) -> Tensor:
    """Return uint8 frames [b h w 3] from the images that Stable-Baselines3 passes."""
    # floats of uint8 images: divided by 255 unless normalize_images=False
    if images.dtype.is_floating_point and not entry.is_float:
        if not torch.equal(images, images.round()):
            raise ValueError(
                "the images are already divided by 255, which would round them twice: add "
                "normalize_images=False to policy_kwargs"
            )
        images = images.to(torch.uint8)
    return cast(Tensor, entry.frames(images))
