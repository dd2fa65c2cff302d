"""Means with bootstrap intervals."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..moved import moved_names

__all__ = ["Array", "grouped_means", "interval"]

__getattr__ = moved_names(
    __name__,
    {"drawing": "toto_robot.plots:drawing", "write_csv": "toto_robot.files:write_csv"},
)

Array = NDArray[np.float64]


def grouped_means(
    values: NDArray[np.floating[Any]],
    groups: NDArray[np.integer[Any]],
    resamples: int,
    generator: np.random.Generator,
) -> Array:
    """Return bootstrap replicates [resamples ...] of the mean of `values` [n ...] over n.

    Whole groups are drawn with replacement, because their members are correlated. The same
    generator state makes the same draws, so that differences of two calls are paired.

    Args:
        values: the values to average.
        groups: [n] group of each value.
        resamples: number of replicates.
        generator: random generator.
    """
    names, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, index, values)
    sizes = np.bincount(index).astype(np.float64)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    totals = np.tensordot(drawn.astype(np.float64), sums, axes=1)
    return totals / (drawn @ sizes).reshape(-1, *[1] * (values.ndim - 1))


def interval(replicates: Array) -> Array:
    """Return the 95 % percentile interval [2 ...] of replicates [r ...]."""
    return np.quantile(replicates, [0.025, 0.975], axis=0)
