"""Fits of the power law L = a C^b to training runs, with an interval for the exponent.

L is the held-out loss, and C the compute. There are two fits, because each has a weakness:

    ends      fits the final loss of each model, averaged over its seeds, against its compute. The
              learning rate has decayed in all points, but there is only one point per model. Seeds
              are not separate points, because the deviation of a model from the law is common to
              them. The interval is a bootstrap-t over residuals (Efron and Tibshirani 1993,
              chapter 12), which is valid with few points.
    frontier  fits the lowest loss of any run at each compute (paper Fig. 9). There are many points,
              but most come from runs whose learning rate was still high. The bootstrap resamples
              whole models, because the points of a model are not independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "PowerLaw", "fit_ends", "fit_frontier", "frontier"]

Array = NDArray[np.float64]

POINTS = 80  # points of the frontier, evenly spaced in the logarithm of compute


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """The held-out loss of one run during training.

    Attributes:
        member: name of the model. Runs of one model with several seeds have the same name.
        compute: number of operations until each of the k validations, shape [k], increasing.
        loss: held-out loss at each validation, nats, shape [k].
    """

    member: str
    compute: Array
    loss: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """A fitted power law, L = scale * C^exponent.

    Attributes:
        scale: loss at a compute of one operation, nats.
        exponent: power of the compute. It is negative if more compute lowers the loss.
        low: lower end of the exponent's 95 % interval. NaN if the models are too few for one.
        high: upper end of the interval. NaN if the models are too few for one.
        explained: share of the variance of log(loss) that the fit explains (R squared).
        points: number of fitted points.
    """

    scale: float
    exponent: float
    low: float
    high: float
    explained: float
    points: int


def fit_ends(curves: Sequence[Curve], resamples: int, generator: np.random.Generator) -> PowerLaw:
    """Fit a power law to the last point of each model, averaged over its seeds.

    Raises:
        ValueError: fewer than two distinct values of compute.
    """
    ends = [np.log([(c.compute[-1], c.loss[-1]) for c in runs]) for runs in _by_member(curves)]
    x, y = np.transpose([points.mean(axis=0) for points in ends])
    if len(np.unique(x)) < 2:
        raise ValueError("a power law needs runs with at least two distinct values of compute")
    slope, level, error, residuals = _line(x, y)
    low = high = float("nan")
    if len(x) >= 4:  # three points leave one degree of freedom, too few to resample residuals
        drawn = residuals[generator.integers(len(x), size=(resamples, len(x)))]
        slopes, _, errors, _ = _line(x, level + slope * x + drawn)
        with np.errstate(divide="ignore", invalid="ignore"):
            deviations = (slopes - slope) / errors
        tails = np.quantile(deviations[np.isfinite(deviations)], [0.975, 0.025])
        low, high = slope - tails * error
    return _law(x, y, float(low), float(high))


def fit_frontier(
    curves: Sequence[Curve], resamples: int, generator: np.random.Generator
) -> PowerLaw | None:
    """Fit a power law to the lowest loss of all runs at each compute.

    At low compute, the smallest model always has the lowest loss, so the frontier is only its
    training curve. The fit begins at the last point where that model has the lowest loss.

    Returns:
        The fit, or None if one model has the lowest loss at almost all computes.
    """
    found = _frontier_line(curves)
    if found is None:
        return None
    x, y = found
    slopes = []
    members = _by_member(curves)
    for _ in range(resamples):
        drawn = generator.integers(len(members), size=len(members))
        again = _frontier_line([curve for k in drawn for curve in members[k]])
        if again is not None:
            slopes.append(_line(*again)[0])
    low = high = float("nan")
    if len(slopes) >= resamples / 2:
        low, high = np.quantile(slopes, [0.025, 0.975])
    return _law(x, y, float(low), float(high))


def frontier(curves: Sequence[Curve]) -> tuple[Array, Array, list[str]]:
    """Return the lowest loss of any run as a function of the compute.

    A point is kept only if its loss is lower than the loss of every point with less compute.

    Returns:
        Compute, loss (nats) and model name of each point, in the order of the compute.
    """
    grid = np.geomspace(
        min(curve.compute[0] for curve in curves), max(c.compute[-1] for c in curves), POINTS
    )
    losses = np.stack(
        [
            np.exp(
                np.interp(
                    np.log(grid),
                    np.log(curve.compute),
                    np.log(curve.loss),
                    left=np.inf,
                    right=np.inf,
                )
            )
            for curve in curves
        ]
    )
    best, which = losses.min(axis=0), losses.argmin(axis=0)
    before = np.minimum.accumulate(np.concatenate([[np.inf], best[:-1]]))
    keep = best < before
    return grid[keep], best[keep], [curves[k].member for k in which[keep]]


def _by_member(curves: Sequence[Curve]) -> list[list[Curve]]:
    names = dict.fromkeys(curve.member for curve in curves)
    return [[curve for curve in curves if curve.member == name] for name in names]


def _frontier_line(curves: Sequence[Curve]) -> tuple[Array, Array] | None:
    compute, loss, members = frontier(curves)
    last_of_first = max(k for k, member in enumerate(members) if member == members[0])
    if last_of_first > len(members) - 3:
        return None
    return np.log(compute[last_of_first:]), np.log(loss[last_of_first:])


def _line(x: Array, y: Array) -> tuple[Any, Any, Any, Array]:
    """Fit a line to n points, and return slope, intercept, standard error of the slope, residuals.

    Args:
        x: horizontal positions, shape [n].
        y: values, shape [... n]. Each row is fitted separately.
    """
    centred = x - x.mean()
    spread = (centred**2).sum()
    slope = (centred * y).sum(axis=-1) / spread
    level = y.mean(axis=-1) - slope * x.mean()
    residuals = y - np.expand_dims(level, -1) - np.expand_dims(slope, -1) * x
    freedom = max(1, len(x) - 2)
    return slope, level, np.sqrt((residuals**2).sum(axis=-1) / freedom / spread), residuals


def _law(x: Array, y: Array, low: float, high: float) -> PowerLaw:
    slope, level, _, residuals = _line(x, y)
    return PowerLaw(
        scale=float(np.exp(level)),
        exponent=float(slope),
        low=low,
        high=high,
        explained=float(1 - residuals.var() / y.var()),
        points=len(x),
    )
