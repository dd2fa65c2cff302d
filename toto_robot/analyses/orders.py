"""Cut frame sequences out of videos, and reorder them as controls for the analysis `positions`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..encoders.encoder import Encoder
from .clips import TokenClips

__all__ = [
    "ORDERS",
    "Windows",
    "arrange",
    "cut_windows",
    "draw_from_other_files",
    "possible_orders",
]

ORDERS = ("video", "shuffled", "unrelated", "images", "repeated")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """Non-overlapping sequences of frames from several data sets.

    Shapes: s is the number of sequences, f the number of frames in a sequence, and n the number of
    tokens in a frame.

    Attributes:
        tokens: token ids, shape [s f n].
        files: index of the video file of each sequence, shape [s]. Files of different data sets
            have different indices.
        sets: index of the data set of each sequence, shape [s].
    """

    tokens: NDArray[np.int64]
    files: NDArray[np.int64]
    sets: NDArray[np.int64]


def cut_windows(sets: Sequence[TokenClips], frames: int, stride: int, most: int) -> Windows:
    """Cut the clips of each data set into sequences, and return at most ``most`` per data set.

    If there are more sequences, evenly spaced sequences of the data set are returned.

    Args:
        sets: the data sets.
        frames: number of frames in a sequence.
        stride: distance between two frames of a sequence, in frames of the data set.
        most: maximum number of sequences of each data set.

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
                f"{item.name} has no clip of {reach} frames: stride {stride} is too large"
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
    """Return the orders that are possible with these sequences, and print the excluded orders.

    The orders `unrelated` and `images` combine frames of different files. They are impossible if
    more than half of the sequences come from one file.
    """
    if 2 * np.bincount(windows.files).max() <= len(windows.files):
        return ORDERS
    print("unrelated and images are left out: one file has more than half of the sequences")
    return tuple(order for order in ORDERS if order not in ("unrelated", "images"))


def arrange(
    windows: Windows, order: str, encoder: Encoder, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Reorder the frames of the sequences, and return model inputs.

    `video`, `unrelated` and `images` have the same frames at each position, only in different
    sequences. `shuffled` permutes the frames within each sequence. `repeated` repeats the first
    frame of each sequence.

    Args:
        windows: the s sequences of f frames with n tokens each.
        order: one of `ORDERS`. The docstring of the module `positions` explains them.
        encoder: the encoder, whose start tokens are used.
        generator: random generator of the order.

    Returns:
        First, the token ids of the reordered sequences, each after a start token, shape [s 1+f*n].
        Second, the index of the sequence from which each frame was taken, shape [s f].
    """
    tokens = windows.tokens
    count, frames = tokens.shape[:2]
    sources = np.tile(np.arange(count)[:, None], frames)
    if order == "shuffled":
        turns = generator.permuted(np.tile(np.arange(frames), (count, 1)), axis=1)
        tokens = tokens[sources, turns]
    elif order in ("unrelated", "images"):
        sources = draw_from_other_files(windows.files, frames, generator)
        tokens = tokens[sources, np.arange(frames)]
    elif order == "repeated":
        tokens = np.repeat(tokens[:, :1], frames, axis=1)
    layout = encoder.transformer.config
    start = layout.start_image if order == "images" else layout.start_video
    ids = np.concatenate([np.full((count, 1), start), tokens.reshape(count, -1)], axis=1)
    return ids, sources


def draw_from_other_files(
    files: NDArray[np.int64], frames: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Select, for each frame of each sequence, another sequence from which the frame is taken.

    The first frame of a sequence is not replaced. Every later frame comes from a sequence of
    another file. At each position, each sequence is a source exactly once. With few files, several
    frames of a sequence may come from the same other file.

    Args:
        files: index of the file of each of the s sequences, shape [s]. No file may have more than
            half of the sequences.
        frames: number of frames f in a sequence.
        generator: random generator of the order of the files.

    Returns:
        Index of the source sequence of each frame, shape [s f].
    """
    ranks = generator.permutation(int(files.max()) + 1)
    order = np.argsort(
        ranks[files], kind="stable"
    )  # sequences grouped by file, files in random order
    largest = int(np.bincount(files).max())
    shifts = largest + np.arange(frames - 1) * largest % (len(files) - 2 * largest + 1)
    chosen = np.empty((len(files), frames), dtype=np.int64)
    for frame, shift in enumerate([0, *shifts]):
        chosen[order, frame] = np.roll(order, -shift)
    return chosen
