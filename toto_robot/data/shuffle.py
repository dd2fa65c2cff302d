"""Shuffle without state: compute item n of an endless shuffled list from n and the seed alone.

The loader then has no state to save. A resumed run only needs the number of the next row, and all
ranks and threads can compute their rows independently. The code uses integer arithmetic, and not
the random generator of a library, so that a run can be resumed or repeated with another version of
NumPy.

The library grain has a similar shuffle and mixture. `benchmarks/token_pipeline.py` compares the
two. We use this module for three reasons: it permutes a whole batch at once, it adds no dependency,
and the order of a run depends only on code in this repository.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["BLOCK", "apportion", "interleave", "key_of", "permute", "scramble", "uniform"]

# Number of rows in a block. In each block, each data set has exactly its share of the rows, so
# shares are multiples of 0.1 %.
BLOCK = 1000
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 6


def scramble(values: np.ndarray) -> np.ndarray:
    """Return a hash of each uint64 value. Different values have different hashes.

    The hash is the finaliser of SplitMix64 (Steele 2014).
    """
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key_of(*words: int) -> int:
    """Combine several integers, such as a seed and a position, into one 64-bit key."""
    key = np.zeros(1, np.uint64)
    for word in words:
        key = scramble(key ^ np.uint64(word & _MASK))
    return int(key[0])


def uniform(key: int, numbers: np.ndarray) -> np.ndarray:
    """Return a pseudorandom float64 in [0, 1) for each number.

    The result depends only on the number and the key.
    """
    bits = scramble(scramble(numbers.astype(np.uint64)) ^ np.uint64(key))
    return (bits >> np.uint64(11)) * 2.0**-53


def permute(positions: np.ndarray, size: int, key: int, epochs: np.ndarray) -> np.ndarray:
    """Return the item at each position of the random order of an epoch.

    The order is computed by a Feistel network, which permutes the numbers below a power of two that
    is at least ``size``. If the network returns a number that is not below ``size``, this number
    passes through the network again (cycle walking). So the result is a permutation of 0 .. size-1.

    Args:
        positions: positions in the random order, int64 in 0 .. size-1, any shape.
        size: number of items.
        key: key of the order, made by `key_of`.
        epochs: epoch of each position, int64, same shape as ``positions``. Each epoch has another
            order.
    """
    keys = scramble(scramble(epochs.astype(np.uint64)) ^ np.uint64(key))
    bits = max(2, (size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    result = positions.astype(np.uint64)
    walking = np.ones(result.shape, bool)
    while walking.any():
        high, low = result[walking] >> low_bits, result[walking] & low_mask
        round_keys = keys[walking]
        for turn in range(_ROUNDS):
            round_keys = round_keys + np.uint64(_GOLDEN)
            if turn % 2:
                low = low ^ (scramble(high ^ round_keys) & low_mask)
            else:
                high = high ^ (scramble(low ^ round_keys) & high_mask)
        result[walking] = (high << low_bits) | low
        walking[walking] = result[walking] >= np.uint64(size)
    return result.astype(np.int64)


def apportion(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the number of rows of each data set in a block of `BLOCK` rows.

    The shares are rounded by the largest-remainder method. A data set with a weight above zero has
    at least one row.

    Raises:
        ValueError: a weight is negative or not finite, all weights are zero, or there are too many
            data sets.
    """
    shares = np.asarray(weights, np.float64)
    if shares.ndim != 1 or not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
        raise ValueError(
            "weights must be at least 0, and at least one above 0, got "
            f"{[float(w) for w in weights]}"
        )
    if (shares > 0).sum() > BLOCK:
        raise ValueError(f"at most {BLOCK} data sets can be mixed, got {(shares > 0).sum()}")
    exact = shares / shares.sum() * BLOCK
    counts = np.floor(exact).astype(int)
    counts[(counts == 0) & (shares > 0)] = 1
    while counts.sum() < BLOCK:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > BLOCK:
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return tuple(int(count) for count in counts)


def interleave(counts: tuple[int, ...], key: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the data set of each row of a block, and the rank of the row within its data set.

    The rows of a data set are first spaced evenly over the block. Then each row is shifted randomly
    by less than the distance between two of them. So a batch of any size has nearly the right
    shares. Without the random shift, every 100th row of the block, for example, could come from the
    same data set.

    Args:
        counts: number of rows of each data set in the block, from `apportion`.
        key: key of the random shifts, made by `key_of`.
        block: number of the block.
    """
    sources = np.repeat(np.arange(len(counts)), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    jitter = uniform(key_of(key, block), np.arange(len(sources)))
    order = np.argsort((ranks + jitter) / np.asarray(counts)[sources], kind="stable")
    return sources[order], ranks[order]
