"""Exact n-gram counts in bounded memory, and statistics of their distribution.

An n-gram is a sequence of n neighbouring tokens, coded as one number (its key). The counts are kept
in memory, sorted by key. When there are too many keys, the counts are written to 64 files on disk.
A hash of the key selects the file. At the end, the counts in each file are summed. The result is a
spectrum: for each frequency, the number of distinct n-grams that occur so often. The spectrum is
small, and is sufficient to compute the entropy, the coverage (the share of all possible n-grams
that occur), and the curve of share against rank.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["GramCounter", "Spectrum", "grams"]

PARTS = 64  # number of files on disk
ODD_CONSTANT = np.uint64(
    0x9E3779B97F4A7C15
)  # multiplier of Fibonacci hashing, which distributes the keys equally over the files


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spectrum:
    """The number of distinct n-grams for each frequency.

    Attributes:
        times: the k different frequencies, in decreasing order, shape [k]. The frequency of an
            n-gram is the number of times that it occurs.
        grams: number of distinct n-grams with each frequency, shape [k].
        possible: number of n-grams that the vocabulary makes possible.
    """

    times: NDArray[np.int64]
    grams: NDArray[np.int64]
    possible: int

    @property
    def total(self) -> int:
        """Number of counted n-grams."""
        return int((self.times * self.grams).sum())

    @property
    def distinct(self) -> int:
        """Number of distinct n-grams."""
        return int(self.grams.sum())

    @property
    def coverage(self) -> float:
        """Share of the possible n-grams that occur at least once, 0 to 1."""
        return self.distinct / self.possible

    @property
    def entropy_bits(self) -> float:
        """Entropy of the observed shares, bits.

        The value is an underestimate if most n-grams occur only once.
        """
        shares = self.times / self.total
        return float((self.grams * shares * -np.log2(shares)).sum())

    @property
    def unseen(self) -> float:
        """Estimated probability that the next counted n-gram has not occurred before.

        The estimate is the number of n-grams that occur exactly once, divided by the number of all
        counted n-grams. Source: Good 1953, The population frequencies of species and the estimation
        of parameters.
        """
        return float(self.grams[self.times == 1].sum() / self.total)

    @property
    def half(self) -> int:
        """Number of n-grams, counted from the most frequent, that make up half of all counts."""
        sums = np.cumsum(self.times * self.grams)
        full = int(np.searchsorted(sums, self.total / 2))
        before = int(sums[full - 1]) if full else 0
        missing = self.total / 2 - before
        return int(self.grams[:full].sum()) + int(np.ceil(missing / self.times[full]))

    def curve(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the curve of share (of all counts) against rank (1 is the most frequent n-gram).

        N-grams of equal frequency make a horizontal line, so only the corners are returned: their
        ranks and their shares.
        """
        last = np.cumsum(self.grams)
        first = last - self.grams + 1
        ranks = np.stack([first, last], axis=1).reshape(-1)
        return ranks, np.repeat(self.times / self.total, 2)


class GramCounter:
    """A counter of n-grams, which receives them in batches.

    Call `close` at the end, because the counter may have written temporary files.
    """

    def __init__(self, possible: int, memory_grams: int) -> None:
        """Create an empty counter.

        Args:
            possible: number of possible n-grams, below 2^63.
            memory_grams: maximum number of distinct n-grams in memory. Each needs 16 bytes, and
                twice as much while a batch is added.
        """
        if not 1 <= possible < 2**63:
            raise ValueError(f"possible must be in [1, 2^63), got {possible}")
        if memory_grams < 1:
            raise ValueError(f"memory_grams must be at least 1, got {memory_grams}")
        self._possible, self._memory = possible, memory_grams
        self._keys = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Remove the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Count a batch of n-grams, coded as numbers by `grams`."""
        new, counts = np.unique(keys, return_counts=True)
        self._keys, self._counts = _merge(self._keys, self._counts, new, counts)
        if len(self._keys) > self._memory:
            self._spill()

    def spectrum(self) -> Spectrum:
        """Return the spectrum of all added batches. Do not call `add` after this method."""
        if self._folder is not None:
            self._spill()
        seen: dict[int, int] = {}
        for counts in self._parts():
            for times, number in zip(*np.unique(counts, return_counts=True), strict=True):
                seen[int(times)] = seen.get(int(times), 0) + int(number)
        times = np.array(sorted(seen, reverse=True), dtype=np.int64)
        return Spectrum(
            times=times,
            grams=np.array([seen[int(k)] for k in times], dtype=np.int64),
            possible=self._possible,
        )

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="grams-")
        part = (self._keys * ODD_CONSTANT) >> np.uint64(58)  # the upper 6 bits select 1 of 64 files
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(PARTS + 1))
        pairs = np.stack([self._keys, self._counts.astype(np.uint64)], axis=1)[order]
        for number in range(PARTS):
            with (Path(self._folder.name) / f"{number:02}.u64").open("ab") as file:
                pairs[ends[number] : ends[number + 1]].tofile(file)
        self._keys, self._counts = np.empty(0, np.uint64), np.empty(0, np.int64)

    def _parts(self) -> Iterator[NDArray[np.int64]]:
        if self._folder is None:
            yield self._counts
            return
        for number in range(PARTS):
            pairs = np.fromfile(Path(self._folder.name) / f"{number:02}.u64", np.uint64)
            keys, counts = pairs.reshape(-1, 2).T
            unique, inverse = np.unique(keys, return_inverse=True)
            sums = np.zeros(len(unique), np.int64)
            np.add.at(sums, inverse, counts.astype(np.int64))
            yield sums


def grams(tokens: NDArray[np.int64], length: int, codes: int) -> NDArray[np.uint64]:
    """Return the n-grams of horizontally neighbouring tokens, each coded as one number.

    An n-gram does not continue in the next row: the last token of a row and the first token of the
    next row are not neighbours in the image.

    Args:
        tokens: token ids of b frames with h rows and w columns, shape [b h w], each in [0, codes).
        length: number of tokens in an n-gram, at most w.
        codes: size of the vocabulary.
    """
    places = tokens.shape[2] - length + 1
    keys = np.zeros((*tokens.shape[:2], places), np.uint64)
    for offset in range(length):
        keys = keys * np.uint64(codes) + tokens[:, :, offset : offset + places].astype(np.uint64)
    return keys.reshape(-1)


def _merge(
    keys: NDArray[np.uint64],
    counts: NDArray[np.int64],
    new: NDArray[np.uint64],
    new_counts: NDArray[np.int64],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the sorted keys and the summed counts of two sets of counts with sorted keys."""
    places = np.searchsorted(keys, new)
    known = np.zeros(len(new), dtype=bool)
    inside = places < len(keys)
    known[inside] = keys[places[inside]] == new[inside]
    counts[places[known]] += new_counts[known]
    fresh = ~known
    return (
        np.insert(keys, places[fresh], new[fresh]),
        np.insert(counts, places[fresh], new_counts[fresh]),
    )
