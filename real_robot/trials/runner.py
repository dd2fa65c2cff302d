"""Run the trials of a plan one after the other; an interrupted evaluation can be resumed.

    <folder>/plan.json                  settings, poses, and the order of the policies
    <folder>/trials/004-b/              one trial: result.json, overlay.png, images, video.mp4
    <folder>/spoilt/004-b-1/            an invalid attempt; result.json contains the reason

A folder is written under a temporary name and renamed at the end. A folder with its final name is
therefore complete. If `run_trials` is called again, it continues after the last complete trial.
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
from ..operator import NoPersonError
from .plan import Plan, PolicyKey, Trial
from .poses import Pose
from .results import INVALID, OVERLAY, RESULT, Judgement, TrialResult, load_invalid, load_results

_UNANSWERED = "the question about the result of the trial was not answered"


@runtime_checkable
class Operator(Protocol):
    """Operator of an evaluation, which places the object and reports the result of each trial.

    It is a person at a terminal, or a simulated scene.
    """

    def place(self, trial: Trial, number: int, total: int, overlay: Path) -> None:
        """Place the object at the pose of a trial; return when the object is there.

        Args:
            trial: the next trial.
            number: number of the trial, from 1.
            total: number of trials.
            overlay: path for an image that shows the planned pose.
        """
        ...

    def assess(self, trial: Trial, record: EpisodeRecord) -> Judgement:
        """Return the result of a trial, whose episode has ended."""
        ...


class TrialsStoppedError(RuntimeError):
    """Error: the evaluation stopped before the last trial; the same command continues it."""


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
    on_result: Callable[[TrialResult], object] = lambda _: None,
) -> tuple[TrialResult, ...]:
    """Run all trials that are not done yet, and return all results in the order of the plan.

    Args:
        plan: the plan.
        folder: the folder of the plan.
        prepare: function that moves the arm to its start pose before the object is placed.
        run: function that runs an episode at a pose with one of the policies.
        operator: object that places the object and reports the result.
        keep: function that records an episode, including invalid and interrupted episodes, and
            returns its index in the data set; None if it has no time steps.
        illustrate: function that writes images and a video of an episode into a folder, and returns
            their names.
        max_invalid: greatest number of invalid attempts of one trial.
        on_result: function that is called with each result.

    Raises:
        TrialsStoppedError: an episode was interrupted, or a trial had too many invalid attempts.
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
                    f"{which} was interrupted and does not count; the same command repeats it"
                )
            unanswered = None
            try:
                judgement = _judgement_of(trial, record, operator)
            except (KeyboardInterrupt, NoPersonError) as error:
                unanswered = error  # a person has seen the episode, so it stays in the report
                judgement = Judgement(success=None, note=_UNANSWERED, by="operator")
            result = _write(trial, judgement, record, aside, keep, illustrate)
            aside.replace(_place(folder, result, attempt))
            on_result(result)
            if unanswered is not None:
                raise unanswered
            if result.judgement.success is not None:
                done[trial.key] = result
            elif attempt > max_invalid:
                raise TrialsStoppedError(
                    f"{which} had {attempt} invalid attempts (max_invalid={max_invalid}); "
                    f"the last reason: {result.judgement.note}"
                )
    return tuple(done[trial.key] for trial in plan.trials)


def _clear(folder: Path) -> None:
    """Remove the incomplete folders that an interrupted call has left."""
    for leftover in folder.glob("*/.*.part"):
        shutil.rmtree(leftover)


def _emptied(aside: Path) -> Path:
    """Create an empty folder for the next trial, and return it; delete an existing folder first.

    The path does not contain the policy's name, because the operator sees the path.
    """
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def _place(folder: Path, result: TrialResult, attempt: int) -> Path:
    """Return the final folder of an attempt, which depends on whether the attempt is valid."""
    key = result.trial.key
    if result.judgement.success is not None:
        return folder / "trials" / key
    (folder / INVALID).mkdir(exist_ok=True)
    return folder / INVALID / f"{key}-{attempt}"


def _judgement_of(trial: Trial, record: EpisodeRecord, operator: Operator) -> Judgement:
    """Return the operator's result of an episode, unless the connection to the policy failed."""
    if (fault := record.notes.get(TRANSPORT_FAULT)) is None:
        return operator.assess(trial, record)
    return Judgement(success=None, note=f"connection to the policy: {fault}", by="check")


def _write(
    trial: Trial,
    judgement: Judgement,
    record: EpisodeRecord,
    aside: Path,
    keep: Callable[[EpisodeRecord], int | None],
    illustrate: Callable[[EpisodeRecord, bool | None, Path], tuple[str, ...]],
) -> TrialResult:
    """Record the episode, and write its result."""
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
    return replace(record, notes={**record.notes, INVALID: why})


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
            name: sum(name in step_names for step_names in names)
            for name in sorted(set().union(*names))
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
            f"policy {trial.policy} of trial {trial.key} has the weights {record.weights_hash}, "
            f"but the plan has {planned}"
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
