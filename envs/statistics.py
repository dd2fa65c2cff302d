"""Intervals for success rates: a rate from few episodes says little, and should say how little."""

import math

# The normal distribution's 97.5 % quantile, for a two-sided interval of 95 %.
_Z = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Give the Wilson score interval (95 %) of a success rate; (0, 1) without trials.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927). Unlike the normal approximation it stays within [0, 1] and is honest at 0 and 100 %.

    Raises:
        ValueError: unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in [0, {trials}], got {successes}")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    scale = 1 + _Z**2 / trials
    center = (rate + _Z**2 / (2 * trials)) / scale
    half = _Z / scale * math.sqrt(rate * (1 - rate) / trials + (_Z / (2 * trials)) ** 2)
    # the bounds hold the rate exactly; rounding may miss it by an ulp at 0 and 1
    return max(0.0, min(rate, center - half)), min(1.0, max(rate, center + half))


def describe_rate(successes: int, trials: int) -> str:
    """Give a rate for people, such as `41/50 = 82.0% (69.2% to 90.2%, Wilson 95 %)`."""
    low, high = wilson_interval(successes, trials)
    rate = successes / trials if trials else math.nan
    return f"{successes}/{trials} = {rate:.1%} ({low:.1%} to {high:.1%}, Wilson 95 %)"
