"""Write the report of trials over several training seeds: report.html, report.md, results.json."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.success_rates import pairs_needed, wilson_interval
from policies.studies.config import CLAIM_SEEDS
from policies.studies.report import render
from policies.studies.statistics import (
    Estimate,
    Outcomes,
    difference,
    episode_variance,
    over_seeds,
    seeds_needed,
    success_rate,
)
from toto_robot.files import write_aside, write_json

from .trials.conclusions import conclude
from .trials.plan import PolicyKey
from .trials.report import PAGE
from .trials.results import TrialResult, load_results

_TEMPLATES = Path(__file__).parent
# The pose indices of a training seed are shifted by this, so that seeds have different ones.
_SHIFT = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Trials of one policy per training seed, or of two at the same poses.

    Attributes:
        names: names of what is compared, by the key of the policy (`a` or `b`).
        reports: folder of the trials' report, by training seed.
    """

    names: Mapping[PolicyKey, str]
    reports: Mapping[int, Path]


def write_report(out: Path, title: str, facts: Sequence[str], groups: Sequence[Group]) -> str:
    """Write report.html, the same as report.md, and results.json.

    Args:
        out: folder of the report.
        title: title of the report.
        facts: sentences about the settings.
        groups: the trials. In a group of two, the difference is the first minus the second.

    Returns:
        The success rates and conclusions as lines of text.
    """
    found = [_evaluated(group) for group in groups]
    write_json(out / "results.json", {"title": title, "facts": list(facts), "groups": found})
    tables = [_table(out, group, one) for group, one in zip(groups, found, strict=True)]
    content = {"title": title, "facts": facts, "tables": tables, "claim_seeds": CLAIM_SEEDS}
    for kind in ("md", "html"):
        text = render(_TEMPLATES / f"grasp_report.{kind}.jinja", content)
        write_aside(out / f"report.{kind}", text)
    lines = [f"{row['name']}: {row['rate']}" for table in tables for row in table["rows"]]
    return "\n".join([*lines, *(text for table in tables for text in table["sentences"])])


def _evaluated(group: Group) -> dict[str, Any]:
    """Return all numbers of a group, as plain data."""
    results = {seed: load_results(path) for seed, path in group.reports.items()}
    outcomes: dict[PolicyKey, list[Outcomes]] = {
        key: [_outcomes(one, key) for one in results.values()] for key in group.names
    }
    pooled = [
        replace(one, trial=replace(one.trial, pose_index=place * _SHIFT + one.trial.pose_index))
        for place, of_seed in enumerate(results.values())
        for one in of_seed
    ]
    conclusions = conclude(pooled, group.names)
    found: dict[str, Any] = {
        "seeds": list(results),
        "policies": {
            name: {
                "outcomes": [one.astype(int).tolist() for one in outcomes[key]],
                "successes": conclusions.rates[key].successes,
                "trials": conclusions.rates[key].trials,
                "wilson": wilson_interval(
                    conclusions.rates[key].successes, conclusions.rates[key].trials
                ),
                "over_seeds": asdict(success_rate(outcomes[key])),
            }
            for key, name in group.names.items()
        },
        "shown_of_these_policies": conclusions.may_say,
        "not_shown_of_these_policies": conclusions.may_not_say,
    }
    if conclusions.comparison is not None:
        found["pairs"] = asdict(conclusions.comparison)
        found["difference"] = _difference(outcomes["a"], outcomes["b"])
    return found


def _outcomes(results: Sequence[TrialResult], key: PolicyKey) -> Outcomes:
    """Return the outcome, 0 or 1, of each trial of a policy, in the order of the poses."""
    mine = [one for one in results if one.trial.policy == key]
    mine.sort(key=lambda one: one.trial.pose_index)
    return np.array([float(one.judgement.success is True) for one in mine])


