"""The results of trials, and how to load them from their folders.

An attempt is one episode of a trial. A trial is attempted again if its attempt is invalid.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toto_robot.files import plain

from ..episode import Reason
from .plan import Trial, load_plan, read_trial

RESULT, OVERLAY = "result.json", "overlay.png"
INVALID = "spoilt"  # the folder of invalid attempts, and their key in notes and summaries


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Result of an attempt, as the operator reports it.

    Attributes:
        success: True for a success, False for a failure, None for an invalid attempt.
        note: reason why the attempt is invalid, or a remark; never empty for an invalid attempt.
        by: source of the result: `check` (the simulated scene) or `operator` (a person).
    """

    success: bool | None
    note: str
    by: Literal["check", "operator"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", plain(self.note))
        if self.success is None and not self.note.strip():
            raise ValueError("an invalid attempt needs a reason: `note` is empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """All data of an attempt, which its file `result.json` contains.

    Attributes:
        trial: the trial of the plan.
        judgement: the result: success, failure or invalid.
        agent: name of the policy.
        weights_hash: hash of the policy's weights.
        reason: why the episode ended, one of `Reason`.
        message: explanation of the end, as text.
        started: start time, UTC, ISO 8601.
        duration_s: time from the first time step to the last, s.
        num_steps: number of time steps.
        interventions: number of time steps at which the safety layer changed the target, by the
            name of the intervention.
        latency_s: median and 99th percentile of the age of the frames from which an action was
            computed, when the action is sent, s; None if no action was sent.
        late_s: 99th percentile of the time from the planned to the real beginning of a time step,
            s; None without time steps.
        surprise: mean surprisal of the frames, nats per token; None if the agent does not compute
            it.
        episode: index of the episode in the data set; None if it was not recorded.
        files: names of the images and the video in the folder of the attempt.
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
    """Return the results of the valid trials, in the order of the plan.

    Raises:
        ValueError: the file of a result is damaged, or contains a trial that is not in the plan.
    """
    order = {trial.key: index for index, trial in enumerate(load_plan(folder).trials)}
    found = _load(folder / "trials")
    if unknown := [result.trial.key for result in found if result.trial.key not in order]:
        raise ValueError(f"{folder}: its plan has no trial {unknown[0]!r}")
    return tuple(sorted(found, key=lambda result: order[result.trial.key]))


def load_invalid(folder: Path) -> tuple[TrialResult, ...]:
    """Return the results of the invalid attempts."""
    return _load(folder / INVALID)


def _load(folder: Path) -> tuple[TrialResult, ...]:
    # ignore incomplete folders, whose names begin with a dot
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
