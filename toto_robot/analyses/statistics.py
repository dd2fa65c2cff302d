"""Means with bootstrap intervals, and the frame of a plot."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import write_aside

__all__ = ["Array", "drawing", "grouped_means", "interval"]

Array = NDArray[np.float64]


def grouped_means(
    values: NDArray[np.floating[Any]],
    groups: NDArray[np.integer[Any]],
    resamples: int,
    generator: np.random.Generator,
) -> Array:
    """Give bootstrap replicates [resamples ...] of the mean of `values` [n ...] over n.

    Groups are drawn with replacement and stay whole, since their members are alike; the same draws
    are made for the same generator state, so that differences of two calls are paired.

    Args:
        values: what is averaged.
        groups: [n] of which group each is.
        resamples: number of replicates.
        generator: where chance comes from.
    """
    names, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, index, values)
    sizes = np.bincount(index).astype(np.float64)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    totals = np.tensordot(drawn.astype(np.float64), sums, axes=1)
    return totals / (drawn @ sizes).reshape(-1, *[1] * (values.ndim - 1))


def interval(replicates: Array) -> Array:
    """Give the 95 % percentile interval [2 ...] of replicates [r ...]."""
    return np.quantile(replicates, [0.025, 0.975], axis=0)


@contextmanager
def drawing(path: Path, columns: int, width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes in one row, and write it as PNG when the block ends.

    Args:
        path: the picture.
        columns: number of axes.
        width: of the figure, inches.
        height: likewise.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, columns, figsize=(width, height), layout="constrained", squeeze=False
    )
    try:
        yield figure, axes[0]
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110)
        write_aside(path, data.getvalue())
    finally:
        pyplot.close(figure)
