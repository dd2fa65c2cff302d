"""Run the trials of an evaluation: planned before the first, judged one by one, resumed after all.

    <folder>/plan.json                  settings, poses, and which policy is tried when
    <folder>/trials/004-b/              one trial: result.json, overlay.png, pictures, video.mp4
    <folder>/spoilt/004-b-1/            an attempt that did not count; result.json says why

A folder is written aside and renamed, so a trial is there whole or not at all, and the same call
goes on where the last one stopped. With two policies the trials come in pairs at the same pose, and
which of the two begins is drawn for each pair.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from toto_robot.files import write_aside

from ..episode import EpisodeRecord, Reason
from .poses import Pose

FORMAT = 1
PolicyKey = Literal["a", "b"]

PLAN, RESULT, OVERLAY = "plan.json", "result.json", "overlay.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One thing to do.

    Attributes:
        key: its name, and its folder's: the pose's number and the policy.
        policy: which one is tried.
        pose: where the object lies.
        pose_index: which of the plan's poses that is; both trials of a pair have the same.
    """

    key: str
    policy: PolicyKey
    pose: Pose
    pose_index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that is settled before the first trial.

    Attributes:
        settings: plain data that must not change between trials: config, weights' hashes.
        facts: plain data for the report: how far the poses are from the demonstrations'.
        trials: in the order in which they are done.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def policies(self) -> tuple[PolicyKey, ...]:
        """Give what is compared: one or two."""
        return ("a", "b") if any(trial.policy == "b" for trial in self.trials) else ("a",)


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


@runtime_checkable
class Operator(Protocol):
    """Place the object and judge: a person at a terminal, or a simulated scene."""

    def place(self, trial: Trial, number: int, total: int, overlay: Path) -> None:
        """Bring the object to the trial's pose; returns when it lies there.

        Args:
            trial: what comes next.
            number: which of the trials this is, from 1.
            total: how many there are.
            overlay: where a picture of how it should lie may be written.
        """
        ...

    def judge(self, trial: Trial, record: EpisodeRecord) -> Judgement:
        """Say whether it succeeded."""
        ...


class TrialsStoppedError(RuntimeError):
    """The trials were stopped before the last; the same command goes on with the next."""


def make_plan(
    poses: Sequence[Pose],
    *,
    paired: bool,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Plan:
    """Settle what is done when: at each pose `a`, or `a` and `b` in an order that is drawn."""
    trials: list[Trial] = []
    for index, pose in enumerate(poses):
        order: list[PolicyKey] = ["a", "b"] if paired else ["a"]
        if paired and rng.random() < 0.5:
            order.reverse()
        trials += [
            Trial(key=f"{index:03d}-{policy}", policy=policy, pose=pose, pose_index=index)
            for policy in order
        ]
    return Plan(settings=settings, facts=facts, trials=tuple(trials))


def keep_plan(folder: Path, settings: Mapping[str, Any], make: Callable[[], Plan]) -> Plan:
    """Give the folder's plan; make and write it down if there is none.

    Raises:
        ValueError: the folder's plan was made with other settings; naming each that differs.
    """
    path = folder / PLAN
    plain = json.loads(json.dumps(settings))
    if path.is_file():
        plan = load_plan(folder)
        if differences := _differences(plan.settings, plain):
            raise ValueError(
                f"{folder} holds trials with other settings; give another `out`, or make it the "
                "same again (there != here):\n  " + "\n  ".join(differences)
            )
        return plan
    plan = make()
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "format": FORMAT,
        "kind": "trials",
        "settings": plain,
        "facts": dict(plan.facts),
        "trials": [asdict(trial) for trial in plan.trials],
    }
    write_aside(path, (json.dumps(data, indent=1) + "\n").encode())
    return load_plan(folder)


