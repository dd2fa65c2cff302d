"""What may be concluded from trials, and what may not: rates, intervals, tests, and their power."""

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
    """How often a policy succeeded."""

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
    """What two policies did at the same poses.

    Attributes:
        both: pairs in which both succeeded.
        only_a: pairs in which only `a` did.
        only_b: pairs in which only `b` did.
        neither: pairs in which both failed.
        sign_p: of the sign test on the pairs that are not alike.
        fisher_p: of Fisher's exact test, as if the trials were not paired.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    sign_p: float
    fisher_p: float

    @property
    def pairs(self) -> int:
        """Return how many pairs there are."""
        return self.both + self.only_a + self.only_b + self.neither


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusions:
    """What the trials say.

    Attributes:
        rates: of each policy.
        comparison: of two; None for one.
        may_say: sentences that the trials support.
        may_not_say: sentences that they do not, and what it would take.
    """

    rates: Mapping[PolicyKey, Rate]
    comparison: Comparison | None
    may_say: tuple[str, ...]
    may_not_say: tuple[str, ...]


def conclude(results: Sequence[TrialResult], names: Mapping[PolicyKey, str]) -> Conclusions:
    """Say what may be concluded from trials that count.

    Args:
        results: of one policy, or of two; pairs that are not complete count for the rates alone.
        names: of the policies, as sentences shall call them.
    """
    rates: dict[PolicyKey, Rate] = {}
    for key in names:
        mine = [result.judgement.success for result in results if result.trial.policy == key]
        rates[key] = Rate(successes=sum(success is True for success in mine), trials=len(mine))
    if "b" not in rates:
        return _of_one(rates["a"], names["a"])
    return _of_two(rates, compare(results), names)


def compare(results: Sequence[TrialResult]) -> Comparison:
    """Put the two policies' trials at the same poses side by side."""
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
        f"That it succeeds in {rate.share:.0%}: with {rate.trials} trials the true rate may be "
        "anywhere in that interval."
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
    unlike = comparison.only_a + comparison.only_b
    better: PolicyKey = "a" if comparison.only_a >= comparison.only_b else "b"
    worse: PolicyKey = "b" if better == "a" else "a"
    wins = max(comparison.only_a, comparison.only_b)
    of = f"{wins} of the {unlike} pairs that were not alike, sign test p = {comparison.sign_p:.3f}"
    if comparison.sign_p <= SIGNIFICANCE:
        may.append(f"{names[better]} is better than {names[worse]}: it won {of}.")
    elif wins * 2 > unlike:
        may_not.append(
            f"That {names[better]} is better than {names[worse]}: it won {of}; equally good "
            "policies give that often enough by chance."
        )
        may_not.append("Nor that the two are equally good: see what these trials could have found.")
    else:
        may_not.append(
            f"That one of the two is better: each won {comparison.only_a} of the pairs that were "
            "not alike; nor that they are equally good: see what these trials could have found."
        )
    return Conclusions(
        rates=rates,
        comparison=comparison,
        may_say=tuple(may),
        may_not_say=(*may_not, *_power_of(rates[better], comparison.pairs, rates[worse])),
    )


def _power_of(rate: Rate, pairs: int, other: Rate | None = None) -> tuple[str, ...]:
    """Return which differences so many pairs of trials find, and what a smaller one would need."""
    if not pairs:
        return ()
    low, high = detectable_rates(rate.share, pairs, _POWER)
    found = [
        f"one of {other_rate:.0%} or {which}"
        for other_rate, which in ((low, "less"), (high, "more"))
        if other_rate is not None
    ]
    at = "1 pose" if pairs == 1 else f"{pairs} poses"
    if found:
        line = (
            f"Trying two policies at {at} tells one of {rate.share:.0%} from "
            f"{' and from '.join(found)} (in {_POWER:.0%} of such evaluations)"
        )
    else:
        line = f"Trying two policies at {at} tells one of {rate.share:.0%} from no other"
    # Toto's paper, where 16 trials each gave 75 % and 63 %, when there is nothing else to name
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
    return (f"{line}; {least:.0%} from {most:.0%} in {chance:.0%}: that takes {amount} poses.",)
