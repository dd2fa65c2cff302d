"""Write the report of an evaluation: a web page with results, conclusions and videos.

<folder>/index.html      the page; it links to images and videos in the folders beside it
<folder>/results.json    the same results for programs
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

from envs.success_rates import wilson_interval
from toto_robot.files import plain, write_aside, write_json

from .conclusions import Conclusions, conclude
from .images import FIRST, LAST, VIDEO
from .plan import PLAN, Plan, PolicyKey
from .poses import PoseArea
from .results import INVALID, OVERLAY, TrialResult

PAGE, SUMMARY = "index.html", "results.json"

# Control characters are invalid in a page, and a terminal would execute them.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

# No fixed width is above 400 px, so that a phone shows the page without scrolling sideways.
_STYLE = """
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5em auto; max-width: 84em; padding: 0 1em;
       color: #1d232b; background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 1.5em; line-height: 1.25; } h2 { font-size: 1.2em; margin-top: 2em; }
h3 { font-size: 1.05em; } h4 { font-size: 1em; margin: 0; } p { margin: .3em 0; }
ul { padding-left: 1.2em; }
table { border-collapse: collapse; } th { font-weight: 600; }
th, td { text-align: left; padding: .3em .6em; border-bottom: 1px solid #ddd; }
img, video { display: block; width: 100%; aspect-ratio: auto 2; background: #eef0f2;
             image-rendering: pixelated; }
svg { max-width: 100%; height: auto; } pre { white-space: pre-wrap; }
figure { margin: 0; } figcaption, .small { color: #57606a; font-size: .88em; }
.success { color: #1a7f37; } .failure { color: #c2352b; } .invalid { color: #57606a; }
.columns { display: grid; gap: 0 2.5em; align-items: start; }
.columns, .rates { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24em), 1fr)); }
.rates { display: grid; gap: 1em; }
.rates > div { border: 1px solid #d0d7de; border-radius: 6px; padding: .8em 1em; }
.share { font-size: 2em; font-weight: 600; line-height: 1.2; }
.rates svg { display: block; width: 100%; height: .7em; margin: .5em 0; }
.trial { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22em), 1fr));
         gap: .5em 1.2em; padding: .9em 0; border-top: 1px solid #d0d7de;
         content-visibility: auto; contain-intrinsic-size: auto 15em; }
