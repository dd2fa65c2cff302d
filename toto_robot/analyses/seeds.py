"""Compute a mean over training seeds with its t interval, and the area under a learning curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["LEVEL", "Estimate", "area_under", "over_seeds"]

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: the mean.
        low: lower end of the interval.
        high: upper end of the interval.
        seeds: number of training seeds.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def is_apart(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0


def over_seeds(values: Sequence[float], least_variance: float = 0.0) -> Estimate:
    """Estimate the mean of one value per training seed, with a t interval.

    With one seed, the interval is that of a normal distribution with the variance
    `least_variance`, and does not include the variation between training seeds.

    Args:
        values: one value per seed.
        least_variance: variance of the mean that the episodes alone cause.
    """
    number = len(values)
    mean = float(np.mean(values))
    between = float(np.var(values, ddof=1)) / number if number > 1 else 0.0
    scale = float(np.sqrt(max(between, least_variance)))
    quantile = (1 + LEVEL) / 2
    reach = float(stats.t.ppf(quantile, number - 1) if number > 1 else stats.norm.ppf(quantile))
    return Estimate(mean=mean, low=mean - reach * scale, high=mean + reach * scale, seeds=number)


def area_under(
    x: Sequence[int | float], rates: Sequence[float], low: int | float, high: int | float
) -> float:
    """Return the mean height of a learning curve between two values of x, in [0, 1].

    Between its points the curve is linear, and outside them it is constant.

    Args:
        x: environment steps of the points, increasing.
        rates: success rates of the points.
        low: first value of x.
        high: last value of x.
    """
    if high <= low:
        return float(np.interp(low, x, rates))
    inside = [one for one in x if low < one < high]
    places = np.array([low, *inside, high])
    heights = np.interp(places, x, rates)
    return float(np.trapezoid(heights, places) / (high - low))
