"""Compute the reconstruction error of the most saturated pixels, such as those of coloured objects.

The saturation of a pixel is its largest channel minus its smallest channel, 0 to 255.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .statistics import Array

__all__ = ["LEVELS", "Saturated", "count_pixels", "decibels", "split_pixels"]

LEVELS = 256  # values of a channel, and of a pixel's saturation


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturated:
    """Errors of the most saturated pixels and of all other pixels.

    Attributes:
        psnr_db: PSNR of the most saturated pixels, dB.
        psnr_rest_db: PSNR of all other pixels, dB.
        kept: saturation of the reconstruction divided by the saturation of the image, both on the
            most saturated pixels. 1 means that the colours are kept.
        share: actual share of the most saturated pixels, 0 to 1.
        threshold: lowest saturation of these pixels, 0 to 255.
    """

    psnr_db: float
    psnr_rest_db: float
    kept: float
    share: float
    threshold: int


def count_pixels(frames: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Array:
    """Group pixels by their saturation in the original frames, and return sums for each group.

    Args:
        frames: original frames, uint8 [n h w 3].
        decoded: reconstructions of the frames, uint8 [n h w 3].

    Returns:
        float64 [256 3], one row for each saturation. The columns are the number of pixels, the sum
        of their squared errors (mean over the channels), and the sum of their saturation in
        ``decoded``.
    """
    level = _saturation(frames).reshape(-1)
    error = (frames.astype(np.float64) - decoded) ** 2
    sums = np.empty((LEVELS, 3))
    for column, values in enumerate((None, error.mean(-1), _saturation(decoded))):
        weights = None if values is None else values.reshape(-1)
        sums[:, column] = np.bincount(level, weights, LEVELS)
    return sums


def split_pixels(sums: Array, share: float) -> Saturated:
    """Compute the errors of the most saturated pixels and of all others from `count_pixels`.

    Pixels of equal saturation are not separated, so the actual share may be slightly larger than
    ``share``.
    """
    above = np.cumsum(sums[::-1, 0])[::-1]  # number of pixels with at least this saturation
    threshold = int(np.flatnonzero(above >= share * above[0])[-1])
    top, rest = sums[threshold:].sum(0), sums[:threshold].sum(0)
    there = (np.arange(LEVELS) * sums[:, 0])[threshold:].sum()
    return Saturated(
        psnr_db=decibels(top[1] / top[0]),
        psnr_rest_db=decibels(rest[1] / rest[0]) if rest[0] else float("nan"),
        kept=float(top[2] / there) if there else float("nan"),
        share=float(top[0] / above[0]),
        threshold=threshold,
    )


def _saturation(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    return images.max(-1).astype(np.int64) - images.min(-1)


def decibels(squared_error: float) -> float:
    """Return the PSNR in dB for a mean squared error of pixel values from 0 to 255."""
    return float(10 * np.log10(255**2 / squared_error)) if squared_error else float("inf")
