"""Draw training examples from a weighted mixture of data sets.

The examples are frames for a tokenizer, or sequences for a transformer. Each mixture is an endless
list of rows, and a row is one training example. Row n depends only on n, the seed and the data. It
does not depend on the batch size, the rank or the thread, so a resumed run only needs the number of
the next row. A window is a sequence of consecutive frames of a clip. Each window of a data set
occurs once per epoch, in a new random order. In each block of 1000 rows, the number of rows of a
data set is exactly proportional to its weight (see `shuffle`).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from ..models import SequenceLayout
from ..tokenizers import AnyTokenizer
from .shards import HOLD_OUT, Shard, split
from .shuffle import BLOCK, apportion, interleave, key_of, permute, uniform
from .token_shards import TokenShards

__all__ = [
    "FrameMixture",
    "FrameSequenceMixture",
    "SequenceMixture",
    "TokenData",
    "announce_held_out",
    "distinct_names",
    "held_out",
    "require_clips",
    "split",
]


TokenData = Shard | TokenShards
Data = TypeVar("Data", bound=TokenData)


class SequenceMixture:
    """A mixture of token sequences (paper section 3.4).

    A video sequence has the video start token, then the tokens of ``frames`` consecutive frames of
    one clip, then the end token. An image sequence has the image start token, then the tokens of
    ``frames`` unrelated images, then the end token.
    """

    def __init__(
        self,
        shards: Sequence[TokenData],
        weights: Sequence[float],
        tokenizer: AnyTokenizer,
        config: SequenceLayout,
        frames: int,
        *,
        validation: bool,
        seed: int,
    ) -> None:
        """Open the tokens of ``shards``.

        Args:
            shards: the data sets.
            weights: share of each data set in the rows, relative to the sum of all weights.
            tokenizer: the tokenizer that made the tokens.
            config: ids of the start and end tokens, and the size of a sequence.
            frames: number of frames in a sequence.
            validation: If True, read the held-out files. If False, read the training files.
            seed: random seed of the order of the rows.

        Raises:
            ValueError: a data set is not tokenised, has no clip of ``frames`` frames, or too few
                images.
        """
        self._config = config
        self._tokens = [shard.tokens(tokenizer) for shard in shards]
        self._begins = np.array(
            [
                config.start_video if shard.kind == "video" else config.start_image
                for shard in shards
            ]
        )
        self._stream = _sequences(shards, weights, frames, validation, seed)

    def rows(self, first: int, count: int) -> np.ndarray:
        """Return the token ids of ``count`` rows, from row ``first`` on.

        The result is int64 [count frames*tokens_per_frame+2], with a start and an end token.

        Raises:
            ValueError: ``first`` is negative or ``count`` below 1.
        """
        sources, frames = self._stream.rows(first, count)
        tokens_per_frame = self._tokens[0].shape[1]
        result = np.empty((count, frames.shape[1] * tokens_per_frame + 2), np.int64)
        result[:, 0] = self._begins[sources]
        for row, (source, wanted) in enumerate(zip(sources, frames, strict=True)):
            result[row, 1:-1] = self._tokens[source][wanted].reshape(-1)
        result[:, -1] = self._config.end
        return result


class FrameSequenceMixture:
    """A mixture of frame sequences, for transformers that read pixels and not tokens.

    With equal data sets, weights and seed, row n holds the frames whose tokens are in row n of
    `SequenceMixture`.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        weights: Sequence[float],
        frames: int,
        *,
        validation: bool,
        seed: int,
    ) -> None:
        """Open the frames of ``shards``. `SequenceMixture` explains the arguments and errors."""
        self._frames = _same_size(shards)
        self._stream = _sequences(shards, weights, frames, validation, seed)

    def rows(self, first: int, count: int) -> np.ndarray:
        """Return the frames of ``count`` rows, from row ``first`` on.

        The result is uint8 [count frames size size 3], where size is the side of a frame, pixels.

        Raises:
            ValueError: ``first`` is negative or ``count`` below 1.
        """
        sources, frames = self._stream.rows(first, count)
        result = np.empty((count, frames.shape[1], *self._frames[0].shape[1:]), np.uint8)
        for row, (source, wanted) in enumerate(zip(sources, frames, strict=True)):
            result[row] = self._frames[source][wanted]
        return result


