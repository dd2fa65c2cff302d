"""Weighted mixtures of data sets: frames for a tokenizer, sequences for a transformer.

Each mixture is an endless stream of rows (training examples). Row n is a pure function of n, the
seed and the data; it does not depend on an iterator, a batch size, a rank or a thread. Every window
of a data set occurs once per epoch, in a new random order in each epoch. Each block of 1000 rows
holds the data sets exactly in proportion to their weights (see `shuffle`).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..models import SequenceLayout
from ..tokenizers import AnyTokenizer
from .shards import HOLD_OUT, Shard, split
from .shuffle import BLOCK, apportion, interleave, key_of, permute, uniform
from .token_shards import TokenShards

__all__ = ["FrameMixture", "FrameSequenceMixture", "SequenceMixture", "TokenData", "split"]


TokenData = Shard | TokenShards


class SequenceMixture:
    """A stream of token sequences as in the paper's section 3.4.

    A video sequence is ``frames`` consecutive frames of one clip after the video start token; an
    image sequence is ``frames`` unrelated images after the image start token; both end with the
    end token.
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
            weights: relative shares of the data sets in the rows.
            tokenizer: the tokenizer that made the tokens.
            config: layout of a sequence, with its special tokens.
            frames: number of frames in a sequence.
            validation: whether to read the held-out files instead of the training files.
            seed: random seed of the order.

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
        """Return rows ``first`` to ``first + count - 1``: int64 [count frames*tokens_per_frame+2].

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
    """A stream of frame sequences by the same rules, for transformers over continuous patches.

    With the same data sets, weights and seed, row n holds the frames whose tokens are in row n of
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
        """Open the frames of ``shards``; arguments and errors as in `SequenceMixture`."""
        self._frames = _same_size(shards)
        self._stream = _sequences(shards, weights, frames, validation, seed)

    def rows(self, first: int, count: int) -> np.ndarray:
        """Return rows ``first`` to ``first + count - 1``: uint8 [count frames size size 3].

        Raises:
            ValueError: ``first`` is negative or ``count`` below 1.
        """
        sources, frames = self._stream.rows(first, count)
        result = np.empty((count, frames.shape[1], *self._frames[0].shape[1:]), np.uint8)
        for row, (source, wanted) in enumerate(zip(sources, frames, strict=True)):
            result[row] = self._frames[source][wanted]
        return result


class FrameMixture:
    """A stream of random crops of single frames, for a tokenizer or a masked autoencoder."""

    def __init__(
        self, shards: Sequence[Shard], weights: Sequence[float], *, validation: bool, seed: int
    ) -> None:
        """Open the frames of ``shards``; a data set without held-out files is not validated on.

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
        self._stream = _Stream(
            [_Windows(runs, span=1, draws=1) for _, _, runs in parts],
            [weight for _, weight, _ in parts],
            seed,
        )

    def rows(self, first: int, count: int, side: int) -> np.ndarray:
        """Return rows ``first`` to ``first + count - 1``, cropped: uint8 [count side side 3].

        Raises:
            ValueError: ``first`` is negative, ``count`` below 1, or a data set's frames are smaller
            than ``side``.
        """
        smallest = min(frames.shape[1] for frames in self._frames)
        if not 1 <= side <= smallest:
            raise ValueError(f"crops must be of 1 to {smallest} pixels, got {side}")
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
    """All windows of ``span`` consecutive frames of a data set; a row has ``draws`` windows."""

    def __init__(self, runs: np.ndarray, span: int, draws: int) -> None:
        self._runs = runs[runs[:, 1] >= span]
        self._span, self._draws = span, draws
        self.frames_of_a_row = span * draws
        self._ends = np.cumsum((self._runs[:, 1] - span + 1) * self._runs[:, 2])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def frames(self, visits: np.ndarray, key: int) -> np.ndarray:
        """Return the frames of rows by their numbers in this data set, [v] -> [v draws*span]."""
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
    """A stream of rows of several data sets in proportion to their weights."""

    def __init__(self, windows: Sequence[_Windows], weights: Sequence[float], seed: int) -> None:
        if len(windows) != len(weights):
            raise ValueError(f"{len(windows)} data sets need as many weights, got {len(weights)}")
        self._windows, self._seed = windows, seed
        self._counts = apportion(weights)
        # Rows are drawn in blocks: one NumPy call for a thousand rows.
        self._block = lru_cache(maxsize=8)(self._draw)

    def rows(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return data set int64 [count] and frames int64 [count f] of ``count`` rows."""
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
        """Return data set int64 [BLOCK] and frames int64 [BLOCK f] of the rows of a block."""
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
    """Return the stream of sequences of ``frames`` frames."""
    windows = []
    for shard in shards:
        together = shard.kind == "video"
        span, draws = (frames, 1) if together else (1, frames)
        mine = _Windows(shard.runs(validation), span, draws)
        if not len(mine):
            raise ValueError(f"{shard.folder} ({shard.name}) has no clip of {span} frames or more")
        windows.append(mine)
    return _Stream(windows, list(weights), seed)


def _same_size(shards: Sequence[Shard]) -> list[np.ndarray]:
    """Return the frames of each data set; all must have the same size."""
    frames = [shard.frames() for shard in shards]
    sizes = {shard.name: array.shape[1] for shard, array in zip(shards, frames, strict=True)}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"all data sets of a mixture must have frames of the same size, got {sizes}"
        )
    return frames
