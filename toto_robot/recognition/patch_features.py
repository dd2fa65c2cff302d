"""Compute the features of the patches of single frames, for all layers of an encoder.

    source = open_patches(encoder, image_size=256, rope_base=None)    # None: only the colours
    features = source.features(frame, layers=(3, 4))    # uint8 [h w 3] -> a tensor [n d] per layer

The whole frame is resized to a square, as in the code of Jabri et al. The n patches are in raster
order.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, one_hot, pixel_unshuffle

from ..encoders.contract import FrameEncoder
from ..encoders.pixels import PixelEncoder
from ..encoders.resized import PatchedEncoder, at_image_size

__all__ = ["ColourPatches", "PatchFeatures", "open_patches"]

COLOUR_PATCH = 8  # side of a patch without an encoder, pixels
LEVELS = 4  # levels per colour channel of the histogram


@runtime_checkable
class PatchFeatures(Protocol):
    """A source of the features of patches.

    Attributes:
        layers: numbers of the layers. 0 is the embedding of the input.
        side: number of patches along a side of a frame.
        patch: side of a patch, pixels of the resized frame.
    """

    layers: tuple[int, ...]
    side: int
    patch: int

    def features(self, frame: NDArray[np.uint8], layers: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the features [n d] of the patches of a frame [h w 3], for each of the layers."""
        ...


def open_patches(
    encoder: FrameEncoder | None, image_size: int, rope_base: float | None
) -> PatchFeatures:
    """Return the source of features for an encoder, or `ColourPatches` if there is no encoder.

    Args:
        encoder: the encoder, which is not changed; None: no encoder.
        image_size: side of the square to which frames are resized, pixels.
        rope_base: base of the rotary angles; None: as in training.

    Raises:
        ValueError: the encoder has no features of patches, the image size is not supported, or
            `rope_base` is given without an encoder.
    """
    if encoder is None or isinstance(encoder, PixelEncoder):
        if rope_base is not None:
            raise ValueError("rope_base has no effect without an encoder; set rope_base=null")
        return ColourPatches(image_size)
    if isinstance(encoder, PatchedEncoder):
        return _EncoderPatches(at_image_size(encoder, image_size, rope_base))
    raise ValueError(
        f"this command reads features of patches; {type(encoder).__name__} has none: use a Toto "
        "without a stream, or a vision transformer"
    )


class _EncoderPatches:
    """The patches of an encoder at all its layers."""

    def __init__(self, encoder: PatchedEncoder) -> None:
        self.layers = tuple(range(encoder.num_layers + 1))
        self.side = round(encoder.tokens_per_frame**0.5)
        self.patch = encoder.image_size // self.side
        self._encoder = encoder

    def features(self, frame: NDArray[np.uint8], layers: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the features [n d] of the patches of a frame [h w 3], for each of the layers."""
        with torch.no_grad():
            outputs = self._encoder.features(frame[None], layers)
        return tuple(output[0].float() for output in outputs)


class ColourPatches:
    """A control without an encoder, with two kinds of features, which are called layers.

    Layer 0 is the 8 x 8 RGB pixels of a patch, in [-1, 1]. Layer 1 is the histogram of the colours
    in the 3 x 3 patches around a patch, with 4 levels for each channel. Its values are square roots
    of shares, so that the cosine of two histograms is their Bhattacharyya coefficient.
    """

    layers: tuple[int, ...] = (0, 1)
    patch = COLOUR_PATCH

    def __init__(self, image_size: int) -> None:
        if image_size < COLOUR_PATCH or image_size % COLOUR_PATCH:
            raise ValueError(
                f"image_size must be a multiple of {COLOUR_PATCH} pixels, got {image_size}"
            )
        self.side = image_size // COLOUR_PATCH
        self._size = image_size

    def features(self, frame: NDArray[np.uint8], layers: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the features [n d] of the patches of a frame [h w 3], for each of the layers."""
        size = (self._size, self._size)
        small = torch.from_numpy(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
        results = {0: self._pixels, 1: self._histograms}
        return tuple(results[layer](small) for layer in layers)

    def _pixels(self, image: Tensor) -> Tensor:
        planes = image.permute(2, 0, 1)[None].float() / 127.5 - 1
        return pixel_unshuffle(planes, COLOUR_PATCH)[0].flatten(1).T

    def _histograms(self, image: Tensor) -> Tensor:
        levels = (image.long() * LEVELS) // 256
        bins = (levels * torch.tensor([LEVELS**2, LEVELS, 1])).sum(-1)
        planes = one_hot(bins, LEVELS**3).permute(2, 0, 1)[None].float()
        shares = avg_pool2d(avg_pool2d(planes, COLOUR_PATCH), 3, 1, 1, count_include_pad=False)
        return shares[0].flatten(1).T.sqrt()
