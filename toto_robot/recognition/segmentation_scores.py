"""Compute the scores J and F of object masks in videos, as DAVIS defines them.

J is the overlap of the regions, and F is the agreement of the outlines (Perazzi et al. 2016). The
values equal those of DAVIS's own program, davis2017-evaluation, with one exception: the decay of
videos of more than 258 frames. That program casts the frame numbers of the four quarters to uint8,
so from 256 on it reads wrong frames. This module reads the right frames.

    scores = np.stack([score_frame([mask], truth, objects=1) for mask, truth in pairs])  # t 1 1 2
    summarise(scores[:, 0, 0, 0]).mean                                                   # mean of J

DAVIS leaves out the first frame, whose mask is given, and the last frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Outline",
    "Summary",
    "boundary_score",
    "find_outline",
    "region_score",
    "score_frame",
    "summarise",
]

TOLERANCE = 0.008  # distance at which outlines still agree, share of the image diagonal
RECALL_FROM = 0.5  # a frame with a score above this value counts as found
PARTS = 4  # the decay compares the first with the last of so many parts of a video

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outline:
    """The outline of a region.

    Attributes:
        pixels: bool [h w], the pixels on the outline, which is one pixel wide.
        near: bool [h w], the pixels whose distance from the outline is within the tolerance.
    """

    pixels: Mask
    near: Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The three numbers that DAVIS reports for the scores of an object in a video.

    Attributes:
        mean: mean over the frames.
        recall: share of the frames with a score above 0.5.
        decay: mean of the first quarter of the frames minus mean of the last quarter.
    """

    mean: float
    recall: float
    decay: float


def score_frame(
    masks: Sequence[NDArray[np.integer[Any]]], truth: NDArray[np.integer[Any]], objects: int
) -> NDArray[np.float64]:
    """Return J and F of several masks of one frame, float64 [m o 2].

    Args:
        masks: m masks [h w]: 0 is the background, k is object k.
        truth: the true mask [h w].
        objects: number o of objects.

    Raises:
        ValueError: a mask and the true mask have different sizes.
    """
    scores = np.empty((len(masks), objects, 2))
    for k in range(1, objects + 1):
        wanted = truth == k
        outline = find_outline(wanted)
        for row, mask in zip(scores[:, k - 1], masks, strict=True):
            found = mask == k
            row[:] = region_score(found, wanted), boundary_score(find_outline(found), outline)
    return scores


def region_score(mask: Mask, truth: Mask) -> float:
    """Return J: intersection over union of two regions [h w]. It is 1 if both are empty.

    Raises:
        ValueError: the sizes differ.
    """
    if mask.shape != truth.shape:
        raise ValueError(f"a mask has size {mask.shape}, but the true mask has {truth.shape}")
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def find_outline(region: Mask) -> Outline:
    """Return the outline of a region [h w].

    A pixel is on the outline if it differs from its right, lower or lower right neighbour. The
    outline is therefore half a pixel above and left of the true border. (The bottom row and the
    right column compare only with the neighbours that exist.) The tolerance is 0.008 times the
    image diagonal, rounded up to whole pixels.
    """
    # A border whose last row and column are repeated: pixels there do not differ from it.
    around = np.pad(region, ((0, 1), (0, 1)), mode="edge")
    here, right, below, across = around[:-1, :-1], around[:-1, 1:], around[1:, :-1], around[1:, 1:]
    pixels = (here ^ right) | (here ^ below) | (here ^ across)
    radius = int(np.ceil(TOLERANCE * np.hypot(*region.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    return Outline(pixels=pixels, near=cv2.dilate(pixels.astype(np.uint8), disk) > 0)


def boundary_score(mask: Outline, truth: Outline) -> float:
    """Return F: the harmonic mean of precision and recall of the pixels of an outline.

    Precision is the share of the mask's outline that is near the true outline. Recall is the share
    of the true outline that is near the mask's outline. F is 1 if both outlines are empty, and 0 if
    only one of them is empty.
    """
    found, wanted = np.count_nonzero(mask.pixels), np.count_nonzero(truth.pixels)
    if not found or not wanted:
        return float(found == wanted)
    precision = np.count_nonzero(mask.pixels & truth.near) / found
    recall = np.count_nonzero(truth.pixels & mask.near) / wanted
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def summarise(values: NDArray[np.float64]) -> Summary:
    """Return mean, recall and decay of the scores [t] of an object in t frames."""
    ends = np.round(np.linspace(1, len(values), PARTS + 1) + 1e-10).astype(int) - 1
    first, last = (values[ends[part] : ends[part + 1] + 1] for part in (0, PARTS - 1))
    return Summary(
        mean=float(values.mean()),
        recall=float((values > RECALL_FROM).mean()),
        decay=float(first.mean() - last.mean()),
    )
