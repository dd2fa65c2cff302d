"""What came of the trials, as their folders say it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toto_robot.files import plain

from ..episode import Reason
from .plan import Trial, load_plan, read_trial

RESULT, OVERLAY = "result.json", "overlay.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Say what came of an attempt.

    Attributes:
        success: None for an attempt that was spoilt and is to be done again.
        note: why, or what was seen; never empty for a spoilt one.
        by: who judged: `check` or `operator`.
    """

    success: bool | None
    note: str
    by: Literal["check", "operator"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", plain(self.note))
        if self.success is None and not self.note.strip():
            raise ValueError("a trial is only done again for a reason that is written down")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What is known of an attempt, as its result.json says it.

    Attributes:
        trial: what was done.
        judgement: what came of it.
        agent: the policy's name.
        weights_hash: of what chose the actions.
        reason: how the episode ended.
        message: the same in words.
        started: ISO 8601.
        duration_s: from the first tick to the last.
        num_steps: ticks.
        interventions: steps that the safety layer changed, by its name for it.
        latency_s: median and 99th percentile of the age of what was acted on, where it is known.
        late_s: 99th percentile of how late a tick began.
        surprise: mean of the agent's, if it tells.
        episode: number in the data set; None when it is in none.
        files: names of pictures and video in the trial's folder.
    """

    trial: Trial
    judgement: Judgement
    agent: str
    weights_hash: str | None
    reason: Reason
    message: str
    started: str
    duration_s: float
    num_steps: int
    interventions: dict[str, int]
    latency_s: tuple[float, float] | None
    late_s: float | None
    surprise: float | None
    episode: int | None
    files: tuple[str, ...]


def load_results(folder: Path) -> tuple[TrialResult, ...]:
    """Read the trials that count and are done, in the plan's order.

    Raises:
        ValueError: one is damaged; naming the file.
    """
    order = {trial.key: index for index, trial in enumerate(load_plan(folder).trials)}
    found = _load(folder / "trials")
    if unknown := [result.trial.key for result in found if result.trial.key not in order]:
        raise ValueError(f"{folder}: its plan has no trial {unknown[0]!r}")
    return tuple(sorted(found, key=lambda result: order[result.trial.key]))


def load_invalid(folder: Path) -> tuple[TrialResult, ...]:
    """Read the attempts that do not count."""
    return _load(folder / "spoilt")


def _load(folder: Path) -> tuple[TrialResult, ...]:
    # a folder that is still written has a name with a dot in front
    return tuple(_read_result(path) for path in sorted(folder.glob(f"[0-9]*/{RESULT}")))


def _read_result(path: Path) -> TrialResult:
    try:
        data = json.loads(path.read_text())
        latency = data["latency_s"]
        values: dict[str, Any] = {
            **data,
            "trial": read_trial(data["trial"]),
            "judgement": Judgement(**data["judgement"]),
            "latency_s": None if latency is None else tuple(latency),
            "files": tuple(data["files"]),
        }
        return TrialResult(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
