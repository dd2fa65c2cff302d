"""Compare the learning curves of two encoders in policy training (paper Figure 6)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..analyses.seeds import area_under
from ..config import differences
from ..runs import WITHOUT_EFFECT
from .runs import Runs
from .verdict import RULE, Bound, Finding, Statement, Verdict, by_sign, seed_interval

__all__ = ["DaggerStudy"]

_ENCODERS_OWN = ("encoder", "data", "seed")  # a study tokenises its demonstrations per encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class DaggerStudy:
    """The area under the success curves of finished runs of `policies.train`, paired by seed.

    The area of a pair is the mean success rate over the environment steps that both runs share.

    Attributes:
        toto: folders with the runs of Toto, at any depth; a pattern such as `cells/*/toto`.
        other: folders with the runs of the other encoder, in the same way.
        seeds: number of paired seeds of a task that a verdict needs.
        commands: commands that make the runs.
    """

    kind: ClassVar[str] = "dagger_study"
    toto: str
    other: str
    seeds: int
    commands: tuple[str, ...]

    def evaluate(self, runs: Runs) -> Finding:
        """Return the areas, and their paired differences for each task.

        Raises:
            ValueError: two runs have the same task and seed, or a pair differs in more than the
                encoder; the message names the runs.
        """
        (one, open_one), (two, open_two) = _finished(self.toto), _finished(self.other)
        keys = sorted(one.keys() & two.keys())
        rows, statements = [], []
        for task in dict.fromkeys(key[:2] for key in keys):
            pairs = [_areas(one[key], two[key]) for key in keys if key[:2] == task]
            name = _name(task, keys)
            for number, encoder in enumerate(("Toto", "MAE")):
                bound = seed_interval([pair[number] for pair in pairs])
                row = {"name": f"{name}, {encoder}", "value": bound.value, "low": bound.low}
                rows.append(row | {"high": bound.high, "paper": "", "by_seed": list(bound.by_seed)})
            bound = seed_interval([first - second for first, second in pairs])
            text = f"{name}: the area under Toto's curve is larger ({len(pairs)} paired seeds)"
            verdict: Verdict = by_sign(bound) if len(pairs) >= self.seeds else "no clear result"
            statements.append(Statement(text=text, bound=bound, unit="%", verdict=verdict))
        if not statements:
            nothing = Bound(value=np.nan, low=np.nan, high=np.nan, by_seed=())
            text = f"there are no finished runs with equal tasks and seeds in {self.toto} and "
            text += f"{self.other}; this makes them:\n    " + "\n    ".join(self.commands)
            statements = [Statement(text=text, bound=nothing, unit="%", verdict="no clear result")]
        rule = (
            f"{RULE} Each task needs at least {self.seeds} paired seeds; the intervals are "
            f"Student's t over the seeds. Left out: {open_one + open_two} runs that are not "
            f"finished, and {len(one.keys() ^ two.keys())} without a pair."
        )
        measure = "area under the success curve"
        return Finding(rows=rows, measure=measure, unit="%", statements=statements, rule=rule)


Task = tuple[str, str]  # the name of the environment, and all its settings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    folder: Path
    config: dict[str, Any]
    steps: list[int]
    rates: list[float]


def _finished(pattern: str) -> tuple[dict[tuple[str, str, int], _Run], int]:
    """Return the finished runs in the folders, and the number of those that are not finished."""
    found: dict[tuple[str, str, int], _Run] = {}
    unfinished = 0
    folders = [Path(folder) for folder in sorted(glob(pattern))]
    for path in sorted(chain.from_iterable(folder.rglob("config.json") for folder in folders)):
        config = json.loads(path.read_text())
        if not config.get("env") or not {"seed", "encoder"} <= config.keys():
            continue  # not a run of `policies.train` in an environment
        if not (path.parent / "metrics.json").is_file():
            unfinished += 1
            continue
        rounds = json.loads((path.parent / "metrics.json").read_text())["rounds"]
        validations = [entry["validation"] for entry in rounds]
        run = _Run(
            folder=path.parent,
            config=config,
            steps=[entry["env_steps"] for entry in rounds],
            rates=[one["successes"] / max(1, one["episodes"]) for one in validations],
        )
        settings = json.dumps(config["env"], sort_keys=True)
        key = (config["env"]["id"], settings, config["seed"])
        if key in found:
            raise ValueError(
                f"{pattern} has two runs of {key[0]} with seed {key[2]}: {found[key].folder} and "
                f"{run.folder}; name a folder or a pattern that has one of them"
            )
        found[key] = run
    return found, unfinished


def _areas(one: _Run, two: _Run) -> tuple[float, float]:
    """Return the mean success rates of two runs over the environment steps that they share."""
    unequal = [
        line
        for line in differences(*({k: v for k, v in run.config.items() if k not in _ENCODERS_OWN}
                                  for run in (one, two)))
        if line.partition(": ")[0].rpartition(".")[2] not in WITHOUT_EFFECT
    ]  # fmt: skip
    if unequal:
        raise ValueError(
            f"{one.folder} and {two.folder} differ in more than the encoder: {'; '.join(unequal)}"
        )
    low = max(one.steps[0], two.steps[0])
    high = min(one.steps[-1], two.steps[-1])
    first, second = (area_under(run.steps, run.rates, low, high) for run in (one, two))
    return first, second


def _name(task: Task, keys: Sequence[tuple[str, str, int]]) -> str:
    """Return the name of a task, with its settings if several tasks have the same name."""
    same = {key[1] for key in keys if key[0] == task[0]}
    return task[0] if len(same) == 1 else f"{task[0]} {task[1]}"