class FrameMixture:
    """A mixture of random crops of single frames, for a tokenizer or a masked autoencoder.

    Attributes:
        side: side of the smallest frames, pixels.
    """

    def __init__(
        self, shards: Sequence[Shard], weights: Sequence[float], *, validation: bool, seed: int
    ) -> None:
        """Open the frames of ``shards``.

        With ``validation``, only the held-out files are read. Data sets without held-out files are
        then left out. `SequenceMixture` explains the other arguments.

        Raises:
            ValueError: no data set has a file for training, or a held-out file for validation.
        """
        parts = [
            (shard, weight, runs)
            for shard, weight in zip(shards, weights, strict=True)
            if len(runs := shard.runs(validation))
        ]
        if not parts:
            raise ValueError(
                f"none of {[shard.name for shard in shards]} has files held out for validation: a "
                f"data set needs at least {HOLD_OUT} files"
            )
        self._key = key_of(seed, 1)
        self._frames = [shard.frames() for shard, _, _ in parts]
        self.side = min(frames.shape[1] for frames in self._frames)
        self._stream = _Stream(
            [_Windows(runs, span=1, draws=1) for _, _, runs in parts],
            [weight for _, weight, _ in parts],
            seed,
        )

    def rows(self, first: int, count: int, side: int) -> np.ndarray:
        """Return the cropped frames of ``count`` rows from row ``first`` on: [count side side 3].

        The frames are uint8, and ``side`` is the side of the crops, pixels.

        Raises:
            ValueError: ``first`` is negative, ``count`` below 1, or a data set's frames are smaller
            than ``side``.
        """
        if not 1 <= side <= self.side:
            raise ValueError(f"crops must be of 1 to {self.side} pixels, got {side}")
        sources, frames = self._stream.rows(first, count)
        numbers = 2 * np.arange(first, first + count)
        across, down = uniform(self._key, numbers), uniform(self._key, numbers + 1)
        crops = np.empty((count, side, side, 3), np.uint8)
        for row, (source, (wanted,)) in enumerate(zip(sources, frames, strict=True)):
            frame = self._frames[source][wanted]
            top = int(down[row] * (frame.shape[0] - side + 1))
            left = int(across[row] * (frame.shape[1] - side + 1))
            crops[row] = frame[top : top + side, left : left + side]
        return crops


class _Windows:
    """All windows of ``span`` consecutive frames of a data set. A row combines ``draws`` windows.

    A row of a video data set has one window. A row of an image data set has several windows, each
    of one frame.
    """

    def __init__(self, runs: np.ndarray, span: int, draws: int) -> None:
        self._runs = runs[runs[:, 1] >= span]
        self._span, self._draws = span, draws
        self.frames_of_a_row = span * draws
        self._ends = np.cumsum((self._runs[:, 1] - span + 1) * self._runs[:, 2])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def frames(self, visits: np.ndarray, key: int) -> np.ndarray:
        """Return the frame indices of rows of this data set.

        Args:
            visits: number of each of v rows, counted within this data set, shape [v].
            key: key of the random order.

        Returns:
            Frame indices, shape [v draws*span].
        """
        turns = visits[:, None] * self._draws + np.arange(self._draws)  # v draws
        epochs, positions = np.divmod(turns, len(self))
        windows = permute(positions, len(self), key, epochs)
        run = np.searchsorted(self._ends, windows, side="right")
        start, length, count = np.moveaxis(self._runs[run], -1, 0)
        places = length - self._span + 1
        clip, offset = np.divmod(windows - self._ends[run] + places * count, places)
        first = start + clip * length + offset
        return (first[..., None] + np.arange(self._span)).reshape(len(visits), -1)


