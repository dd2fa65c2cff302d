"""Run the trials of an evaluation: planned before the first, judged one by one, resumed after all.

    <folder>/plan.json                  settings, poses, and which policy is tried when
    <folder>/trials/004-b/              one trial: result.json, overlay.png, pictures, video.mp4
    <folder>/spoilt/004-b-1/            an attempt that did not count; result.json says why

A folder is written aside and renamed, so a trial is there whole or not at all, and the same call
goes on where the last one stopped. With two policies the trials come in pairs at the same pose, and
which of the two begins is drawn for each pair.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from toto_robot.files import write_json
from toto_robot.moved import moved_names

from ..episode import TRANSPORT_FAULT, EpisodeRecord
from .plan import Plan, PolicyKey, Trial
from .poses import Pose
from .results import OVERLAY, RESULT, Judgement, TrialResult, load_invalid, load_results


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
        """Return whether it succeeded."""
        ...


class TrialsStoppedError(RuntimeError):
    """The trials were stopped before the last; the same command goes on with the next."""


def run_trials(
    plan: Plan,
    folder: Path,
    *,
    prepare: Callable[[], object],
    run: Callable[[Pose, PolicyKey], EpisodeRecord],
    operator: Operator,
    keep: Callable[[EpisodeRecord], int | None],
    illustrate: Callable[[EpisodeRecord, bool | None, Path], tuple[str, ...]],
    max_invalid: int,
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
        max_invalid: a trial that was spoilt more often than this stops everything.
        tell: hears of every result.

    Raises:
        TrialsStoppedError: an episode was interrupted, or a trial was spoilt too often.
        ValueError: a policy's weights are not those of the plan.
    """
    _clear(folder)
    done = {result.trial.key: result for result in load_results(folder)}
    invalid = load_invalid(folder)
    for number, trial in enumerate(plan.trials, start=1):
        which = f"trial {number} of {len(plan.trials)}"
        attempt = sum(result.trial.key == trial.key for result in invalid)
        while trial.key not in done:
            attempt += 1
            aside = _emptied(folder / "trials" / f".{number:03d}.part")
            prepare()
            operator.place(trial, number, len(plan.trials), aside / OVERLAY)
            record = run(trial.pose, trial.policy)
            _require_weights(plan, trial, record)
            record = replace(record, notes={**record.notes, "trial": trial.key, "attempt": attempt})
            if record.reason == "interrupted":
                keep(_invalid(record, record.message))
                shutil.rmtree(aside)
                raise TrialsStoppedError(
                    f"{which} was interrupted and does not count; the same command begins it again"
                )
            result = _judge(trial, record, aside, operator, keep, illustrate)
            aside.replace(_place(folder, result, attempt))
            tell(result)
            if result.judgement.success is not None:
                done[trial.key] = result
            elif attempt > max_invalid:
                raise TrialsStoppedError(
                    f"{which} was spoilt {attempt} times (most: {max_invalid}), at last by: "
                    f"{result.judgement.note}"
                )
    return tuple(done[trial.key] for trial in plan.trials)


def _clear(folder: Path) -> None:
    """Remove what an earlier call left aside."""
    for leftover in folder.glob("*/.*.part"):
        shutil.rmtree(leftover)


def _emptied(aside: Path) -> Path:
    """Make an empty folder; a person reads its path, which does not tell the policy."""
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def _place(folder: Path, result: TrialResult, attempt: int) -> Path:
    """Return where an attempt is kept: with those that count, or with the spoilt ones."""
    key = result.trial.key
    if result.judgement.success is not None:
        return folder / "trials" / key
    (folder / "spoilt").mkdir(exist_ok=True)
    return folder / "spoilt" / f"{key}-{attempt}"


def _judge(
    trial: Trial,
    record: EpisodeRecord,
    aside: Path,
    operator: Operator,
    keep: Callable[[EpisodeRecord], int | None],
    illustrate: Callable[[EpisodeRecord, bool | None, Path], tuple[str, ...]],
) -> TrialResult:
    """Have an episode judged, keep it, and write what came of it into a folder."""
    fault = record.notes.get(TRANSPORT_FAULT)
    if fault is None:
        judgement = operator.judge(trial, record)
    else:  # it says nothing of the policy, whatever became of the object
        judgement = Judgement(success=None, note=f"the way to the policy: {fault}", by="check")
    record = replace(record, success=judgement.success)
    if judgement.success is None:
        record = _invalid(record, judgement.note)
    files = illustrate(record, judgement.success, aside)
    if (aside / OVERLAY).is_file():
        files = (OVERLAY, *files)
    result = _result(trial, judgement, record, keep(record), files)
    write_json(aside / RESULT, asdict(result))
    return result


def _invalid(record: EpisodeRecord, why: str) -> EpisodeRecord:
    return replace(record, notes={**record.notes, "spoilt": why})


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


__getattr__ = moved_names(
    __name__,
    {
        "PLAN": "real_robot.trials.plan:PLAN",
        "keep_plan": "real_robot.trials.plan:keep_plan",
        "load_plan": "real_robot.trials.plan:load_plan",
        "make_plan": "real_robot.trials.plan:make_plan",
    },
)
