"""Exact counts of n-grams in bounded memory, and what they say of a distribution.

Grams are numbers. Those at hand are kept as sorted keys with counts; when there are too many, they
go to disk in parts by a hash of the key, and each part is added up alone at the end. What is kept
of the result is its spectrum, how many grams were seen how often: that is all that a curve of share
against rank, an entropy or a coverage needs, however many grams there are.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["GramCounter", "Spectrum", "grams"]

PARTS = 64  # that counts on disk are split into
ODD_CONSTANT = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing: parts of equal size


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spectrum:
    """How many different grams were seen how often.

    Attributes:
        times: how often, [k], falling.
        grams: how many different grams were seen so often, [k].
        possible: how many grams there could be.
    """

    times: NDArray[np.int64]
    grams: NDArray[np.int64]
    possible: int

    @property
    def total(self) -> int:
        """Grams that were counted."""
        return int((self.times * self.grams).sum())

    @property
    def distinct(self) -> int:
        """Different grams among them."""
        return int(self.grams.sum())

    @property
    def coverage(self) -> float:
        """Share of the possible grams that were seen."""
        return self.distinct / self.possible

    @property
    def entropy_bits(self) -> float:
        """Entropy of the shares that were seen, bits; too low where most grams are seen once."""
        shares = self.times / self.total
        return float((self.grams * shares * -np.log2(shares)).sum())

    @property
    def unseen(self) -> float:
        """Estimated probability that the next gram is a new one: the share of those seen once.

        Good (1953), The population frequencies of species and the estimation of parameters.
        """
        return float(self.grams[self.times == 1].sum() / self.total)

    @property
    def half(self) -> int:
        """How many of the most frequent grams make up half of all."""
        sums = np.cumsum(self.times * self.grams)
        full = int(np.searchsorted(sums, self.total / 2))
        before = int(sums[full - 1]) if full else 0
        missing = self.total / 2 - before
        return int(self.grams[:full].sum()) + int(np.ceil(missing / self.times[full]))

    def curve(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return ranks and shares at the corners of the curve of share against rank."""
        last = np.cumsum(self.grams)
        first = last - self.grams + 1
        ranks = np.stack([first, last], axis=1).reshape(-1)
        return ranks, np.repeat(self.times / self.total, 2)


class GramCounter:
    """Counts grams that come in batches; close it, since it may use files."""

    def __init__(self, possible: int, memory_grams: int) -> None:
        """Begin with nothing.

        Args:
            possible: how many different grams there could be, below 2^63.
            memory_grams: different grams that are held in memory, 16 bytes each, and as many while
                a batch is added.

        Raises:
            ValueError: more grams than numbers, or no memory.
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
        """Remove the files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Count a batch of grams."""
        new, counts = np.unique(keys, return_counts=True)
        self._keys, self._counts = _merge(self._keys, self._counts, new, counts)
        if len(self._keys) > self._memory:
            self._spill()

    def spectrum(self) -> Spectrum:
        """Return the result; nothing can be added behind it."""
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
        part = (self._keys * ODD_CONSTANT) >> np.uint64(58)  # the upper 6 bits: 64 parts
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
    """Return the grams of neighbours in a row of the picture, as numbers, of frames [b h w].

    A gram does not go on in the next row: there, neighbours in raster order are not neighbours in
    the picture.

    Args:
        tokens: ids in [0, codes).
        length: tokens of a gram; at most w.
        codes: vocabulary.
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
    """Add counts of sorted keys to those of others."""
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