class _Stream:
    """An endless list of rows, which mixes several data sets in proportion to their weights."""

    def __init__(self, windows: Sequence[_Windows], weights: Sequence[float], seed: int) -> None:
        if len(windows) != len(weights):
            raise ValueError(f"{len(windows)} data sets need as many weights, got {len(weights)}")
        self._windows, self._seed = windows, seed
        self._counts = apportion(weights)
        # Rows are drawn in blocks, because one NumPy call then makes a thousand rows.
        self._block = lru_cache(maxsize=8)(self._draw)

    def rows(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the data set and the frames of ``count`` rows, from row ``first`` on.

        The index of the data set is int64 [count]. The indices of the f frames are int64 [count f].
        """
        if first < 0 or count < 1:
            raise ValueError(
                f"first must be at least 0 and count at least 1, got {first} and {count}"
            )
        numbers = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
        blocks = [self._block(number) for number in numbers]
        here = slice(first % BLOCK, first % BLOCK + count)
        sources, frames = (np.concatenate(part)[here] for part in zip(*blocks, strict=True))
        return sources, frames

    def _draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the data set [BLOCK] and the frames [BLOCK f] of all rows of a block, as int64."""
        sources, ranks = interleave(self._counts, key_of(self._seed, 2), number)
        visits = number * np.asarray(self._counts)[sources] + ranks
        frames = np.empty((BLOCK, self._windows[0].frames_of_a_row), np.int64)
        for source, windows in enumerate(self._windows):
            here = sources == source
            if here.any():
                frames[here] = windows.frames(visits[here], key_of(self._seed, 3, source))
        return sources, frames


def _sequences(
    shards: Sequence[TokenData], weights: Sequence[float], frames: int, validation: bool, seed: int
) -> _Stream:
    """Return the rows of a mixture whose sequences have ``frames`` frames."""
    return _Stream(require_clips(shards, frames, validation=validation), list(weights), seed)


def require_clips(
    shards: Sequence[TokenData], frames: int, *, validation: bool
) -> "list[_Windows]":
    """Return the windows of ``frames`` frames of each data set, which need not have tokens yet.

    Raises:
        ValueError: a data set of videos has no clip of ``frames`` frames or more.
    """
    windows = [_windows(shard, frames, validation) for shard in shards]
    for shard, mine in zip(shards, windows, strict=True):
        if not len(mine):
            span = frames if shard.kind == "video" else 1
            raise ValueError(f"{shard.folder} ({shard.name}) has no clip of {span} frames or more")
    return windows


def _windows(shard: TokenData, frames: int, validation: bool) -> "_Windows":
    span, draws = (frames, 1) if shard.kind == "video" else (1, frames)
    return _Windows(shard.runs(validation), span, draws)


def held_out(shards: Sequence[Data], frames: int) -> dict[str, Data]:
    """Return the data sets that have held-out sequences of ``frames`` frames.

    The keys are their `distinct_names`.
    """
    return {
        name: shard
        for name, shard in zip(distinct_names(shards), shards, strict=True)
        if len(_windows(shard, frames, validation=True))
    }


def announce_held_out(shards: Sequence[TokenData], lengths: Iterable[int]) -> None:
    """Print a line for each data set without held-out sequences of one of these lengths, frames."""
    for name, shard in zip(distinct_names(shards), shards, strict=True):
        missing = [n for n in lengths if not len(_windows(shard, n, validation=True))]
        if missing and not len(shard.runs(validation=True)):
            print(f"{name}: too few files to hold some out, so it has no validation loss")
        elif missing:
            print(
                f"{name}: no held-out file has {min(missing)} frames or more, so it has no "
                "validation loss with sequences of this length"
            )


def distinct_names(shards: Sequence[TokenData]) -> list[str]:
    """Return the name of each data set, or its folder if several data sets have this name."""
    names = [shard.name for shard in shards]
    return [
        name if names.count(name) == 1 else str(shard.folder)
        for name, shard in zip(names, shards, strict=True)
    ]


def _same_size(shards: Sequence[Shard]) -> list[np.ndarray]:
    """Return the frames of each data set. Raise ValueError if their sizes differ."""
    frames = [shard.frames() for shard in shards]
    names = distinct_names(shards)
    sizes = {name: array.shape[1] for name, array in zip(names, frames, strict=True)}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"all data sets of a mixture must have frames of the same size, got {sizes}"
        )
    return frames