def _difference(ours: Sequence[Outcomes], others: Sequence[Outcomes]) -> dict[str, Any]:
    """Return the paired difference, its two intervals, and how much would show it."""
    paired = [one - other for one, other in zip(ours, others, strict=True)]
    by_seed = [float(one.mean()) for one in paired]
    seeds = difference(ours, others)
    # one value: a normal interval with the variance of the trials alone
    trials = over_seeds([float(np.mean(by_seed))], episode_variance(paired))
    worse, better = sorted(float(np.concatenate(one).mean()) for one in (ours, others))
    return {
        "by_seed": by_seed,
        "over_seeds": asdict(seeds),
        "over_trials": asdict(trials),
        "pairs_needed": None if worse == better else pairs_needed(worse, better),
        "seeds_needed": seeds_needed(by_seed) if len(by_seed) > 1 else None,
    }


def _table(out: Path, group: Group, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a group for the templates."""
    rows = []
    for name, one in found["policies"].items():
        low, high = one["wilson"]
        over = one["over_seeds"]
        rate = f"{one['successes']}/{one['trials']} = {one['successes'] / one['trials']:.1%}"
        t_text = f"{over['low']:.1%} to {over['high']:.1%}" if over["seeds"] > 1 else "-"
        rows.append(
            {
                "name": name,
                "by_seed": [f"{sum(part)}/{len(part)}" for part in one["outcomes"]],
                "rate": f"{rate} (Wilson 95 %: {low:.1%} to {high:.1%})",
                "over_seeds": t_text,
            }
        )
    links = {
        seed: Path(os.path.relpath(path / PAGE, out)).as_posix()
        for seed, path in group.reports.items()
    }
    return {
        "title": " against ".join(group.names.values()),
        "seeds": found["seeds"],
        "rows": rows,
        "sentences": _sentences(list(group.names.values()), found) if "pairs" in found else [],
        "shown": found["shown_of_these_policies"],
        "not_shown": found["not_shown_of_these_policies"],
        "links": links,
    }


def _sentences(names: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    """Return the difference of two policies in words."""
    ours, other = names
    diff, pairs = found["difference"], found["pairs"]
    over_seeds, over_trials = (Estimate(**diff[name]) for name in ("over_seeds", "over_trials"))
    num = over_seeds.seeds
    trials = len(next(iter(found["policies"].values()))["outcomes"][0])
    poses = sum(pairs[name] for name in ("both", "only_a", "only_b", "neither"))
    if num < CLAIM_SEEDS:
        verdict = f"With fewer than {CLAIM_SEEDS} training seeds, this is an observation, no claim."
    elif over_seeds.is_apart:
        better, worse = (ours, other) if over_seeds.mean > 0 else (other, ours)
        verdict = f"Over training seeds, {better} is better than {worse}."
    else:
        verdict = f"Over training seeds, there is no clear difference between {ours} and {other}."
    seeds_text = f"{_points(over_seeds)} over {num} training seeds (t)" if num > 1 else ""
    trials_text = f"{_points(over_trials)} over the trials of these policies only"
    intervals = "; ".join(text for text in (seeds_text, trials_text) if text)
    return [
        f"{ours} minus {other}: {100 * over_seeds.mean:+.1f} points; 95 % intervals: {intervals}.",
        verdict,
        f"Of {poses} poses, both succeeded at {pairs['both']}, only {ours} at {pairs['only_a']}, "
        f"only {other} at {pairs['only_b']}, neither at {pairs['neither']}; sign test "
        f"p = {pairs['sign_p']:.3f}.",
        _needed(diff, poses, trials),
    ]


def _needed(diff: Mapping[str, Any], poses: int, trials: int) -> str:
    """Return in words how much would show a difference of the observed size."""
    if diff["over_seeds"]["mean"] == 0:
        return "No difference was observed, so no number of poses can be computed that shows it."
    pairs, seeds = diff["pairs_needed"], diff["seeds_needed"]
    poses_text = "more than 2,048 poses" if pairs is None else f"about {pairs} poses"
    seeds_text = (
        "the number of training seeds cannot be estimated"
        if seeds is None
        else f"a paired t test over training seeds needs about {seeds} seeds of {trials} poses"
    )
    return (
        f"To find a difference of this size with a power of 80 %, the sign test of two policies "
        f"needs {poses_text} (here: {poses}); {seeds_text}."
    )


def _points(estimate: Estimate) -> str:
    low, high = max(-1.0, estimate.low), min(1.0, estimate.high)
    return f"{100 * low:+.1f} to {100 * high:+.1f}"
