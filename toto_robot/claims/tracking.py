"""Find out whether tracking gets better with larger images."""

import csv
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..recognition.davis_report import KEPT
from .runs import Runs
from .verdict import Bound, Finding, Statement, by_sign, crossed_bootstrap

__all__ = ["Resolution", "TrackingResolution"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """Tracking at one image size.

    Attributes:
        name: name in tables.
        run: name of the run of `davis`.
        paper: the paper's J&F, %; null: it has none.
    """

    name: str
    run: str
    paper: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingResolution:
    """J&F at the best layer for each image size, paired over the sequences.

    Attributes:
        sizes: the image sizes, the smallest first.
        controls: the same with features of plain colours; they are shown for comparison.
    """

    kind: ClassVar[str] = "tracking_resolution"
    sizes: tuple[Resolution, ...]
    controls: tuple[Resolution, ...]

    def judge(self, runs: Runs) -> Finding:
        """Return J&F at each image size, and the differences of neighbouring sizes."""
        rows, statements = [], []
        scores = {one.name: _scores(runs, one.run) for one in (*self.sizes, *self.controls)}
        for one in (*self.sizes, *self.controls):
            layer, mine, kept = scores[one.name]
            bound = _over_sequences(mine)
            rows.append(
                {"name": one.name, "value": bound.value, "low": bound.low, "high": bound.high}
                | {"paper": "" if one.paper is None else f"{one.paper:g}", "layer": layer}
                | {"sequences": len(mine), "first_mask_kept": float(np.mean(list(kept.values())))}
            )
        for group in (self.sizes, self.controls):
            for one, two in pairwise(group):
                small, large = scores[one.name][1], scores[two.name][1]
                bound = _over_sequences({name: large[name] - small[name] for name in large})
                text = f"J&F is higher for {two.name} than for {one.name}"
                verdict = by_sign(bound)
                if group is self.sizes:
                    statements.append(Statement(text=text, bound=bound, unit="%", verdict=verdict))
                else:
                    difference = {"value": bound.value, "low": bound.low, "high": bound.high}
                    rows.append(
                        {"name": f"control: {two.name} - {one.name}", **difference, "paper": ""}
                    )
        return Finding(rows=rows, measure="J&F", unit="%", statements=statements)


def _scores(runs: Runs, run: str) -> tuple[int, dict[str, float], dict[str, float]]:
    """Return the best layer, and J&F of each sequence at it and for the first mask, kept."""
    ((folder, _),) = runs.of(run)
    best = json.loads((folder / "results.json").read_text())["best_layer"]
    found: dict[str, dict[str, list[float]]] = {}
    with (folder / "sequences.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            both = (float(row["J_mean"]) + float(row["F_mean"])) / 2
            found.setdefault(row["layer"], {}).setdefault(row["sequence"], []).append(both)
    at_best, kept = (
        {name: float(np.mean(values)) for name, values in found[layer].items()}
        for layer in (str(best), KEPT)
    )
    return best, at_best, kept


def _over_sequences(values: dict[str, float]) -> Bound:
    """Return the mean over the sequences, with a bootstrap interval."""
    array: NDArray[np.float64] = np.array(list(values.values()))
    return crossed_bootstrap([array], [np.arange(len(array))])
