"""Compute means with bootstrap confidence intervals."""

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
    """Compute bootstrap replicates of a mean, for values that are correlated within groups.

    Whole groups are drawn with replacement, because the values of a group are correlated. Two calls
    with generators in the same state draw the same groups, so their replicates can be subtracted.

    Args:
        values: n values or arrays to average over the first axis, shape [n ...].
        groups: integer that identifies the group of each value, shape [n].
        resamples: number of replicates.
        generator: random generator of the draws.

    Returns:
        The mean in each replicate, shape [resamples ...].
    """
    names, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, index, values)
    sizes = np.bincount(index).astype(np.float64)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    totals = np.tensordot(drawn.astype(np.float64), sums, axes=1)
    return totals / (drawn @ sizes).reshape(-1, *[1] * (values.ndim - 1))


def interval(replicates: Array) -> Array:
    """Return the 95 % percentile interval of r replicates [r ...]: low and high end, [2 ...]."""
    return np.quantile(replicates, [0.025, 0.975], axis=0)
