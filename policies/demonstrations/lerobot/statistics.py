"""Compute the statistics with which LeRobot normalises: min, max, mean, std and quantiles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Statistics = dict[str, Array]
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_NUM_IMAGES = 10  # LeRobot, too, uses a sample of the frames


def of_column(values: Array) -> Statistics:
    """Return the statistics of the finite values of a column [t] or [t k]."""
    columns = (values if values.ndim > 1 else values[:, None]).astype(np.float64)
    finite = np.isfinite(columns)
    if not finite.all():
        parts = [of_column(column[good]) for column, good in zip(columns.T, finite.T, strict=True)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return joined | {"count": np.array([len(columns)])}
    if not len(columns):
        columns = np.zeros((1, columns.shape[1]))
    return {
        "min": columns.min(0),
        "max": columns.max(0),
        "mean": columns.mean(0),
        "std": columns.std(0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, np.quantile(columns, list(QUANTILES.values()), axis=0), strict=True)),
    }


def of_images(images: NDArray[np.uint8]) -> Statistics:
    """Return the statistics of each colour channel of images [t h w 3].

    Pixel values are scaled to [0, 1]. If there are 20 images or more, only 10 to 15 of them, at
    equal distances in time, are used. Each statistic has the shape [3 1 1], except `count` [1], the
    number of used images.
    """
    some = images[:: max(1, len(images) // _NUM_IMAGES)]
    found = of_column(some.reshape(-1, 3) / 255.0)
    shaped = {name: value.reshape(3, 1, 1) for name, value in found.items() if name != "count"}
    return shaped | {"count": np.array([len(some)])}


def merge(one: Statistics, other: Statistics) -> Statistics:
    """Return the statistics of the union of two sets of values.

    As in LeRobot, a quantile of the union is approximated by the weighted mean of both quantiles.
    """
    first, second = one["count"], other["count"]
    total = np.maximum(1, first + second)
    shares = first / total, second / total
    mean = shares[0] * one["mean"] + shares[1] * other["mean"]
    squares = [
        share * (part["std"] ** 2 + (part["mean"] - mean) ** 2)
        for share, part in zip(shares, (one, other), strict=True)
    ]
    return {
        "min": np.minimum(one["min"], other["min"]),
        "max": np.maximum(one["max"], other["max"]),
        "mean": mean,
        "std": np.sqrt(squares[0] + squares[1]),
        "count": first + second,
        **{name: shares[0] * one[name] + shares[1] * other[name] for name in QUANTILES},
    }
