"""Write the report of a study: `report.html`, the same as `report.md`, figures and CSV files."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toto_robot.analyses.seeds import Estimate
from toto_robot.files import write_aside, write_csv, write_json
from toto_robot.plots import draw_legend, drawing

from ..report import ENCODER_PHASES
from .config import CLAIM_SEEDS, Cell, StudyConfig, cell_folder, result_path
from .results import TRAINING, Comparison, Json, compare, curve_of, outcomes_of, read_results
from .statistics import band

_TEMPLATES = Path(__file__).parent
_LOG_RATIO = 20
_RATE_LABEL = "success rate on held-out seeds\n95 % (one seed: Wilson)"
_AXES = (
    ("env_steps", "environment steps of the training episodes"),
    ("labelled_episodes", "labelled episodes (demonstrations and DAgger)"),
)


def write_report(out: Path, config: StudyConfig, cells: Sequence[Cell]) -> list[Comparison]:
    """Write the report of the finished cells.

    Args:
        out: folder of the study.
        config: settings of the study.
        cells: all cells of the study, including those that are not finished.

    Returns:
        The comparisons in the tables of the report.
    """
    results = read_results(out, cells)
    compared = compare(config, results)
    if results:
        write_csv(out / "cells.csv", [_cell_row(one) for one in results])
        write_csv(out / "comparisons.csv", [_comparison_row(one, config) for one in compared])
    write_json(out / "comparisons.json", [_comparison_row(one, config) for one in compared])
    figures = {}
    for column in config.columns:
        here = [one for one in results if one["column"] == column]
        if here:
            figures[column] = out / "figures" / f"{column}.png"
            _draw(figures[column], column, here, config, compared)
    content = _content(out, config, cells, results, compared)
    images = {name: f"figures/{path.name}" for name, path in figures.items()}
    inline = {
        name: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for name, path in figures.items()
    }
    write_aside(
        out / "report.md", render(_TEMPLATES / "report.md.jinja", {**content, "figures": images})
    )
    write_aside(
        out / "report.html",
        render(_TEMPLATES / "report.html.jinja", {**content, "figures": inline}),
    )
    return compared


def render(template: Path, content: Mapping[str, Any]) -> str:
    """Return the text of a Jinja template with its values, escaped if it is HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=template.name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(content)


def _content(
    out: Path,
    config: StudyConfig,
    cells: Sequence[Cell],
    results: Sequence[Json],
    compared: Sequence[Comparison],
) -> dict[str, Any]:
    """Return the values for the templates."""
    tables = []
    for column, where in config.columns.items():
        for suite in (TRAINING, *where.suites):
            rows = [one for one in compared if (one.column, one.suite) == (column, suite)]
            if rows:
                tables.append(
                    {
                        "column": column,
                        "suite": suite,
                        "is_trained": suite == TRAINING,
                        "rows": [_table_row(one, config.baseline) for one in rows],
                    }
                )
    return {
        "baseline": config.baseline,
        "claim_seeds": CLAIM_SEEDS,
        "settings": list(config.settings),
        "rows": {name: " ".join(row.settings) for name, row in config.rows.items()},
        "columns": {name: " ".join(one.settings) for name, one in config.columns.items()},
        "done": len(results),
        "planned": len(cells),
        "missing": [cell.name for cell in cells if not result_path(out, cell).is_file()],
        "tables": tables,
        "costs": _costs(config, results),
        "videos": _videos(out, cells),
    }


def _table_row(one: Comparison, baseline: str) -> dict[str, str]:
    low, high = one.wilson
    return {
        "row": one.row,
        "seeds": str(one.rate.seeds),
        "successes": f"{one.successes}/{one.episodes}",
        "rate": f"{one.rate.mean:.1%}",
        "interval": "-" if one.rate.seeds < 2 else f"{one.rate.low:.1%} to {one.rate.high:.1%}",
        "wilson": f"{low:.1%} to {high:.1%}",
        "area": _text(one.area, signed=False),
        "against": _text(one.against, signed=True),
        "area_against": _text(one.area_against, signed=True),
        "verdict": one.verdict(baseline),
    }


