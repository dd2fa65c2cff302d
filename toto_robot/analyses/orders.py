"""Sequences of frames in their order and in others: the controls of `positions`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..encoders.encoder import Encoder
from .clips import TokenClips

__all__ = ["ORDERS", "Windows", "arrange", "cut_windows", "possible_orders", "strangers"]

ORDERS = ("video", "shuffled", "unrelated", "images", "repeated")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """Non-overlapping sequences of some data sets.

    Attributes:
        tokens: [s f n].
        files: [s] of which file each is, over all data sets.
        sets: [s] of which data set each is.
    """

    tokens: NDArray[np.int64]
    files: NDArray[np.int64]
    sets: NDArray[np.int64]


def cut_windows(sets: Sequence[TokenClips], frames: int, stride: int, most: int) -> Windows:
    """Return at most ``most`` sequences of each data set, spread evenly.

    Raises:
        ValueError: a data set has no clip that is long enough.
    """
    tokens: list[NDArray[np.int64]] = []
    files: list[NDArray[np.int64]] = []
    names: list[NDArray[np.int64]] = []
    seen = 0
    for number, item in enumerate(sets):
        reach = (frames - 1) * stride + 1
        starts = [
            (first, file)
            for (start, length), file in zip(item.clips, item.files, strict=True)
            for first in range(start, start + length - reach + 1, frames * stride)
        ]
        if not starts:
            raise ValueError(
                f"{item.name} has no clip of {reach} frames: stride {stride} is too wide"
            )
        keep = np.unique(
            np.linspace(0, len(starts) - 1, min(most, len(starts))).round().astype(int)
        )
        firsts = np.array([starts[k][0] for k in keep])
        rows = firsts[:, None] + stride * np.arange(frames)
        tokens.append(np.asarray(item.tokens[rows.reshape(-1)], np.int64).reshape(*rows.shape, -1))
        files.append(np.array([starts[k][1] for k in keep]) + seen)
        names.append(np.full(len(keep), number))
        seen += int(item.files.max()) + 1
    return Windows(
        tokens=np.concatenate(tokens), files=np.concatenate(files), sets=np.concatenate(names)
    )


def possible_orders(windows: Windows) -> tuple[str, ...]:
    """Return the orders that there are files enough for, and say which are left out."""
    if 2 * np.bincount(windows.files).max() <= len(windows.files):
        return ORDERS
    print("unrelated and images are left out: half of the sequences are of one file")
    return tuple(order for order in ORDERS if order not in ("unrelated", "images"))


def arrange(
    windows: Windows, order: str, encoder: Encoder, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return sequences [s 1+f*n] in an order of `ORDERS`, and which window lent each frame [s f].

    Every order has the same frames at each place as the videos have, over all sequences; only
    shuffled ones change places within a sequence, and repeated ones are all the first.
    """
    tokens = windows.tokens
    count, frames = tokens.shape[:2]
    lenders = np.tile(np.arange(count)[:, None], frames)
    if order == "shuffled":
        turns = generator.permuted(np.tile(np.arange(frames), (count, 1)), axis=1)
        tokens = tokens[lenders, turns]
    elif order in ("unrelated", "images"):
        lenders = strangers(windows.files, frames, generator)
        tokens = tokens[lenders, np.arange(frames)]
    elif order == "repeated":
        tokens = np.repeat(tokens[:, :1], frames, axis=1)
    layout = encoder.transformer.config
    start = layout.start_image if order == "images" else layout.start_video
    ids = np.concatenate([np.full((count, 1), start), tokens.reshape(count, -1)], axis=1)
    return ids, lenders


def strangers(
    files: NDArray[np.int64], frames: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return for each sequence those [s f] that lend it frames, itself for the first.

    Each sequence lends each of its frames once, and never to a sequence of its own file; where
    there are few files, some frames of a sequence are still of one other file.

    Args:
        files: [s] of which file each sequence is; none has more than half of them.
        frames: f.
        generator: of the order of the files.
    """
    ranks = generator.permutation(int(files.max()) + 1)
    order = np.argsort(ranks[files], kind="stable")  # files one after another, in any order
    largest = int(np.bincount(files).max())
    shifts = largest + np.arange(frames - 1) * largest % (len(files) - 2 * largest + 1)
    chosen = np.empty((len(files), frames), dtype=np.int64)
    for frame, shift in enumerate([0, *shifts]):
        chosen[order, frame] = np.roll(order, -shift)
    return chosen
