"""Statistics of trials: success rates, confidence intervals, significance tests, and power."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envs.success_rates import (
    SIGNIFICANCE,
    describe_rate,
    detectable_rates,
    fisher_exact,
    paired_power,
    pairs_needed,
    sign_test,
    wilson_interval,
)

from .plan import PolicyKey
from .results import TrialResult

_POWER = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """The success rate of a policy."""

    successes: int
    trials: int

    @property
    def share(self) -> float:
        """Return the rate; 0 without trials."""
        return self.successes / self.trials if self.trials else 0.0

    def __str__(self) -> str:
        return describe_rate(self.successes, self.trials)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Comparison of two policies, `a` and `b`, that were tried at the same poses.

    The two trials at one pose are a pair.

    Attributes:
        both: number of pairs in which both policies succeeded.
        only_a: number of pairs in which only `a` succeeded.
        only_b: number of pairs in which only `b` succeeded.
        neither: number of pairs in which both policies failed.
        sign_p: p-value of the sign test, which uses only the pairs with different outcomes.
        fisher_p: p-value of Fisher's exact test, which ignores that the trials are paired.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    sign_p: float
    fisher_p: float

    @property
    def pairs(self) -> int:
        """Return the number of pairs."""
        return self.both + self.only_a + self.only_b + self.neither


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusions:
    """Conclusions from the results of trials.

    Attributes:
        rates: success rate of each policy, by the policy's key (`a` or `b`).
        comparison: comparison of the two policies; None if there is only one policy.
        may_say: sentences that the results support.
        may_not_say: sentences that the results do not support, with the number of poses that would
            be necessary to support them.
    """

    rates: Mapping[PolicyKey, Rate]
    comparison: Comparison | None
    may_say: tuple[str, ...]
    may_not_say: tuple[str, ...]


def conclude(results: Sequence[TrialResult], names: Mapping[PolicyKey, str]) -> Conclusions:
    """Compute the conclusions from the results of valid trials.

    Args:
        results: results of one policy or of two. A pose at which only one of two policies was tried
            counts for the success rate, but not for the comparison.
        names: names of the policies for the sentences, by the policy's key (`a` or `b`).
    """
    rates: dict[PolicyKey, Rate] = {}
    for key in names:
        found = [result.judgement.success for result in results if result.trial.policy == key]
        rates[key] = Rate(successes=sum(success is True for success in found), trials=len(found))
    if "b" not in rates:
        return _of_one(rates["a"], names["a"])
    return _of_two(rates, compare(results), names)


def compare(results: Sequence[TrialResult]) -> Comparison:
    """Compute the comparison of two policies from their trials at the same poses."""
    by_pose: dict[int, dict[PolicyKey, bool]] = {}
    for result in results:
        at = by_pose.setdefault(result.trial.pose_index, {})
        at[result.trial.policy] = result.judgement.success is True
    pairs = [(at["a"], at["b"]) for at in by_pose.values() if len(at) == 2]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    both = pairs.count((True, True))
    return Comparison(
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=pairs.count((False, False)),
        sign_p=sign_test(only_a, only_b),
        fisher_p=fisher_exact(both + only_a, len(pairs), both + only_b, len(pairs)),
    )


def _of_one(rate: Rate, name: str) -> Conclusions:
    low, high = wilson_interval(rate.successes, rate.trials)
    may = f"{name} succeeds in {low:.0%} to {high:.0%} of such trials (95 % confidence)."
    may_not = (
        f"That its success rate is {rate.share:.0%}: with {rate.trials} trials, the true rate may "
        "be anywhere in the interval."
    )
    return Conclusions(
        rates={"a": rate},
        comparison=None,
        may_say=(may,),
        may_not_say=(may_not, *_power_of(rate, rate.trials)),
    )


def _of_two(
    rates: Mapping[PolicyKey, Rate], comparison: Comparison, names: Mapping[PolicyKey, str]
) -> Conclusions:
    may = [
        f"{names[key]} succeeds in {low:.0%} to {high:.0%} of such trials (95 % confidence)."
        for key, rate in rates.items()
        for low, high in [wilson_interval(rate.successes, rate.trials)]
    ]
    may_not: list[str] = []
    different = comparison.only_a + comparison.only_b
    better: PolicyKey = "a" if comparison.only_a >= comparison.only_b else "b"
    worse: PolicyKey = "b" if better == "a" else "a"
    wins = max(comparison.only_a, comparison.only_b)
    of = (
        f"{wins} of the {different} pairs with different outcomes, "
        f"sign test p = {comparison.sign_p:.3f}"
    )
    if comparison.sign_p <= SIGNIFICANCE:
        may.append(f"{names[better]} is better than {names[worse]}: it won {of}.")
    elif wins * 2 > different:
        may_not.append(
            f"That {names[better]} is better than {names[worse]}: it won {of}; two equally good "
            "policies can differ as much by chance."
        )
        may_not.append("That the two are equally good: see which differences these trials find.")
    else:
        may_not.append(
            f"That one of the two is better: each won {comparison.only_a} of the pairs with "
            "different outcomes. Nor that they are equally good: see which differences these "
            "trials find."
        )
    return Conclusions(
        rates=rates,
        comparison=comparison,
        may_say=tuple(may),
        may_not_say=(*may_not, *_power_of(rates[better], comparison.pairs, rates[worse])),
    )


def _power_of(rate: Rate, pairs: int, other: Rate | None = None) -> tuple[str, ...]:
    """Return sentences about the statistical power of the trials.

    The sentences name the nearest lower and higher success rates that can be distinguished from
    `rate` with two policies at `pairs` poses. If these are too few poses to distinguish `rate` from
    `other`, the sentences also name the number of poses that is necessary.

    Args:
        rate: success rate of the policy; of two policies, of the better one.
        pairs: number of poses.
        other: success rate of the second policy; None: there is only one policy, and the two rates
            of an example are used instead, 63 % and 75 %.
    """
    if not pairs:
        return ()
    low, high = detectable_rates(rate.share, pairs, _POWER)
    found = [
        f"{other_rate:.0%} or {which}"
        for other_rate, which in ((low, "less"), (high, "more"))
        if other_rate is not None
    ]
    at = "1 pose" if pairs == 1 else f"{pairs} poses"
    if found:
        line = (
            f"With two policies at {at}, a success rate of {rate.share:.0%} is distinguished from "
            f"{' and from '.join(found)} (in {_POWER:.0%} of such evaluations)"
        )
    else:
        line = (
            f"With two policies at {at}, a success rate of {rate.share:.0%} is not distinguished "
            "from any other"
        )
    # without a second policy, use the rates of an example in Toto's paper: 75 % and 63 %
    least, most = sorted((rate.share, 0.63 if other is None else other.share))
    if other is None:
        least, most = 0.63, 0.75
    if least == most:
        return (f"{line}.",)
    chance = paired_power(least, most, pairs)
    needed = pairs_needed(least, most, _POWER)
    amount = "more than 2000" if needed is None else f"about {needed}"
    if needed is not None and needed <= pairs:
        return (f"{line}.",)
    return (
        f"{line}, and {least:.0%} from {most:.0%} only in {chance:.0%}: for {_POWER:.0%} that "
        f"takes {amount} poses.",
    )
