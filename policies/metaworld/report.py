"""Report the benchmark: `results.json`, `results.csv`, `results.md` and `results.png`.

The report contains all rows and tasks whose cells are in the folder, also those of earlier runs
with other encoders. Rows are compared on the tasks that all of them have.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.success_rates import sign_test, wilson_interval
from toto_robot.files import write_aside, write_csv, write_json
from toto_robot.plots import drawing

from .probes import TARGETS

__all__ = ["write_report"]

Array = NDArray[np.float64]
PIXELS = "16 x 16 pixels"  # the row against which the tables compare all others
EXPERT = "expert"
SEED = 0  # of the draws of tasks
INTERVAL = (2.5, 97.5)
_SHARED = "they share the scenes, so the Wilson intervals are too short"


def write_report(out: Path, notes: Mapping[str, Any], ours: str) -> str:
    """Write the report of all cells in `out`, and return its tables as Markdown.

    Args:
        out: the folder of the results.
        notes: what `results.json` also contains.
        ours: key of the row that is compared with each other row.
    """
    cells = [json.loads(path.read_text()) for path in sorted(out.glob("cells/*/*.json"))]
    names = _names({cell["key"]: cell["row"] for cell in cells})
    probes = [
        one | {"appearance": appearance}
        for appearance in ("same", "changed")
        for one in _probe_rows(_select(cells, "probes", appearance), names)
    ]
    cloned = _cloning_rows([cell for cell in cells if cell["part"] == "cloning"], names)
    tables = [
        _probe_table([row for row in probes if row["appearance"] == appearance], appearance)
        for appearance in dict.fromkeys(row["appearance"] for row in probes)
    ]
    against = [_difference_table(probes, appearance, ours) for appearance in ("same", "changed")]
    parts = (*tables, *against, _cloning_table(cloned), _sign_table(cloned, ours))
    text = "\n\n".join(part for part in parts if part)
    write_json(out / "results.json", {**notes, "probes": probes, "cloning": cloned})
    if rows := _flat(probes, cloned):
        write_csv(out / "results.csv", rows)
        _draw(out / "results.png", probes, cloned)
    write_aside(out / "results.md", text + "\n")
    return text


def _names(rows: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each row by its key; equal names get the end of the key, a fingerprint."""
    often = Counter(rows.values())
    return {key: f"{row} ({key[-12:]})" if often[row] > 1 else row for key, row in rows.items()}


def _select(cells: Sequence[dict[str, Any]], part: str, appearance: str) -> list[dict[str, Any]]:
    return [cell for cell in cells if (cell["part"], cell["appearance"]) == (part, appearance)]


