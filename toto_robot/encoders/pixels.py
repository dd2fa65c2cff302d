"""Raw pixels with the methods of all encoders: the baseline that every encoder must exceed.

    encoder = PixelEncoder()
    embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b 768]

A frame is averaged to 16 x 16 RGB pixels. For a fixed camera and fixed light, these 768 numbers
show where things are; a change of the light or the camera changes all of them.
"""

import hashlib
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..tokenizers.tokenizer import check_frames
from .contract import (
    NO_PAST,
    CodeFormat,
    Codes,
    IndependentFrames,
    as_float16_codes,
    from_float16_codes,
)

__all__ = ["PIXELS_SIDE", "PixelEncoder", "Pixels", "small_pixels"]

PIXELS_SIDE = 16  # image side of the baseline, pixels


class Pixels:
    """The attributes of an encoder without a model, whose embedding of a frame is its pixels.

    Attributes:
        dim: number e of values in an embedding: 3 colours x height x width.
        layer: always 0.
        pool: name of the embedding, such as `pixels16`.
        past: always `NO_PAST`, because an embedding depends on one frame only.
        image_size: side of the square to which frames are averaged, pixels.
        weights_hash: hash of the method, which has no weights.
    """

    past = NO_PAST

    def __init__(self, image_size: int, name: str) -> None:
        self.dim = 3 * image_size**2
        self.layer, self.pool, self.image_size = 0, f"{name}{image_size}", image_size
        self.weights_hash = hashlib.sha256(self.pool.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """A hash; if it is equal for two encoders, their embeddings are interchangeable."""
        return self.weights_hash

    @property
    def codes(self) -> CodeFormat:
        """The format of the codes that `compress` returns."""
        return CodeFormat(size=self.dim, fingerprint=self.fingerprint)

    def open_streams(self, num_streams: int) -> IndependentFrames:
        """Return streams that ignore earlier frames."""
        del num_streams
        return IndependentFrames(cast(Any, self))


class PixelEncoder(Pixels):
    """An encoder without a model: the embedding of a frame is its 16 x 16 RGB pixels, in [-1, 1].

    The codes are the embedding.
    """

    def __init__(self) -> None:
        super().__init__(PIXELS_SIDE, "pixels")

    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Return the embeddings float32 [b e] of uint8 RGB frames [b h w 3].

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: dtype, range, channels or number of dimensions are wrong; the message says
                which.
        """
        pixels = check_frames(frames).cpu().numpy()
        return 2 * torch.from_numpy(small_pixels(pixels)).flatten(1) - 1

    def compress(self, frames: np.ndarray | Tensor) -> NDArray[np.float16]:
        """Return the embeddings [b e] of uint8 RGB frames [b h w 3] as float16, to save them."""
        return as_float16_codes(self(frames).numpy(), self.pool)

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] that `compress` returned, as float32.

        Raises:
            ValueError: the codes cannot be output of `compress`.
        """
        return from_float16_codes(codes)


def small_pixels(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Resize images [... h w 3] to 16 x 16: [... 3 16 16] in [0, 1]."""
    flat = torch.from_numpy(frames).reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2).float()
    small: Any = adaptive_avg_pool2d(flat, PIXELS_SIDE) / 255
    return small.reshape(*frames.shape[:-3], *small.shape[1:]).numpy()
