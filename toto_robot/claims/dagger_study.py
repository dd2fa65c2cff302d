"""Compare the learning curves of two encoders in policy training (paper Figure 6)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .runs import Runs
from .verdict import RULE, Bound, Finding, Statement, Verdict, by_sign, seed_interval

__all__ = ["DaggerStudy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DaggerStudy:
    """The area under the success curves of finished runs of `policies.train`, paired by seed.

    Attributes:
        toto: folder with the runs of Toto, at any depth.
        other: folder with the runs of the other encoder.
        seeds: number of paired seeds of a task that a verdict needs.
        commands: commands that make the runs.
    """

    kind: ClassVar[str] = "dagger_study"
    toto: Path
    other: Path
    seeds: int
    commands: tuple[str, ...]

    def evaluate(self, runs: Runs) -> Finding:
        """Return the areas, and their paired differences for each task."""
        one, two = _areas(self.toto), _areas(self.other)
        rows, statements = [], []
        for task in sorted({task for task, _ in one.keys() & two.keys()}):
            pairs = [key for key in sorted(one.keys() & two.keys()) if key[0] == task]
            for name, areas in (("Toto", one), ("MAE", two)):
                bound = seed_interval([areas[key] for key in pairs])
                row = {"name": f"{task}, {name}", "value": bound.value, "low": bound.low}
                rows.append(row | {"high": bound.high, "paper": "", "by_seed": list(bound.by_seed)})
            bound = seed_interval([one[key] - two[key] for key in pairs])
            text = f"{task}: the area under Toto's curve is larger ({len(pairs)} paired seeds)"
            verdict: Verdict = by_sign(bound) if len(pairs) >= self.seeds else "no clear result"
            statements.append(Statement(text=text, bound=bound, unit="%", verdict=verdict))
        if not statements:
            nothing = Bound(value=np.nan, low=np.nan, high=np.nan, by_seed=())
            text = f"there are no runs with equal tasks and seeds in {self.toto} and {self.other}; "
            text += "these commands make them:\n    " + "\n    ".join(self.commands)
            statements = [Statement(text=text, bound=nothing, unit="%", verdict="no clear result")]
        rule = (
            f"{RULE} Each task needs at least {self.seeds} "
            "paired seeds; the intervals are Student's t over the seeds."
        )
        measure = "area under the success curve"
        return Finding(rows=rows, measure=measure, unit="%", statements=statements, rule=rule)


def _areas(folder: Path) -> dict[tuple[str, int], float]:
    """Return the mean success rate over the environment steps, by task and seed."""
    areas = {}
    for config in sorted(folder.rglob("config.json")):
        files = sorted(config.parent.glob("rounds/*/round.json"))
        if not files:
            continue
        data = json.loads(config.read_text())
        rounds = [json.loads(file.read_text()) for file in files]
        steps = [one["env_steps"] for one in rounds]
        rates = [
            one["validation"]["successes"] / max(1, one["validation"]["episodes"]) for one in rounds
        ]
        area = np.trapezoid(rates, steps) / (steps[-1] - steps[0]) if len(steps) > 1 else rates[0]
        areas[data["env"]["id"], data["seed"]] = float(area)
    return areas
