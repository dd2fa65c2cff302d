"""Test whether the loss falls with the training compute, as a power law."""

import csv
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..analyses.power_law import Curve, fit_ends
from ..analyses.scaling import curves_of
from .runs import Runs
from .verdict import RESAMPLES, RULE, Bound, Finding, Statement, Verdict, by_sign

__all__ = ["ScalingLaw"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingLaw:
    """A power law through the final losses of models of several sizes.

    Attributes:
        run: name of the run of `scaling`.
        paper_exponent: the paper's exponent.
        tolerance: an exponent within this share of the paper's counts as equal.
    """

    kind: ClassVar[str] = "scaling_law"
    run: str
    paper_exponent: float
    tolerance: float

    def evaluate(self, runs: Runs) -> Finding:
        """Return the exponent, and whether the law predicts models that were left out."""
        ((folder, _),) = runs.of(self.run)
        with (folder / "curves.csv").open(newline="") as file:
            rows = [
                row
                | {"seed": int(row["seed"]), "macs": float(row["macs"]), "loss": float(row["loss"])}
                for row in csv.DictReader(file)
            ]
        curves = curves_of(rows)
        rng = np.random.default_rng(0)
        law = fit_ends(curves, RESAMPLES, rng)
        seeds = sorted({row["seed"] for row in rows})
        curves_by_seed = [curves_of([row for row in rows if row["seed"] == one]) for one in seeds]
        by_seed = tuple(fit_ends(one, 100, rng).exponent for one in curves_by_seed)
        falls = Bound(
            value=-law.exponent,
            low=-law.high,
            high=-law.low,
            by_seed=tuple(-one for one in by_seed),
        )
        gained = _gained(curves)
        better = Bound(
            value=gained, low=gained, high=gained, by_seed=tuple(map(_gained, curves_by_seed))
        )
        exponent = Bound(value=law.exponent, low=law.low, high=law.high, by_seed=by_seed)
        statements = [
            Statement(
                text="the loss falls with the compute (minus the exponent)",
                bound=falls, unit="", verdict=by_sign(falls),
            ),
            Statement(
                text="the power law predicts left-out sizes with a smaller error than a constant",
                bound=better, unit="%", verdict=by_sign(better),
            ),
            Statement(
                text=f"the exponent equals the paper's {self.paper_exponent:g} within "
                f"{100 * self.tolerance:.0f} %",
                bound=exponent, unit="", verdict=self._equals(exponent),
            ),
        ]  # fmt: skip
        table = [
            {"name": f"exponent, {len(curves)} runs of {len({c.member for c in curves})} sizes"}
            | {"value": law.exponent, "low": law.low, "high": law.high}
            | {"paper": f"{self.paper_exponent:g}", "by_seed": list(by_seed), "scale": law.scale}
            | {"explained": law.explained}
        ]
        rule = (
            f"{RULE} The exponent equals the paper's if its interval is within the tolerance, and "
            "differs if the interval excludes the paper's. The error is that of the logarithm of "
            "the loss, for one size at a time left out of the fit; it has no interval, so only "
            "the seeds decide."
        )
        return Finding(rows=table, measure="exponent", unit="", statements=statements, rule=rule)

    def _equals(self, bound: Bound) -> Verdict:
        wide = abs(self.paper_exponent) * self.tolerance
        if self.paper_exponent - wide <= bound.low and bound.high <= self.paper_exponent + wide:
            return "confirmed"
        # False if there is no interval: its ends are NaN.
        outside = self.paper_exponent < bound.low or self.paper_exponent > bound.high
        return "not confirmed" if outside else "no clear result"


def _gained(curves: list[Curve]) -> float:
    """Return by which share a power law predicts left-out sizes better than a constant."""
    constant = _left_out_error(curves, constant=True)
    return 1 - _left_out_error(curves, constant=False) / constant


def _left_out_error(curves: list[Curve], *, constant: bool) -> float:
    """Return the mean squared error of log(loss), with one size at a time left out of the fit."""
    errors = []
    for member in {curve.member for curve in curves}:
        rest = [curve for curve in curves if curve.member != member]
        x, y = (np.log([getattr(c, key)[-1] for c in rest]) for key in ("compute", "loss"))
        slope, level = (0.0, y.mean()) if constant else np.polyfit(x, y, 1)
        errors += [
            (level + slope * np.log(curve.compute[-1]) - np.log(curve.loss[-1])) ** 2
            for curve in curves
            if curve.member == member
        ]
    return float(np.mean(errors))
