"""Test whether the best layer of an encoder is near the middle of its depth."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..analyses.statistics import grouped_means, interval
from .comparison import Arm, read_probe
from .runs import Runs
from .verdict import RESAMPLES, Bound, Finding, Statement, Verdict

__all__ = ["MiddleLayer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MiddleLayer:
    """The depth of the best layer, with a bootstrap over test images.

    Attributes:
        arms: the variants (encoders and heads); each has one statement, unless it is a control.
        controls: names of the variants that are shown only for comparison.
        low: smallest share of the depth that counts as the middle.
        high: largest share of the depth that counts as the middle.
    """

    kind: ClassVar[str] = "middle_layer"
    arms: tuple[Arm, ...]
    controls: tuple[str, ...]
    low: float
    high: float

    def evaluate(self, runs: Runs) -> Finding:
        """Return the depth of the best layer of each variant."""
        rows, statements = [], []
        for arm in self.arms:
            bound, facts, inside = self._measure(arm, runs)
            row = {"name": arm.name, "value": bound.value, "low": bound.low, "high": bound.high}
            paper = "" if arm.paper is None else f"{arm.paper:g}"
            rows.append({**row, "paper": paper, "by_seed": list(bound.by_seed), **facts})
            if arm.name not in self.controls:
                text = f"{arm.name}: the best layer is in the middle (in {100 * inside:.0f} % of "
                text += "the resamples)"
                verdict = self._decide(bound)
                statements.append(Statement(text=text, bound=bound, unit="%", verdict=verdict))
        rule = (
            f"Confirmed: the best layer is at {100 * self.low:.0f} to {100 * self.high:.0f} % of "
            "the depth, with its whole 95 % interval and for each seed. Not confirmed: interval "
            "and seeds are outside. Otherwise, there is no clear result."
        )
        measure = "depth of the best layer"
        return Finding(rows=rows, measure=measure, unit="%", statements=statements, rule=rule)

    def _measure(self, arm: Arm, runs: Runs) -> tuple[Bound, dict[str, Any], float]:
        """Return the depth of the best layer, further facts, and the share in the middle."""
        layers, parts = read_probe(runs, arm.probe)
        depth = np.array(layers) / layers[-1]
        correct = np.concatenate([part["correct"] for part in parts], axis=1)
        groups = np.concatenate([part["groups"] for part in parts])
        drawn = grouped_means(correct.T.astype(float), groups, RESAMPLES, np.random.default_rng(0))
        of_drawn = depth[drawn.argmax(1)]
        low, high = interval(of_drawn)
        best = int(correct.mean(1).argmax())
        bound = Bound(
            value=float(depth[best]),
            low=float(low),
            high=float(high),
            by_seed=tuple(float(depth[part["correct"].mean(1).argmax()]) for part in parts),
        )
        inside = float(((of_drawn >= self.low) & (of_drawn <= self.high)).mean())
        facts = {"layer": f"{layers[best]} of {layers[-1]}", "share_in_middle": inside}
        facts |= {"top1_of_layers": correct.mean(1).tolist(), "test_images": len(np.unique(groups))}
        return bound, facts, inside

    def _decide(self, bound: Bound) -> Verdict:
        inside = [self.low <= one <= self.high for one in bound.by_seed]
        if bound.low >= self.low and bound.high <= self.high and all(inside):
            return "confirmed"
        if (bound.high < self.low or bound.low > self.high) and not any(inside):
            return "not confirmed"
        return "no clear result"
