"""Read the results of the cells, and compute the tables of the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.success_rates import wilson_interval
from toto_robot.analyses.seeds import Estimate, area_under, over_seeds

from .config import CLAIM_SEEDS, Cell, StudyConfig, result_path
from .statistics import as_rate, difference, episode_variance, seeds_needed, success_rate

# The name of the evaluation in the environment of the training, beside the suites.
TRAINING = "as_trained"

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The results of one row in one column and one suite, compared with the baseline.

    Attributes:
        column: name of the column.
        suite: name of the evaluation suite; `as_trained`: the environment of the training.
        row: name of the row.
        successes: number of successful episodes, over all seeds.
        episodes: number of episodes, over all seeds.
        rate: success rate with its interval over training seeds.
        area: area under the learning curve; None for a suite, which has no learning curve, or if
            the learning curves of the column share no range of environment steps, also because a
            cell has no validation episodes.
        against: success rate minus that of the baseline, on the seeds that both have; None for the
            baseline itself, or without such seeds.
        area_against: the same difference of the areas.
        needed: number of training seeds with which a test would find the difference; None: unknown.
    """

    column: str
    suite: str
    row: str
    successes: int
    episodes: int
    rate: Estimate
    area: Estimate | None
    against: Estimate | None
    area_against: Estimate | None
    needed: int | None

    @property
    def wilson(self) -> tuple[float, float]:
        """Wilson 95 % interval of the rate for these policies, without the variation of seeds."""
        return wilson_interval(self.successes, self.episodes)

    def verdict(self, baseline: str) -> str:
        """Return in words whether row and baseline differ clearly."""
        found = self.against
        if found is None:
            return "the baseline" if self.row == baseline else f"no seed shared with {baseline}"
        if found.seeds < CLAIM_SEEDS:
            seeds = "one training seed" if found.seeds == 1 else f"{found.seeds} training seeds"
            return f"{seeds}: an observation, not a claim"
        if found.is_apart:
            return f"{'above' if found.mean > 0 else 'below'} {baseline}"
        if found.mean == 0:
            return f"no difference from {baseline} was observed"
        more = (
            f"roughly {self.needed} seeds would find a difference of this size"
            if self.needed is not None
            else "the number of seeds for a difference of this size cannot be estimated"
        )
        return f"no clear difference from {baseline}; {more}"


def read_results(out: Path, cells: Sequence[Cell]) -> list[Json]:
    """Return the results of the finished cells, in the order of the cells."""
    paths = [result_path(out, cell) for cell in cells]
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def compare(config: StudyConfig, results: Sequence[Json]) -> list[Comparison]:
    """Compare each row with the baseline, in each column and suite that has results."""
    compared = []
    for column, where in config.columns.items():
        here = [one for one in results if one["column"] == column]
        limits = _limits(here)
        for suite in (TRAINING, *where.suites):
            by_row = {
                name: {one["seed"]: one for one in here if one["row"] == name}
                for name in config.rows
            }
            compared += [
                _comparison(column, suite, row, cells, by_row[config.baseline], limits)
                if row != config.baseline
                else _comparison(column, suite, row, cells, {}, limits)
                for row, cells in by_row.items()
                if cells
            ]
    return compared


def _comparison(
    column: str,
    suite: str,
    row: str,
    cells: Mapping[int, Json],
    baseline: Mapping[int, Json],
    limits: tuple[float, float] | None,
) -> Comparison:
    outcomes = {seed: outcomes_of(one, suite) for seed, one in cells.items()}
    shared = [seed for seed in cells if seed in baseline]
    against = area_against = needed = None
    if shared:
        others = [outcomes_of(baseline[seed], suite) for seed in shared]
        ours = [outcomes[seed] for seed in shared]
        against = difference(ours, others)
        if len(shared) > 1:
            needed = seeds_needed(
                [one.mean() - two.mean() for one, two in zip(ours, others, strict=True)]
            )
    area = None
    if suite == TRAINING and limits is not None:
        areas = {seed: _area(one, limits) for seed, one in cells.items()}
        area = as_rate(over_seeds(list(areas.values()), _area_variance(list(cells.values()))))
        if shared:
            area_against = over_seeds(
                [areas[seed] - _area(baseline[seed], limits) for seed in shared],
                _area_variance([cells[seed] for seed in shared])
                + _area_variance([baseline[seed] for seed in shared]),
            )
    return Comparison(
        column=column,
        suite=suite,
        row=row,
        successes=int(sum(one.sum() for one in outcomes.values())),
        episodes=sum(len(one) for one in outcomes.values()),
        rate=success_rate(list(outcomes.values())),
        area=area,
        against=against,
        area_against=area_against,
        needed=needed,
    )


def curve_of(result: Json, key: str = "env_steps") -> tuple[list[float], list[float]]:
    """Return the learning curve of a cell: `key` and success rate of each validation.

    Both lists are empty with `validation_episodes=0`.
    """
    points = [one for one in result["curve"] if one["episodes"]]
    return (
        [float(one[key]) for one in points],
        [one["successes"] / one["episodes"] for one in points],
    )


def outcomes_of(result: Json, suite: str) -> NDArray[np.float64]:
    """Return the outcome, 0 or 1, of each episode of an evaluation, in the order of the seeds."""
    found = result["evaluation"] if suite == TRAINING else result["suites"][suite]
    episodes = sorted(found["seeds"], key=lambda one: one["seed"])
    return np.array([float(one["success"]) for one in episodes])


def _limits(results: Sequence[Json]) -> tuple[float, float] | None:
    """Return the range of environment steps that the learning curves of a column share, if any."""
    steps = [curve_of(one)[0] for one in results]
    if not steps or not all(steps):
        return None
    low, high = max(one[0] for one in steps), min(one[-1] for one in steps)
    return (low, high) if low < high else None


def _area(result: Json, limits: tuple[float, float]) -> float:
    return area_under(*curve_of(result), *limits)


def _area_variance(results: Sequence[Json]) -> float:
    """Return the least variance of a mean area: that of its validation episodes alone."""
    outcomes = []
    for result in results:
        successes = sum(one["successes"] for one in result["curve"])
        episodes = sum(one["episodes"] for one in result["curve"])
        outcomes.append(np.array([1.0] * successes + [0.0] * (episodes - successes)))
    return episode_variance([one if len(one) else np.zeros(1) for one in outcomes])
