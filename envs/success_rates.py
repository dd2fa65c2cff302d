"""Statistics of success rates: confidence intervals, tests of two rates, and statistical power.

A success rate from few episodes is uncertain, so report it with its confidence interval.
"""

import functools
import math

# The normal distribution's 97.5 % quantile, for a two-sided interval of 95 %.
_Z = 1.959963984540054
# Significance level of the tests.
SIGNIFICANCE = 0.05


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the Wilson score interval (95 %) of a success rate; (0, 1) without trials.

    Unlike the interval from the normal approximation, the Wilson interval stays within [0, 1] and
    is valid at 0 and 100 %. Source: E. B. Wilson, "Probable inference, the law of succession, and
    statistical inference", JASA 22 (1927). The function does not call scipy, because scipy's result
    differs in the last bit in 41 % of cases, and the results of runs must be bit-identical.

    Raises:
        ValueError: ``successes`` is not in [0, trials].
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in [0, {trials}], got {successes}")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    scale = 1 + _Z**2 / trials
    center = (rate + _Z**2 / (2 * trials)) / scale
    half = _Z / scale * math.sqrt(rate * (1 - rate) / trials + (_Z / (2 * trials)) ** 2)
    # the interval contains the rate; rounding could exclude it by one ulp at 0 and 1
    return max(0.0, min(rate, center - half)), min(1.0, max(rate, center + half))


def describe_rate(successes: int, trials: int) -> str:
    """Return a rate as text, such as `41/50 = 82.0% (69.2% to 90.2%, Wilson 95 %)`."""
    low, high = wilson_interval(successes, trials)
    rate = successes / trials if trials else math.nan
    return f"{successes}/{trials} = {rate:.1%} ({low:.1%} to {high:.1%}, Wilson 95 %)"


def fisher_exact(successes: int, trials: int, other_successes: int, other_trials: int) -> float:
    """Return the two-sided p-value of Fisher's exact test, for trials that are not paired.

    The p-value is the total probability of all contingency tables with the same margins that are
    not more probable than the observed table. Source: R. A. Fisher, "On the interpretation of
    chi-squared from contingency tables, and the calculation of P", JRSS 85 (1922).

    Raises:
        ValueError: a number of successes is not in [0, trials].
    """
    for number, most in ((successes, trials), (other_successes, other_trials)):
        if not 0 <= number <= most:
            raise ValueError(f"successes must be in [0, {most}], got {number}")
    both = successes + other_successes
    ways = [
        math.comb(trials, here) * math.comb(other_trials, both - here)
        for here in range(max(0, both - other_trials), min(trials, both) + 1)
    ]
    observed = math.comb(trials, successes) * math.comb(other_trials, other_successes)
    # integers, so that ties are exact
    return sum(way for way in ways if way <= observed) / math.comb(trials + other_trials, both)


def sign_test(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test, which compares two policies in pairs.

    The p-value depends only on the discordant pairs: the pairs in which exactly one policy
    succeeded. Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions", Psychometrika 12 (1947). Unlike in this paper, the p-value is computed from
    the binomial distribution, not from its normal approximation.

    Args:
        only_first: number of pairs in which only the first policy succeeded.
        only_second: number of pairs in which only the second policy succeeded.

    Raises:
        ValueError: a number is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"pairs must not be negative, got {only_first} and {only_second}")
    unlike = only_first + only_second
    tail = sum(math.comb(unlike, few) for few in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**unlike)


def paired_power(worse: float, better: float, pairs: int) -> float:
    """Return the power of `sign_test`: the probability that the test finds the better policy.

    A pair is one trial of each policy at the same start pose. The two outcomes of a pair are
    assumed to be independent. If both policies fail at the same poses, the actual power is higher.

    Args:
        worse: success rate of the worse policy.
        better: success rate of the better policy.
        pairs: number of pairs of trials.

    Raises:
        ValueError: the rates do not satisfy 0 <= worse <= better <= 1.
    """
    if not 0 <= worse <= better <= 1:
        raise ValueError(f"needs 0 <= worse <= better <= 1, got {worse} and {better}")
    for_better, for_worse = better * (1 - worse), worse * (1 - better)
    unlike_rate = for_better + for_worse
    if unlike_rate == 0:
        return 0.0
    power = 0.0
    for unlike in range(pairs + 1):
        chance = _binomial(unlike, pairs, unlike_rate)
        if chance < 1e-9:
            continue
        power += chance * _tail(_few_enough(unlike), unlike, for_worse / unlike_rate)
    return power


def detectable_rates(
    rate: float, pairs: int, power: float = 0.8
) -> tuple[float | None, float | None]:
    """Return how different another policy's success rate must be for `sign_test` to detect it.

    Args:
        rate: success rate of one policy.
        pairs: number of pairs of trials.
        power: required probability of detecting the difference.

    Returns:
        The highest detectable rate below `rate`, and the lowest detectable rate above `rate`, in
        steps of 1 %. The first is None if even 0 % cannot be detected, the second is None if even
        100 % cannot be detected.
    """
    below = (step / 100 for step in range(math.ceil(100 * rate) - 1, -1, -1))
    above = (step / 100 for step in range(math.floor(100 * rate) + 1, 101))
    return (
        next((other for other in below if paired_power(other, rate, pairs) >= power), None),
        next((other for other in above if paired_power(rate, other, pairs) >= power), None),
    )


def pairs_needed(worse: float, better: float, power: float = 0.8, most: int = 2048) -> int | None:
    """Return the approximate number of pairs of trials that `sign_test` needs.

    Args:
        worse: success rate of the worse policy.
        better: success rate of the better policy.
        power: required probability of detecting the difference.
        most: largest number to consider.

    Returns:
        The number of pairs; None if it is larger than `most`.
    """
    if paired_power(worse, better, most) < power:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        enough = paired_power(worse, better, middle) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


@functools.cache
def _few_enough(unlike: int) -> int:
    """Return how often the worse policy may win in a significant result of `sign_test`.

    Args:
        unlike: number of discordant pairs (in which exactly one policy succeeded).

    Returns:
        The largest number of pairs won by the worse policy at which the difference is significant.
        -1: the difference is not significant even if the worse policy wins no pair.
    """
    few = max(-1, math.floor(unlike / 2 - _Z * math.sqrt(unlike) / 2))
    while _tail(few + 1, unlike, 0.5) <= SIGNIFICANCE / 2:
        few += 1
    while few >= 0 and _tail(few, unlike, 0.5) > SIGNIFICANCE / 2:
        few -= 1
    return few


def _tail(most: int, trials: int, rate: float) -> float:
    """Return the probability of at most `most` successes in `trials` trials.

    `rate` is the probability of success in one trial.
    """
    if most < 0:
        return 0.0
    if rate in (0.0, 1.0):
        return float(trials * rate <= most)
    if most > trials * rate:  # computed from the other, smaller tail
        return 1 - _tail(trials - most - 1, trials, 1 - rate)
    term = total = _binomial(most, trials, rate)
    for number in range(most, 0, -1):
        term *= number / (trials - number + 1) * (1 - rate) / rate
        total += term
        if term < 1e-12 * total:
            break
    return total


def _binomial(number: int, trials: int, rate: float) -> float:
    if rate in (0.0, 1.0):
        return float(number == trials * rate)
    if not 0 <= number <= trials:
        return 0.0
    log = math.lgamma(trials + 1) - math.lgamma(number + 1) - math.lgamma(trials - number + 1)
    return math.exp(log + number * math.log(rate) + (trials - number) * math.log1p(-rate))
