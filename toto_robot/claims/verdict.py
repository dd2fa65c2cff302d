"""Decide from values with intervals whether a statement is confirmed.

`RULE` is the rule of all claims that do not name another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..analyses.seeds import over_seeds
from ..analyses.statistics import interval

__all__ = [
    "RULE",
    "Bound",
    "Finding",
    "Statement",
    "Verdict",
    "by_sign",
    "combine",
    "crossed_bootstrap",
    "seed_interval",
]

Verdict = Literal["confirmed", "not confirmed", "no clear result"]
RULE = (
    "A statement is confirmed if its value is above 0 with its whole 95 % interval and for each "
    "seed, and not confirmed if it is below 0 in the same way. Otherwise, there is no clear result."
)
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A value with its 95 % interval.

    Attributes:
        value: the value over all seeds.
        low: lower end of the interval.
        high: upper end of the interval.
        by_seed: the value of each seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One part of a claim, with the value that decides it.

    Attributes:
        text: the statement in words.
        bound: the value, its interval, and the value of each seed.
        unit: unit of the value, such as `nats`; `%` if the value is a share.
        verdict: the verdict.
    """

    text: str
    bound: Bound
    unit: str
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was measured for a claim.

    Attributes:
        rows: one row for each compared thing: `name`, `value`, `low`, `high`, `paper` (the paper's
            value, or empty), and other facts.
        measure: name of the value of the rows, such as `top-1`.
        unit: unit of the value of the rows; `%` if it is a share.
        statements: the parts of the claim.
        rule: the rule of the verdict, in words.
    """

    rows: list[dict[str, Any]]
    measure: str
    unit: str
    statements: list[Statement]
    rule: str = RULE

    @property
    def verdict(self) -> Verdict:
        """The verdict of the whole claim."""
        return combine([one.verdict for one in self.statements])


def by_sign(bound: Bound) -> Verdict:
    """Return the verdict of a statement that a value is above 0."""
    if bound.low > 0 and min(bound.by_seed) > 0:
        return "confirmed"
    if bound.high < 0 and max(bound.by_seed) < 0:
        return "not confirmed"
    return "no clear result"


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of a claim from the verdicts of its statements.

    It is `confirmed` if all statements are, and `not confirmed` if one statement is not confirmed.
    """
    if "not confirmed" in verdicts:
        return "not confirmed"
    return "no clear result" if not verdicts or "no clear result" in verdicts else "confirmed"


def crossed_bootstrap(
    values: Sequence[NDArray[Any]], examples: Sequence[NDArray[np.int64]]
) -> Bound:
    """Return the mean of values of examples and seeds, with a bootstrap interval over both.

    Seeds and examples are each drawn with replacement, independently. An example that occurs in the
    values of several seeds is drawn for all of them together.

    Args:
        values: the values of each seed, [n].
        examples: the number of the example of each value, [n] for each seed.
    """
    names, index = np.unique(np.concatenate(examples), return_inverse=True)
    seed_of = np.repeat(np.arange(len(values)), [len(one) for one in values])
    sums, counts = np.zeros((2, len(values), len(names)))
    np.add.at(sums, (seed_of, index), np.concatenate(values).astype(np.float64))
    np.add.at(counts, (seed_of, index), 1.0)
    rng = np.random.default_rng(0)
    examples_drawn, seeds_drawn = (
        rng.multinomial(number, np.full(number, 1 / number), RESAMPLES).astype(np.float64)
        for number in (len(names), len(values))
    )
    totals, numbers = (
        (seeds_drawn * (examples_drawn @ table.T)).sum(1) for table in (sums, counts)
    )
    low, high = interval(totals / numbers)
    by_seed = tuple(float(np.mean(one)) for one in values)
    return Bound(
        value=float(sums.sum() / counts.sum()), low=float(low), high=float(high), by_seed=by_seed
    )


def seed_interval(values: Sequence[float]) -> Bound:
    """Return the mean of the values of seeds, with Student's t interval.

    With one seed, there is no interval: its ends are NaN.
    """
    found = over_seeds(values)
    low, high = (found.low, found.high) if found.seeds > 1 else (float("nan"), float("nan"))
    return Bound(value=found.mean, low=low, high=high, by_seed=tuple(values))
