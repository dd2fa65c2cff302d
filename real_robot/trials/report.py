"""Write trials as a page: what was tried, what came of it, and what may be concluded.

<folder>/index.html      this page; with the folders beside it, it can be sent as it is
<folder>/results.json    the same for programs
"""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import quote

from toto_robot.files import plain, write_aside, write_json

from .conclusions import Conclusions, conclude
from .images import FIRST, LAST, VIDEO
from .plan import PLAN, Plan, PolicyKey
from .poses import PoseArea
from .results import OVERLAY, TrialResult

PAGE, SUMMARY = "index.html", "results.json"

# A page has no characters such as these, and a terminal obeys them.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 78em; padding: 0 1em;
       color: #1d232b; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35em .6em;
         border-bottom: 1px solid #ddd; }
th { font-weight: 600; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { width: 11em; display: block; image-rendering: pixelated; }
video { width: 15em; display: block; }
.success { color: #1a7f37; font-weight: 600; } .failure { color: #c2352b; font-weight: 600; }
.columns { display: flex; gap: 2.5em; flex-wrap: wrap; align-items: flex-start; }
.columns > div { flex: 1 1 24em; }
.small { color: #57606a; font-size: .88em; }
.scroll { overflow-x: auto; }
"""


def write_report(
    folder: Path,
    plan: Plan,
    results: Sequence[TrialResult],
    spoilt: Sequence[TrialResult],
    *,
    title: str,
    names: Mapping[PolicyKey, str],
    area: PoseArea,
) -> Conclusions:
    """Write page and summary, and give what they conclude. Trials may still be missing.

    Args:
        folder: the plan's.
        plan: what was to be done.
        results: the trials that count.
        spoilt: the attempts that do not.
        title: of the page.
        names: of the policies.
        area: from which the poses were drawn.
    """
    conclusions = conclude(results, names)
    write_json(folder / SUMMARY, _plain(plan, results, spoilt, conclusions, names))
    parts = [
        f"<h1>{_text(title)}</h1>",
        _summary(plan, results, spoilt, conclusions, names),
        "<div class='columns'><div>",
        _conclusions(conclusions),
        "</div><div>",
        _map(plan, results, area),
        "</div></div>",
        "<h2>Trials</h2>",
        _table(results, names, folder="trials"),
    ]
    if spoilt:
        parts += [
            "<h2>Attempts that were spoilt, and done again</h2>",
            _table(spoilt, names, folder="spoilt"),
        ]
    parts.append(_settings(plan))
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    write_aside(folder / PAGE, page)
    return conclusions


def _plain(
    plan: Plan,
    results: Sequence[TrialResult],
    spoilt: Sequence[TrialResult],
    conclusions: Conclusions,
    names: Mapping[PolicyKey, str],
) -> dict[str, Any]:
    """Return the summary as plain data."""
    return {
        "trials_planned": len(plan.trials),
        "trials_done": len(results),
        "spoilt": len(spoilt),
        "policies": dict(names),
        "rates": {
            key: {**asdict(rate), "rate": rate.share, "text": str(rate)}
            for key, rate in conclusions.rates.items()
        },
        "comparison": None if conclusions.comparison is None else asdict(conclusions.comparison),
        "may_say": conclusions.may_say,
        "may_not_say": conclusions.may_not_say,
        "facts": dict(plan.facts),
    }


def _summary(
    plan: Plan,
    results: Sequence[TrialResult],
    spoilt: Sequence[TrialResult],
    conclusions: Conclusions,
    names: Mapping[PolicyKey, str],
) -> str:
    rows = []
    for key, rate in conclusions.rates.items():
        again = sum(result.trial.policy == key for result in spoilt)
        ended = [result.reason for result in results if result.trial.policy == key]
        reasons = ", ".join(f"{ended.count(name)} {name}" for name in dict.fromkeys(ended))
        cells = (
            f"<b>{_text(key)}</b> {_text(names[key])}",
            _text(rate),
            _text(reasons),
            str(again),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    missing = len(plan.trials) - len(results)
    unfinished = f" <b>{missing} of {len(plan.trials)} are still to be done.</b>" if missing else ""
    facts = "".join(f"<li>{_text(text)}</li>" for text in plan.facts.get("said", ()))
    return (
        f"<p>{len(results)} trials.{unfinished}</p><ul>{facts}</ul>"
        "<div class='scroll'><table><tr><th>policy</th><th>succeeded</th><th>ended by</th>"
        f"<th>spoilt attempts</th></tr>{''.join(rows)}</table></div>"
    )


def _conclusions(conclusions: Conclusions) -> str:
    parts = []
    comparison = conclusions.comparison
    if comparison is not None:
        parts.append(
            f"<h2>The {comparison.pairs} pairs</h2><table>"
            "<tr><th></th><th>b succeeded</th><th>b failed</th></tr>"
            f"<tr><th>a succeeded</th><td>{comparison.both}</td><td>{comparison.only_a}</td></tr>"
            f"<tr><th>a failed</th><td>{comparison.only_b}</td><td>{comparison.neither}</td></tr>"
            "</table>"
            f"<p>Sign test on pairs that were not alike (exact McNemar): p = "
            f"{comparison.sign_p:.4f}. As if not paired, Fisher's exact test: p = "
            f"{comparison.fisher_p:.4f}.</p>"
        )
    for heading, sentences in (
        ("What may be said", conclusions.may_say),
        ("What may not", conclusions.may_not_say),
    ):
        items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
        parts.append(f"<h2>{heading}</h2><ul>{items}</ul>")
    return "".join(parts)


def _map(plan: Plan, results: Sequence[TrialResult], area: PoseArea) -> str:
    """Draw the poses from above as SVG: x ahead of the arm is up, y to its left is left."""
    outcomes = {result.trial.key: result.judgement.success for result in results}
    (center_x, center_y), (half_x, half_y) = area.center_m, area.half_m
    margin_m = 0.02 + 0.05 * max(half_x, half_y)
    scale = 320 / (2 * max(half_x, half_y) + 2 * margin_m)
    width, height = (2 * scale * (half + margin_m) for half in (half_y, half_x))

    def place(x_m: float, y_m: float) -> tuple[float, float]:
        return (
            scale * (center_y + half_y + margin_m - y_m),
            scale * (center_x + half_x + margin_m - x_m),
        )

    left, top = place(center_x + half_x, center_y + half_y)
    shapes = [
        f"<rect x='{left:.1f}' y='{top:.1f}' width='{2 * scale * half_y:.1f}' "
        f"height='{2 * scale * half_x:.1f}' fill='#f6f8fa' stroke='#c8ccd1'/>"
    ]
    for trial in plan.trials:
        across, down = place(trial.pose.x_m, trial.pose.y_m)
        down += {"a": -6, "b": 6}.get(trial.policy, 0) if len(plan.policies) > 1 else 0
        success = outcomes.get(trial.key)
        colour = "#b8bec5" if success is None else ("#1a7f37" if success else "#c2352b")
        yaw = trial.pose.yaw_rad
        ahead = (across - 9 * math.sin(yaw), down - 9 * math.cos(yaw))
        said = "not done" if success is None else ("success" if success else "failure")
        mark = (
            f"<circle cx='{across:.1f}' cy='{down:.1f}' r='5' fill='{colour}'/>"
            if trial.policy == "a"
            else f"<rect x='{across - 4.5:.1f}' y='{down - 4.5:.1f}' width='9' height='9' "
            f"fill='{colour}'/>"
        )
        shapes.append(
            f"<g><title>{_text(trial.key)}: {_text(trial.pose)}, {said}</title>{mark}"
            f"<line x1='{across:.1f}' y1='{down:.1f}' x2='{ahead[0]:.1f}' y2='{ahead[1]:.1f}' "
            f"stroke='{colour}' stroke-width='2'/></g>"
        )
    keys = "circles: a, squares: b; " if len(plan.policies) > 1 else ""
    return (
        "<h2>Poses from above</h2>"
        f"<svg viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' height='{height:.0f}' "
        f"role='img' aria-label='poses of the object, by outcome'>{''.join(shapes)}</svg>"
        f"<p class='small'>{keys}green: success, red: failure, grey: not done. Up is ahead of the "
        f"arm, x {center_x - half_x:.2f} to {center_x + half_x:.2f} m; left is its left, y "
        f"{center_y - half_y:+.2f} to {center_y + half_y:+.2f} m.</p>"
    )


def _table(results: Sequence[TrialResult], names: Mapping[PolicyKey, str], *, folder: str) -> str:
    header = (
        "trial",
        "verdict",
        "pose",
        "ended by",
        "seconds",
        "age of what was acted on, ms (median, 99 %)",
        "tick late, ms (99 %)",
        "changed by safety",
        "first",
        "last",
        "video",
    )
    rows = ["<tr>" + "".join(f"<th>{name}</th>" for name in header) + "</tr>"]
    for number, result in enumerate(results, start=1):
        there = f"{folder}/{quote(plain(result.trial.key), safe='')}"
        if folder == "spoilt":
            before = [other.trial.key for other in results[:number]]
            there += f"-{before.count(result.trial.key)}"
        rows.append(_row(result, names, there))
    return f"<div class='scroll'><table>{''.join(rows)}</table></div>"


def _row(result: TrialResult, names: Mapping[PolicyKey, str], there: str) -> str:
    success, judgement = result.judgement.success, result.judgement
    word = "spoilt" if success is None else ("success" if success else "failure")
    latency, late = result.latency_s, result.late_s
    changes = ", ".join(f"{name} {count}" for name, count in result.interventions.items())

    def picture(name: str) -> str:
        if name not in result.files:
            return ""
        return f"<a href='{there}/{name}'><img src='{there}/{name}' alt='' loading='lazy'></a>"

    overlay = (
        f"<br><a class='small' href='{there}/{OVERLAY}'>placed here</a>"
        if OVERLAY in result.files
        else ""
    )
    video = (
        f"<video src='{there}/{VIDEO}' controls muted preload='none' "
        f"poster='{there}/{FIRST}'></video>"
        if VIDEO in result.files
        else ""
    )
    episode = "" if result.episode is None else f"<br>episode {_text(result.episode)}"
    trial = (
        f"{_text(result.trial.key)}<br>"
        f"<span class='small'>{_text(names.get(result.trial.policy, result.trial.policy))}<br>"
        f"{_text(result.started[:19])}{episode}</span>"
    )
    # the check's note is the message, which has a column of its own
    told = judgement.note and judgement.by == "operator"
    note = f"<br>{_text(judgement.note)}" if told else ""
    number = "<td class='number'>"
    return (
        f"<tr><td>{trial}</td><td><span class='{word}'>{word}</span>"
        f"<br><span class='small'>by {_text(judgement.by)}{note}</span></td>"
        f"<td>{_text(result.trial.pose)}{overlay}</td>"
        f"<td>{_text(result.reason)}<br><span class='small'>{_text(result.message)}</span></td>"
        f"{number}{_number(result.duration_s)}</td>"
        f"{number}{_ms(latency and latency[0])}, {_ms(latency and latency[1])}</td>"
        f"{number}{_ms(late)}</td>"
        f"<td>{_text(changes) or 'none'} <span class='small'>of {_text(result.num_steps)} steps"
        f"</span></td><td>{picture(FIRST)}</td><td>{picture(LAST)}</td><td>{video}</td></tr>"
    )


def _text(value: object) -> str:
    """Return anything as text of a page; all that is not the page's own goes through here."""
    return html.escape(_CONTROL.sub("\ufffd", plain(str(value))))


def _number(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, Real) else _text(value)


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{1000 * seconds:.0f}" if isinstance(seconds, Real) else _text(seconds)


def _settings(plan: Plan) -> str:
    text = json.dumps(dict(plan.settings), indent=1)
    return (
        f"<h2>Settings</h2><details><summary>What was settled before the first trial "
        f"(<a href='{PLAN}'>{PLAN}</a>)</summary><pre>{_text(text)}</pre></details>"
    )