def _text(estimate: Estimate | None, *, signed: bool) -> str:
    if estimate is None:
        return "-"
    sign = "+" if signed else ""
    mean, low, high = (f"{one:{sign}.3f}" for one in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} ({low} to {high})" if estimate.seeds > 1 or signed else mean


def _costs(config: StudyConfig, results: Sequence[Json]) -> list[dict[str, str]]:
    """Return the mean cost of a cell of each row."""
    costs = []
    for row in config.rows:
        here = [one for one in results if one["row"] == row]
        if not here:
            continue
        encoder = [
            sum(seconds for phase, seconds in one["phases"].items() if phase in ENCODER_PHASES)
            for one in here
        ]
        costs.append(
            {
                "row": row,
                "minutes": f"{np.mean([one['seconds'] for one in here]) / 60:.1f}",
                "frames": f"{np.mean([one['frames'] for one in here]):,.0f}",
                "encoder_s": f"{np.mean(encoder):.0f}",
                "parameters": f"{here[0]['encoder']['parameters']:,}"
                if here[0]["encoder"]
                else "-",
                "dim": str(here[0]["encoder"]["dim"]) if here[0]["encoder"] else "-",
            }
        )
    return costs


def _videos(out: Path, cells: Sequence[Cell]) -> list[dict[str, str]]:
    """Return the cells with videos, and the relative paths of a success and of a failure."""
    found = []
    for cell in cells:
        folder = cell_folder(out, cell)
        paths = {name: folder / f"{name}.mp4" for name in ("success", "failure")}
        texts = {
            name: str(path.relative_to(out)) if path.is_file() else ""
            for name, path in paths.items()
        }
        if any(texts.values()):
            found.append({"cell": cell.name, **texts})
    return found


def _cell_row(result: Json) -> dict[str, Any]:
    """Return a row of `cells.csv`; its outcomes are 0 or 1, in the order of the held-out seeds."""
    final = result["evaluation"]
    suites = sorted(result["suites"])
    return {
        "column": result["column"],
        "row": result["row"],
        "seed": result["seed"],
        "successes": final["successes"],
        "episodes": final["episodes"],
        "rate": final["rate"],
        "suites": json.dumps({name: result["suites"][name]["rate"] for name in suites}),
        "curve": json.dumps([[one["env_steps"], one["successes"], one["episodes"]]
                             for one in result["curve"]]),
        "frames": result["frames"],
        "seconds": round(result["seconds"], 1),
        "encoder": result["encoder"]["fingerprint"] if result["encoder"] else "",
        "config_sha256": result["config_sha256"],
        "outcomes": json.dumps(
            {
                suite: outcomes_of(result, suite).astype(int).tolist()
                for suite in (TRAINING, *suites)
            }
        ),
    }  # fmt: skip


def _comparison_row(one: Comparison, config: StudyConfig) -> dict[str, Any]:
    row: dict[str, Any] = {
        "column": one.column,
        "suite": one.suite,
        "row": one.row,
        "seeds": one.rate.seeds,
        "successes": one.successes,
        "episodes": one.episodes,
    }
    for name in ("rate", "area", "against", "area_against"):
        estimate: Estimate | None = getattr(one, name)
        for end in ("mean", "low", "high"):
            row[f"{name}_{end}"] = "" if estimate is None else getattr(estimate, end)
    row["seeds_needed"] = "" if one.needed is None else one.needed
    row["verdict"] = one.verdict(config.baseline)
    return row