.pose { white-space: nowrap; font-variant-numeric: tabular-nums; }
"""


def write_report(
    folder: Path,
    plan: Plan,
    results: Sequence[TrialResult],
    invalid: Sequence[TrialResult],
    *,
    title: str,
    names: Mapping[PolicyKey, str],
    area: PoseArea,
) -> Conclusions:
    """Write the page and the file `results.json`, and return the conclusions.

    The report may be written before all trials are done; it then names the missing trials.

    Args:
        folder: the folder of the plan.
        plan: the plan of the evaluation.
        results: results of the valid trials.
        invalid: results of the invalid attempts.
        title: title of the page.
        names: names of the policies, by the policy's key (`a` or `b`).
        area: the area of the poses, for the map.
    """
    conclusions = conclude(results, names)
    write_json(folder / SUMMARY, _plain(plan, results, invalid, conclusions, names))
    parts = [
        f"<h1>{_text(title)}</h1>",
        _summary(plan, results, invalid, conclusions, names),
        "<div class='columns'><div>",
        _conclusions(conclusions),
        "</div><div>",
        _map(plan, results, area),
        "</div></div>",
        *_trials(results, invalid, names),
        _settings(plan),
    ]
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    write_aside(folder / PAGE, page)
    return conclusions


def _plain(
    plan: Plan,
    results: Sequence[TrialResult],
    invalid: Sequence[TrialResult],
    conclusions: Conclusions,
    names: Mapping[PolicyKey, str],
) -> dict[str, Any]:
    """Return the content of `results.json` as data that JSON can represent."""
    return {
        "trials_planned": len(plan.trials),
        "trials_done": len(results),
        INVALID: len(invalid),
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
    invalid: Sequence[TrialResult],
    conclusions: Conclusions,
    names: Mapping[PolicyKey, str],
) -> str:
    """Return the HTML of the summary: success rates with intervals, and missing trials."""
    boxes = []
    for key, rate in conclusions.rates.items():
        low, high = (100 * bound for bound in wilson_interval(rate.successes, rate.trials))
        ended = [result.reason for result in results if result.trial.policy == key]
        reasons = ", ".join(f"{_text(name)} {ended.count(name)}" for name in dict.fromkeys(ended))
        again = sum(result.trial.policy == key for result in invalid)
        letter = f" (policy {_text(key)})" if len(names) > 1 else ""
        boxes.append(
            f"<div><h4>{_text(names[key])}{letter}</h4>"
            f"<p class='share'>{f'{rate.share:.1%}' if rate.trials else 'no trials yet'}</p>"
            f"<p>{rate.successes} of {rate.trials} trials succeeded; 95% confidence interval "
            f"{low:.1f}% to {high:.1f}% (Wilson).</p>"
            "<svg viewBox='0 0 100 4' preserveAspectRatio='none' role='img' aria-label='success "
            "rate and its confidence interval, from 0% to 100%'>"
            "<rect x='0' y='1' width='100' height='2' fill='#e4e7ea'/>"
            f"<rect x='{low:.1f}' y='1' width='{high - low:.1f}' height='2' fill='#8fb8de'/>"
            f"<line x1='{100 * rate.share:.1f}' y1='0' x2='{100 * rate.share:.1f}' y2='4' "
            "stroke='#1d232b' stroke-width='4' vector-effect='non-scaling-stroke'/></svg>"
            f"<p class='small'>Episodes ended by: {reasons or 'none yet'}. "
            f"Invalid attempts, repeated: {again}.</p></div>"
        )
    missing = len(plan.trials) - len(results)
    unfinished = (
        f"<p><b>Trials: {missing} of {len(plan.trials)} are still to be done.</b></p>"
        if missing
        else ""
    )
    facts = "".join(f"<li>{_text(text)}</li>" for text in plan.facts.get("said", ()))
    return f"<div class='rates'>{''.join(boxes)}</div>{unfinished}<ul>{facts}</ul>"


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
            f"<p>Sign test on the pairs with different outcomes (exact McNemar): p = "
            f"{comparison.sign_p:.4f}. Fisher's exact test, which ignores the pairing: p = "
            f"{comparison.fisher_p:.4f}.</p>"
        )
    for heading, sentences in (
        ("What these trials show", conclusions.may_say),
        ("What they do not show", conclusions.may_not_say),
    ):
        items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
        parts.append(f"<h2>{heading}</h2><ul>{items}</ul>")
    return "".join(parts)


def _map(plan: Plan, results: Sequence[TrialResult], area: PoseArea) -> str:
    """Return an SVG map of the poses, seen from above: x of the arm points up, y to the left."""
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
        outcome = "not done" if success is None else ("success" if success else "failure")
        mark = (
            f"<circle cx='{across:.1f}' cy='{down:.1f}' r='5' fill='{colour}'/>"
            if trial.policy == "a"
            else f"<rect x='{across - 4.5:.1f}' y='{down - 4.5:.1f}' width='9' height='9' "
            f"fill='{colour}'/>"
        )
        shapes.append(
            f"<g><title>{_text(trial.key)}: {_text(trial.pose)}, {outcome}</title>{mark}"
            f"<line x1='{across:.1f}' y1='{down:.1f}' x2='{ahead[0]:.1f}' y2='{ahead[1]:.1f}' "
            f"stroke='{colour}' stroke-width='2'/></g>"
        )
    keys = "circles: a, squares: b; " if len(plan.policies) > 1 else ""
    return (
        "<h2>Poses from above</h2>"
        f"<svg viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' "
        f"role='img' aria-label='poses of the object, by outcome'>{''.join(shapes)}</svg>"
        f"<p class='small'>{keys}green: success, red: failure, grey: not done. Up is ahead of the "
        f"arm, x {center_x - half_x:.2f} to {center_x + half_x:.2f} m; left is its left, y "
        f"{center_y - half_y:+.2f} to {center_y + half_y:+.2f} m.</p>"
    )


def _trials(
    results: Sequence[TrialResult],
    invalid: Sequence[TrialResult],
    names: Mapping[PolicyKey, str],
) -> list[str]:
    """Return the HTML of each trial: failures first, then successes, then invalid attempts."""
    entries: dict[bool | None, list[str]] = {False: [], True: [], None: []}
    for result in results:
        entry = _entry(result, names, f"trials/{_quoted(result)}")
        entries[result.judgement.success].append(entry)
    for number, result in enumerate(invalid):
        attempt = 1 + [other.trial.key for other in invalid[:number]].count(result.trial.key)
        entries[None].append(_entry(result, names, f"{INVALID}/{_quoted(result)}-{attempt}"))
    parts = [
        "<h2>Trials</h2><p class='small'>Latency: age of the observation from which an action was "
        "computed, when the action is sent. "
        "Tick delay: how late a control step begins. p99: 99th percentile.</p>"
    ]
    for success, heading in ((False, "Failures"), (True, "Successes"), (None, "Invalid attempts")):
        if entries[success]:
            again = ", repeated and not counted" if success is None else ""
            parts += [f"<h3>{heading} ({len(entries[success])}){again}</h3>", *entries[success]]
    return parts


def _quoted(result: TrialResult) -> str:
    return quote(plain(result.trial.key), safe="")


def _entry(result: TrialResult, names: Mapping[PolicyKey, str], place: str) -> str:
    success, judgement, latency = result.judgement.success, result.judgement, result.latency_s
    word = "invalid" if success is None else ("success" if success else "failure")
    changes = ", ".join(f"{name} {count}" for name, count in result.interventions.items())
    videos, links = "", ""
    if VIDEO in result.files:
        videos = (
            f"<figure><video src='{place}/{VIDEO}' controls muted playsinline preload='none' "
            f"poster='{place}/{FIRST}'></video><figcaption>Video, all cameras</figcaption></figure>"
        )
    if LAST in result.files:
        videos += (
            f"<figure><a href='{place}/{LAST}'><img src='{place}/{LAST}' alt='last frame' "
            "loading='lazy'></a><figcaption>Last frame</figcaption></figure>"
        )
    for file, words in ((FIRST, "first frame"), (OVERLAY, "planned pose in the image")):
        if file in result.files:
            links += f" <a href='{place}/{file}'>{words}</a>"
    key = result.trial.policy
    name = f" {_text(names.get(key, key))}" if len(names) > 1 else ""
    # a note of the success check would only repeat the message, which is shown above
    has_note = judgement.note and judgement.by == "operator"
    note = f"<p>Operator's note: {_text(judgement.note)}</p>" if has_note else ""
    episode = "" if result.episode is None else f"; episode {_text(result.episode)} of the data set"
    return (
        f"<article class='trial'><div><h4><span class='{word}'>{word}</span> "
        f"{_text(result.trial.key)}{name}</h4><p class='pose'>{_text(result.trial.pose)}</p>"
        f"<p>Ended by {_text(result.reason)} after {_number(result.duration_s)} s: "
        f"{_text(result.message)}</p>{note}"
        f"<p>Changed by the safety layer: {_text(changes) or 'none'} of {_text(result.num_steps)} "
        f"steps</p><p>Latency {_ms(latency and latency[0])} ms (median), "
        f"{_ms(latency and latency[1])} ms (p99); tick delay {_ms(result.late_s)} ms (p99)</p>"
        f"<p class='small'>Result by {_text(judgement.by)}; {_text(result.started[:19])}{episode}."
        f"{links}</p></div>{videos}</article>"
    )


def _text(value: object) -> str:
    """Return a value as text in which HTML characters are escaped; use it for all variable text."""
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
        f"<h2>Settings</h2><details><summary>Settings, fixed before the first trial "
        f"(<a href='{PLAN}'>{PLAN}</a>)</summary><pre>{_text(text)}</pre></details>"
    )