def _probe_rows(
    cells: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return for each row and target the mean R2 over tasks, its interval, and the differences.

    Intervals are from a bootstrap over tasks, and over the episodes within each task; all rows have
    the same draws.
    """
    keys = list(dict.fromkeys(cell["key"] for cell in cells))
    by = {(cell["key"], cell["task"]): cell["results"] for cell in cells}
    tasks = sorted({task for _, task in by if all((key, task) in by for key in keys)})
    rows = []
    for target in TARGETS:
        having = [task for task in tasks if all(target in by[key, task] for key in keys)]
        if not having:
            continue
        draws = {key: _mean_draws([by[key, task][target] for task in having]) for key in keys}
        scores = {key: [by[key, task][target]["score"] for task in having] for key in keys}
        for key, values in scores.items():
            one = {
                "key": key, "row": names[key], "target": target, "tasks": len(having),
                "score": float(np.mean(values)), **_ends(draws[key]),
                "each": dict(zip(having, values, strict=True)),
            }  # fmt: skip
            one["minus"] = {
                names[other]: {
                    "score": float(np.mean(np.subtract(values, theirs))),
                    **_ends(draws[key] - draws[other]),
                    "higher": int(np.greater(values, theirs).sum()),
                }
                for other, theirs in scores.items()
                if other != key
            }
            rows.append(one)
    return rows


def _mean_draws(results: Sequence[Mapping[str, Any]]) -> Array:
    """Return bootstrap replicates of the mean over tasks: tasks and episodes are drawn."""
    count = min(len(one["draws"]) for one in results)
    draws = np.array([one["draws"][:count] for one in results])  # tasks resamples
    rng = np.random.default_rng(SEED)
    picked = rng.integers(len(results), size=(len(results), count))
    return draws[picked, np.arange(count)].mean(0)


def _cloning_rows(
    cells: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return for each row and appearance the successes over the tasks that all rows have."""
    rows = []
    for appearance in sorted({cell["appearance"] for cell in cells}, reverse=True):
        here = [cell for cell in cells if cell["appearance"] == appearance]
        students = [cell for cell in here if cell["key"] != EXPERT]
        keys = list(dict.fromkeys(cell["key"] for cell in here))
        runs = {(cell["key"], cell["task"], cell["seed"]): cell["episodes"] for cell in here}
        places = sorted({(cell["task"], cell["seed"]) for cell in students})
        shared = [
            place for place in places if all((key, *place) in runs for key in keys if key != EXPERT)
        ]
        by_scene = {key: _scene_rates(runs, key, shared) for key in keys if key != EXPERT}
        for key in keys:
            there = shared
            if key == EXPERT:  # it has no training seed, so each task counts once
                tasks = sorted({task for task, _ in shared})
                there = [(task, 0) for task in tasks if (key, task, 0) in runs]
            if not there:
                continue
            mine = [runs[key, task, seed] for task, seed in there]
            won = [episode["success"] for one in mine for episode in one]
            low, high = wilson_interval(sum(won), len(won))
            one = {
                "key": key, "row": names[key], "appearance": appearance,
                "tasks": len({task for task, _ in shared}),
                "training_seeds": len({seed for _, seed in shared}),
                "successes": sum(won), "episodes": len(won), "rate": sum(won) / len(won),
                "low": low, "high": high, "each": _each(mine, there),
            }  # fmt: skip
            if key != EXPERT:
                one["against"] = {
                    names[other]: _paired(by_scene[key], theirs)
                    for other, theirs in by_scene.items()
                    if other != key
                }
            rows.append(one)
    return rows


def _each(
    runs: Sequence[Sequence[Mapping[str, Any]]], places: Sequence[tuple[str, int]]
) -> dict[str, list[int]]:
    """Return successes and episodes of each task, over all training seeds."""
    found: dict[str, list[int]] = {}
    for (task, _), episodes in zip(places, runs, strict=True):
        counts = found.setdefault(task, [0, 0])
        counts[0] += sum(episode["success"] for episode in episodes)
        counts[1] += len(episodes)
    return found


def _scene_rates(
    runs: Mapping[tuple[str, str, int], Sequence[Mapping[str, Any]]],
    key: str,
    places: Sequence[tuple[str, int]],
) -> dict[tuple[str, int], float]:
    """Return the success rate of a row in each scene, over the training seeds.

    A scene is a task and the seed of an episode. All training seeds are evaluated in the same
    scenes, so a scene counts once.
    """
    found: dict[tuple[str, int], list[bool]] = {}
    for task, seed in places:
        for episode in runs[key, task, seed]:
            found.setdefault((task, episode["seed"]), []).append(episode["success"])
    return {scene: float(np.mean(successes)) for scene, successes in found.items()}


def _paired(
    ours: Mapping[tuple[str, int], float], theirs: Mapping[tuple[str, int], float]
) -> dict[str, float | int]:
    """Compare two rows in the same scenes: difference of the rates, interval, and p-value."""
    differences = np.array([rate - theirs[scene] for scene, rate in ours.items()])
    number = len(differences)
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(number, np.full(number, 1 / number), 2000) @ differences
    only_here, only_there = int((differences > 0).sum()), int((differences < 0).sum())
    return {
        "rate": float(differences.mean()),
        **_ends(drawn / number),
        "only_here": only_here,
        "only_there": only_there,
        "p": sign_test(only_here, only_there),
    }


def _ends(draws: Array) -> dict[str, float]:
    low, high = np.nanpercentile(draws, INTERVAL)
    return {"low": float(low), "high": float(high)}


def _probe_table(rows: Sequence[Mapping[str, Any]], appearance: str) -> str:
    targets = list(dict.fromkeys(row["target"] for row in rows))
    by = {(row["row"], row["target"]): row for row in rows}
    lines = [
        f"Linear probes, appearance `{appearance}`: mean R2 over tasks (95 % interval: bootstrap "
        "over tasks and episodes); below it, the difference to 16 x 16 pixels (same bootstrap).",
        "",
        "| encoder | " + " | ".join(targets) + " |",
        "|---" * (len(targets) + 1) + "|",
    ]
    for name in _sorted({row["row"]: row["score"] for row in rows if row["target"] == targets[0]}):
        entries = []
        for target in targets:
            one = by[name, target]
            text = f"{one['score']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
            if gain := one["minus"].get(PIXELS):
                text += f"<br>{gain['score']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
            entries.append(text)
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    counts = ", ".join(
        f"{target} {next(row['tasks'] for row in rows if row['target'] == target)}"
        for target in targets
    )
    return "\n".join([*lines, "", f"Number of tasks: {counts}."])


def _difference_table(rows: Sequence[Mapping[str, Any]], appearance: str, ours: str) -> str:
    mine = [row for row in rows if (row["appearance"], row["key"]) == (appearance, ours)]
    if not mine or not mine[0]["minus"]:
        return ""
    lines = [
        f"R2 of {mine[0]['row']} minus that of each other row, appearance `{appearance}` (95 %, "
        "same bootstrap; the number of tasks in which it is higher).",
        "",
        "| minus | " + " | ".join(row["target"] for row in mine) + " |",
        "|---" * (len(mine) + 1) + "|",
    ]
    for other in mine[0]["minus"]:
        entries = []
        for row in mine:
            one = row["minus"][other]
            ends = f"{one['low']:+.3f} to {one['high']:+.3f}"
            entries.append(f"{one['score']:+.3f} ({ends}), {one['higher']} of {row['tasks']}")
        lines.append(f"| {other} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _sign_table(rows: Sequence[Mapping[str, Any]], ours: str) -> str:
    mine = [row for row in rows if row["key"] == ours and row["against"]]
    if not mine:
        return ""
    lines = [
        f"Success rate of {mine[0]['row']} minus that of each other row, in the same scenes "
        "(bootstrap over scenes; p-value of the sign test).",
        "",
        "| minus | " + " | ".join(f"appearance `{row['appearance']}`" for row in mine) + " |",
        "|---" * (len(mine) + 1) + "|",
    ]
    others = dict.fromkeys(other for row in mine for other in row["against"])
    for other in others:
        pairs = [row["against"].get(other) for row in mine]
        lines.append(
            f"| {other} | " + " | ".join(_in_words(one) if one else "-" for one in pairs) + " |"
        )
    return "\n".join(lines)


def _in_words(pair: Mapping[str, float]) -> str:
    ends = f"{pair['low']:+.0%} to {pair['high']:+.0%}"
    return f"{pair['rate']:+.1%} ({ends}), p {pair['p']:.2g}"


def _cloning_table(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for appearance in dict.fromkeys(row["appearance"] for row in rows):
        here = [row for row in rows if row["appearance"] == appearance]
        tasks = list(here[0]["each"])
        lines = [
            f"Behaviour cloning, appearance `{appearance}`: successes on seeds without "
            "demonstrations (Wilson 95 %), and the difference to 16 x 16 pixels in the same "
            "scenes (bootstrap over scenes; p-value of the sign test).",
            "",
            f"| encoder | all | against pixels | {' | '.join(tasks)} |",
            "|---" * (len(tasks) + 3) + "|",
        ]
        for name in _sorted({row["row"]: row["rate"] for row in here}):
            one = next(row for row in here if row["row"] == name)
            rate = (
                f"{one['successes']}/{one['episodes']} = {one['rate']:.1%} "
                f"({one['low']:.0%} to {one['high']:.0%})"
            )
            pair = one.get("against", {}).get(PIXELS)
            against = _in_words(pair) if pair else "-"
            each = ["/".join(map(str, one["each"].get(task, ("-",)))) for task in tasks]
            lines.append(f"| {name} | {rate} | {against} | {' | '.join(each)} |")
        seeds = here[-1]["training_seeds"]
        lines += ["", "1 training seed." if seeds == 1 else f"{seeds} training seeds; {_SHARED}."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _sorted(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda name: -scores[name])


def _flat(
    probes: Sequence[Mapping[str, Any]], cloned: Sequence[Mapping[str, Any]]
) -> list[dict[str, object]]:
    """Return one line of the CSV file per row, measure and task, and per mean over tasks."""
    lines = []
    for row in probes:
        head = {"row": row["row"], "measure": _measure(row)}
        for task, value in row["each"].items():
            lines.append({**head, "task": task, "value": value, "low": math.nan, "high": math.nan})
        mean = {"value": row["score"], "low": row["low"], "high": row["high"]}
        lines.append({**head, "task": f"mean of {row['tasks']}", **mean})
    for row in cloned:
        head = {"row": row["row"], "measure": f"success, {row['appearance']}"}
        for task, (won, total) in row["each"].items():
            low, high = wilson_interval(won, total)
            lines.append({**head, "task": task, "value": won / total, "low": low, "high": high})
        mean = {"value": row["rate"], "low": row["low"], "high": row["high"]}
        lines.append({**head, "task": f"mean of {row['tasks']}", **mean})
    return lines


def _measure(row: Mapping[str, Any]) -> str:
    return f"R2 {row['target']}{', changed' if row['appearance'] == 'changed' else ''}"


def _draw(
    path: Path, probes: Sequence[Mapping[str, Any]], cloned: Sequence[Mapping[str, Any]]
) -> None:
    """Draw each measure of all rows with its interval."""
    plots: dict[str, list[tuple[str, float, float, float]]] = {}
    for row in probes:
        bar = (row["row"], row["score"], row["low"], row["high"])
        plots.setdefault(_measure(row), []).append(bar)
    for appearance in dict.fromkeys(row["appearance"] for row in cloned):
        plots[f"success, {appearance}"] = [
            (row["row"], row["rate"], row["low"], row["high"])
            for row in cloned
            if row["appearance"] == appearance
        ]
    names = list(dict.fromkeys(name for bars in plots.values() for name, *_ in bars))[::-1]
    height = 1.2 + 0.35 * len(names)
    with drawing(path, len(plots), 2.5 + 2.2 * len(plots), height) as (_, axes):
        for number, (axis, (title, bars)) in enumerate(zip(axes, plots.items(), strict=True)):
            for name, value, low, high in bars:
                place = names.index(name)
                axis.plot([low, high], [place, place], color="tab:blue")
                axis.plot([value], [place], "o", color="tab:blue")
            axis.set_title(title, fontsize=9)
            axis.set_ylim(-0.5, len(names) - 0.5)
            axis.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
            axis.grid(axis="x", alpha=0.4)