def _draw(
    path: Path,
    column: str,
    results: Sequence[Json],
    config: StudyConfig,
    compared: Sequence[Comparison],
) -> None:
    """Plot learning curves over steps and over labelled episodes, and the final success rates."""
    with drawing(path, 3, 16.0, 4.2) as (figure, axes):
        figure.suptitle(f"{column}; bands: 95 % bootstrap over seeds, too narrow for few seeds")
        for colour, row in enumerate(config.rows):
            here = [one for one in results if one["row"] == row]
            if not here:
                continue
            for plot, (key, label) in zip(axes, _AXES, strict=False):
                drawn = [curve for one in here if any((curve := curve_of(one, key))[0])]
                if not drawn:
                    continue  # no labelled episodes: PPO; or no validation
                grid, curves = _on_grid(drawn)
                low, high = band(curves)
                plot.plot(grid, curves.mean(axis=0), color=f"C{colour % 10}",
                          marker="o" if len(grid) < 3 else None,
                          linestyle="-" if colour < 10 else "--",
                          label=f"{row} ({len(drawn)} seed{'s' * (len(drawn) > 1)})")  # fmt: skip
                plot.fill_between(grid, low, high, color=f"C{colour % 10}", alpha=0.15, linewidth=0)
                plot.set(xlabel=label, ylabel="success rate, validation", ylim=(-0.02, 1.02))
        steps = [point["env_steps"] for one in results for point in one["curve"]]
        if max(steps) > _LOG_RATIO * min(steps):  # PPO beside DAgger
            axes[0].set_xscale("log")
        finals = [one for one in compared if (one.column, one.suite) == (column, TRAINING)]
        draw = _draw_rates if all(row.x is None for row in config.rows.values()) else _draw_over_x
        draw(axes[2], finals, config)
        for plot in axes:
            plot.grid(alpha=0.3)
        draw_legend(axes[0], fontsize="small")


def _draw_rates(plot: Any, finals: Sequence[Comparison], config: StudyConfig) -> None:
    """Plot the success rate of each row on the held-out seeds, below one another."""
    order = list(config.rows)
    for place, one in enumerate(finals):
        plot.errorbar(one.rate.mean, place, fmt="o", capsize=3, xerr=_bars(one),
                      color=f"C{order.index(one.row) % 10}")  # fmt: skip
    plot.set_yticks(range(len(finals)), [one.row for one in finals])
    plot.invert_yaxis()
    plot.set(xlabel=_RATE_LABEL, xlim=(-0.02, 1.02))


def _draw_over_x(plot: Any, finals: Sequence[Comparison], config: StudyConfig) -> None:
    """Plot the success rates on the held-out seeds over `x` of the rows; the others are lines."""
    order = list(config.rows)
    x_of = {name: row.x for name, row in config.rows.items()}
    points = [(x, one) for one in finals if (x := x_of[one.row]) is not None]
    points.sort(key=lambda point: point[0])
    plot.plot([x for x, _ in points], [one.rate.mean for _, one in points], color="0.6")
    for x, one in points:
        plot.errorbar(x, one.rate.mean, fmt="o", capsize=3, yerr=_bars(one),
                      color=f"C{order.index(one.row) % 10}")  # fmt: skip
    for one in finals:
        if x_of[one.row] is None:
            plot.axhline(one.rate.mean, linestyle="--", label=one.row,
                         color=f"C{order.index(one.row) % 10}")  # fmt: skip
    draw_legend(plot, fontsize="small")
    plot.set(xlabel=config.x_label, ylabel=_RATE_LABEL)
    plot.set_ylim(-0.02, 1.02)


def _bars(one: Comparison) -> list[list[float]]:
    """Return the lengths [2 1] of the error bars: the t interval, or Wilson's with one seed."""
    low, high = (one.rate.low, one.rate.high) if one.rate.seeds > 1 else one.wilson
    return [[one.rate.mean - low], [high - one.rate.mean]]


def _on_grid(curves: Sequence[tuple[list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid [n] on the x axis, and the learning curve of each seed on it [s n]."""
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(low, max(low, high), 1 if high <= low else 60)
    return grid, np.stack([np.interp(grid, x, rates) for x, rates in curves])