def load_plan(folder: Path) -> Plan:
    """Read what was settled.

    Raises:
        ValueError: there is none, or it is damaged; naming the file.
    """
    path = folder / PLAN
    try:
        data = json.loads(path.read_text())
        if data["kind"] != "trials" or data["format"] != FORMAT:
            raise ValueError(f"kind {data['kind']!r}, format {data['format']!r}")
        return Plan(
            settings=data["settings"],
            facts=data["facts"],
            trials=tuple(_read_trial(trial) for trial in data["trials"]),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no plan of trials: {type(error).__name__}: {error}") from error


def run_trials(
    plan: Plan,
    folder: Path,
    *,
    prepare: Callable[[], object],
    run: Callable[[Pose, PolicyKey], EpisodeRecord],
    operator: Operator,
    keep: Callable[[EpisodeRecord], int | None],
    illustrate: Callable[[EpisodeRecord, bool | None, Path], tuple[str, ...]],
    max_spoilt: int,
    tell: Callable[[TrialResult], object] = lambda _: None,
) -> tuple[TrialResult, ...]:
    """Do all trials that are not done yet, and give all results in the plan's order.

    Args:
        plan: what is to be done.
        folder: where; the plan's own.
        prepare: brings the arm out of the way, before the object is placed.
        run: does an episode with the object at a pose and one of the policies.
        operator: places and judges.
        keep: takes every episode, also spoilt and interrupted ones, and gives its number.
        illustrate: writes pictures and video of an episode into a folder, and gives their names.
        max_spoilt: a trial that was spoilt more often than this stops everything.
        tell: hears of every result.

    Raises:
        TrialsStoppedError: an episode was interrupted, or a trial was spoilt too often.
        ValueError: a policy's weights are not those of the plan.
    """
    for leftover in folder.glob("*/.*.part"):
        shutil.rmtree(leftover)
    done = {result.trial.key: result for result in load_results(folder)}
    spoilt = load_spoilt(folder)
    for number, trial in enumerate(plan.trials, start=1):
        attempts = sum(result.trial.key == trial.key for result in spoilt)
        while trial.key not in done:
            # without the key: the person reads this path, and need not know which policy comes
            aside = folder / "trials" / f".{number:03d}.part"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            prepare()
            operator.place(trial, number, len(plan.trials), aside / OVERLAY)
            record = run(trial.pose, trial.policy)
            _require_weights(plan, trial, record)
            notes = {**record.notes, "trial": trial.key, "attempt": attempts + 1}
            if record.reason == "interrupted":
                keep(replace(record, notes={**notes, "spoilt": record.message}))
                shutil.rmtree(aside)
                raise TrialsStoppedError(
                    f"trial {number} of {len(plan.trials)} was interrupted and does not count; "
                    "the same command begins it again"
                )
            judgement = operator.judge(trial, record)
            if judgement.success is None:
                notes["spoilt"] = judgement.note
            judged = replace(record, success=judgement.success, notes=notes)
            files = illustrate(judged, judgement.success, aside)
            if (aside / OVERLAY).is_file():
                files = (OVERLAY, *files)
            result = _result(trial, judgement, judged, keep(judged), files)
            write_aside(aside / RESULT, (json.dumps(asdict(result), indent=1) + "\n").encode())
            if judgement.success is not None:
                aside.replace(folder / "trials" / trial.key)
                done[trial.key] = result
                tell(result)
                continue
            attempts += 1
            (folder / "spoilt").mkdir(exist_ok=True)
            aside.replace(folder / "spoilt" / f"{trial.key}-{attempts}")
            tell(result)
            if attempts > max_spoilt:
                raise TrialsStoppedError(
                    f"trial {number} of {len(plan.trials)} was spoilt {attempts} times (most: "
                    f"{max_spoilt}), at last by: {judgement.note}"
                )
    return tuple(done[trial.key] for trial in plan.trials)


def load_results(folder: Path) -> tuple[TrialResult, ...]:
    """Read the trials that count and are done, in the plan's order.

    Raises:
        ValueError: one is damaged; naming the file.
    """
    order = {trial.key: index for index, trial in enumerate(load_plan(folder).trials)}
    found = _load(folder / "trials")
    return tuple(sorted(found, key=lambda result: order[result.trial.key]))


def load_spoilt(folder: Path) -> tuple[TrialResult, ...]:
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
            "trial": _read_trial(data["trial"]),
            "judgement": Judgement(**data["judgement"]),
            "latency_s": None if latency is None else tuple(latency),
            "files": tuple(data["files"]),
        }
        return TrialResult(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _read_trial(data: Mapping[str, Any]) -> Trial:
    values: dict[str, Any] = {**data, "pose": Pose(**data["pose"])}
    return Trial(**values)


def _result(
    trial: Trial,
    judgement: Judgement,
    record: EpisodeRecord,
    episode: int | None,
    files: tuple[str, ...],
) -> TrialResult:
    steps = record.steps
    ages = [step.timings_s["age"] for step in steps if "age" in step.timings_s]
    surprises = [step.surprise for step in steps if step.surprise is not None]
    names = [{change.name for change in step.decision.interventions} for step in steps]
    return TrialResult(
        trial=trial,
        judgement=judgement,
        agent=record.agent,
        weights_hash=record.weights_hash,
        reason=record.reason,
        message=record.message,
        started=record.started,
        duration_s=steps[-1].observation.stamp_s - steps[0].observation.stamp_s if steps else 0.0,
        num_steps=len(steps),
        interventions={
            name: sum(name in there for there in names) for name in sorted(set().union(*names))
        },
        latency_s=(_percentile(ages, 50), _percentile(ages, 99)) if ages else None,
        late_s=_percentile([step.late_s for step in steps], 99) if steps else None,
        surprise=float(np.mean(surprises)) if surprises else None,
        episode=episode,
        files=files,
    )


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share))


def _require_weights(plan: Plan, trial: Trial, record: EpisodeRecord) -> None:
    planned = plan.settings.get("weights", {}).get(trial.policy)
    if record.weights_hash != planned:
        raise ValueError(
            f"policy {trial.policy} of trial {trial.key} has weights {record.weights_hash}, "
            f"planned were {planned}"
        )


def _differences(there: Any, here: Any, at: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        lines = []
        for name in sorted(there.keys() | here.keys()):
            place = f"{at}.{name}" if at else name
            lines += _differences(there.get(name), here.get(name), place)
        return lines
    return [] if there == here else [f"{at}: {there!r} != {here!r}"]
