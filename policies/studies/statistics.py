"""Statistics over training seeds: intervals of means and of paired differences, and power.

A study has few training seeds (3 to 10), and each seed has many evaluation episodes. Both vary, so
the intervals are t intervals over seeds. A bootstrap over so few seeds gives intervals that are too
short: with five seeds they contain the true value in about 83 % of studies instead of 95 %. By
chance, the rates of a few seeds can also be equal. Therefore the variance is at least the variance
that the random episodes alone cause.

All rows and training seeds are evaluated in the same held-out scenes. So the intervals are for the
success rate in these scenes; they do not contain the variation between sets of scenes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from toto_robot.analyses.seeds import LEVEL, Estimate, over_seeds

POWER = 0.8
_MOST_SEEDS = 1000

Outcomes = NDArray[np.float64]


def episode_variance(outcomes: Sequence[Outcomes]) -> float:
    """Return the variance of the mean over seeds that the episodes alone cause.

    If all outcomes are equal, the result is as if one outcome were different, so it is not 0.

    Args:
        outcomes: for each seed, one value per episode: 0 or 1, or a difference of two such values.
    """
    parts = [float(np.var(one, ddof=1)) / len(one) if len(one) > 1 else 0.25 for one in outcomes]
    episodes = sum(len(one) for one in outcomes)
    return max(sum(parts) / len(parts) ** 2, (1 / episodes) ** 2)


def success_rate(outcomes: Sequence[Outcomes]) -> Estimate:
    """Estimate a success rate from the outcomes of each training seed; see `over_seeds`."""
    found = over_seeds([float(one.mean()) for one in outcomes], episode_variance(outcomes))
    return as_rate(found)


def as_rate(found: Estimate) -> Estimate:
    """Return an estimate whose interval is limited to [0, 1], the range of a success rate."""
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def difference(ours: Sequence[Outcomes], others: Sequence[Outcomes]) -> Estimate:
    """Estimate the difference of two success rates, ours minus the other.

    The outcomes are paired: both rows have the same training seeds, and within a seed the same
    evaluation episodes.

    Args:
        ours: for each seed, the outcomes 0 or 1 of our policy.
        others: for each seed, the outcomes of the other policy, in the same episodes.

    Raises:
        ValueError: the numbers of seeds or of episodes differ.
    """
    if [len(one) for one in ours] != [len(one) for one in others]:
        raise ValueError("paired outcomes need equal numbers of seeds and of episodes")
    paired = [one - other for one, other in zip(ours, others, strict=True)]
    return over_seeds([float(one.mean()) for one in paired], episode_variance(paired))


def seeds_needed(differences: Sequence[float], power: float = POWER) -> int | None:
    """Return how many training seeds a paired t test needs to find a difference of this size.

    Args:
        differences: one paired difference per seed, of at least two seeds. The result is rough,
            because it depends on the spread of these few values.
        power: probability that the test finds the difference.

    Returns:
        The number of seeds; None if it is larger than 1,000, or cannot be estimated because the
        differences do not vary or their mean is 0.
    """
    mean, spread = abs(float(np.mean(differences))), float(np.std(differences, ddof=1))
    if mean == 0 or spread == 0:
        return None
    for number in range(2, _MOST_SEEDS + 1):
        limit = stats.t.ppf((1 + LEVEL) / 2, number - 1)
        shift = mean / spread * np.sqrt(number)
        if stats.nct.sf(limit, number - 1, shift) >= power:
            return number
    return None


def band(curves: NDArray[np.float64], seed: int = 0) -> tuple[Outcomes, Outcomes]:
    """Return the 95 % bootstrap band of the mean of s learning curves [s n]: low [n], high [n]."""
    if len(curves) < 2:
        return curves[0], curves[0]
    found = stats.bootstrap(
        (curves,), np.mean, axis=0, method="percentile", n_resamples=1000,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return found.low, found.high
