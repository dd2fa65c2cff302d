"""Write the verdict of a claim: as JSON, as a plot, as text, and as a row beside the paper's."""

import math
from pathlib import Path

from ..files import write_json
from ..plots import drawing
from .verdict import Finding

__all__ = ["write_finding"]


def write_finding(out: Path, finding: Finding, statement: str, notes: dict[str, object]) -> str:
    """Write `results.json` and `verdict.png`, and return the report as text.

    Args:
        out: the folder.
        finding: what was measured.
        statement: the claim in words.
        notes: data, settings and seeds of the runs, as values that JSON can store.
    """
    measured = [
        {"text": one.text, "unit": one.unit, "verdict": one.verdict, "value": one.bound.value}
        | {"low": one.bound.low, "high": one.bound.high, "by_seed": list(one.bound.by_seed)}
        for one in finding.statements
    ]
    result = {"claim": statement, "verdict": finding.verdict, "rule": finding.rule}
    result |= {"measure": finding.measure, "unit": finding.unit}
    write_json(
        out / "results.json", {**result, "statements": measured, "rows": finding.rows, **notes}
    )
    has_values = any(math.isfinite(one.bound.value) for one in finding.statements)
    if has_values:
        _draw(out / "verdict.png", finding, statement)
    head = f"{finding.measure}{', ' + finding.unit if finding.unit else ''}"
    lines = [f"| | {head} (95 %) | layer | paper (other data) |", "|---|---|---|---|"]
    for row in finding.rows:
        shown = _interval(row["value"], row["low"], row["high"], finding.unit)
        lines.append(f"| {row['name']} | {shown} | {row.get('layer', '')} | {row['paper']} |")
    lines = [*lines, ""] if finding.rows else []
    for one in finding.statements:
        shown = _interval(one.bound.value, one.bound.low, one.bound.high, one.unit)
        seeds = ", ".join(_number(value, one.unit) for value in one.bound.by_seed)
        seeds = f"; by seed {seeds}" * (len(one.bound.by_seed) > 1)
        lines.append(f"- {one.text}: {shown}{seeds}: **{one.verdict}**")
    lines += ["", f"rule: {finding.rule}", f"claim: {statement}", f"verdict: {finding.verdict}"]
    plot = ", verdict.png" * has_values
    return "\n".join([*lines, f"results: {out / 'results.json'}{plot}"])


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}" if unit else f"{value:.4f}"


def _interval(value: float, low: float, high: float, unit: str) -> str:
    if not math.isfinite(value):
        return "not measured"
    text = _number(value, unit)
    known = math.isfinite(low) and (low, high) != (value, value)
    return f"{text} ({_number(low, unit)} to {_number(high, unit)})" if known else text


def _draw(path: Path, finding: Finding, statement: str) -> None:
    """Draw the rows and the statements as points with intervals."""
    rows = [(row["name"], row["value"], row["low"], row["high"], ()) for row in finding.rows]
    parts = [
        (
            f"{one.text}\n{one.verdict}",
            one.bound.value,
            one.bound.low,
            one.bound.high,
            one.bound.by_seed,
        )
        for one in finding.statements
    ]
    height = 1.2 + 0.55 * max(len(rows), len(parts))
    with drawing(path, columns=2, width=13.0, height=height) as (figure, panels):
        titles = (finding.measure, "statements, and the value of each seed")
        for axes, points, title in zip(panels, (rows, parts), titles, strict=True):
            for place, (_, value, low, high, by_seed) in enumerate(points):
                ends = [[value - low], [high - value]] if math.isfinite(low) else None
                axes.errorbar(value, place, xerr=ends, fmt="o", capsize=3, color="C0")
                axes.plot(by_seed, [place] * len(by_seed), ".", color="C1")
            axes.set(yticks=range(len(points)), ylim=(len(points) - 0.5, -0.5), title=title)
            axes.set_yticklabels([point[0] for point in points], fontsize="small")
            axes.grid(alpha=0.3)
        panels[1].axvline(0, color="black", linewidth=0.8)
        figure.suptitle(statement, fontsize="small")
