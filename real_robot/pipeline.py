"""Run commands one after the other; finished commands are not run again.

`finished.json` in the folder of the results lists the commands that have finished, with the seconds
that they took.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toto_robot.files import write_json
from toto_robot.overrides import quoted
from toto_robot.runs import require_same_weights

FINISHED = "finished.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command.

    Attributes:
        words: its module and its arguments, which follow `python -m`.
        result: a file or folder that exists after the command has finished, in its run folder.
        minutes: its expected time on two CPU cores.
    """

    words: tuple[str, ...]
    result: Path
    minutes: float


def recording_step(demonstrations: int, seed: int, out: Path, further: Sequence[str]) -> Step:
    """Return the command that records demonstrations of the scripted expert on a twin."""
    episodes = f"episodes={demonstrations}"
    return Step(
        words=(
            "real_robot.record", "robot=twin", "agent=expert", episodes, f"seed={seed}",
            "loop.max_steps=80", f"out={out}", *further,
        ),
        result=out / "dataset",
        minutes=0.15 * demonstrations,
    )  # fmt: skip


def training_step(
    demonstrations: int, dataset: Path, seed: int, out: Path, further: Sequence[str]
) -> Step:
    """Return the command that trains a policy by behaviour cloning."""
    return Step(
        words=(
            "policies.train", "method=bc", "env=none", f"data={dataset}", f"seed={seed}",
            f"out={out}", *further,
        ),
        result=out / "policy",
        minutes=0.5 + 0.03 * demonstrations,
    )  # fmt: skip


def trials_step(
    policies: Sequence[str], dataset: Path, trials: int, seed: int, out: Path,
    further: Sequence[str],
) -> Step:  # fmt: skip
    """Return the command that runs the trials of one policy or of two at the same poses.

    Args:
        policies: settings of the command that name the policies: `policy=...`, `against=...`.
        dataset: demonstrations, whose poses are avoided.
        trials: number of poses.
        seed: seed of the poses.
        out: folder of the results.
        further: further arguments of the command.
    """
    return Step(
        words=(
            "real_robot.evaluate", "robot=twin", *policies, f"trials={trials}", f"seed={seed}",
            f"demonstrations=[{quoted(str(dataset))}]", f"out={out}", *further,
        ),
        result=out / "report" / "index.html",
        minutes=0.2 + 0.17 * trials * len(policies),
    )  # fmt: skip


def run_steps(name: str, steps: Sequence[Step], out: Path) -> None:
    """Print what will be run and for how long, and run the commands that have not finished.

    A command has finished if `finished.json` lists it, after the same commands before it. If a
    command fails, this process exits with a message.

    Args:
        name: name of the calling command, for messages.
        steps: the commands, in their order.
        out: folder of `finished.json`.
    """
    finished = _finished(out / FINISHED, steps)
    print(_plan(steps, finished), flush=True)
    for number, step in enumerate(steps, start=1):
        if number <= len(finished):
            continue
        line = " ".join(step.words)
        print(f"\n# {number} of {len(steps)}: python -m {line}", flush=True)
        start = time.monotonic()
        status = subprocess.run([sys.executable, "-m", *step.words], check=False).returncode
        if status:
            sys.exit(
                f"{name}: step {number} of {len(steps)} ended with status {status}; "
                "the same command resumes there"
            )
        seconds = round(time.monotonic() - start, 1)
        finished.append({"command": list(step.words), "seconds": seconds})
        write_json(out / FINISHED, finished)


def _finished(path: Path, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the entries of the steps that have finished: the first ones, without a gap.

    Raises:
        ValueError: a policy was trained with an encoder of this package whose weights have changed.
    """
    there = json.loads(path.read_text()) if path.is_file() else []
    number = 0
    for step, entry in zip(steps, there, strict=False):
        if entry["command"] != list(step.words) or not step.result.exists():
            break
        require_same_weights(step.result.parent)
        number += 1
    return there[:number]


def _plan(steps: Sequence[Step], finished: Sequence[dict[str, Any]]) -> str:
    """Return the list of the commands, with the expected minutes of those that are not finished.

    The times of finished commands correct the expected times.
    """
    taken = sum(entry["seconds"] for entry in finished) / 60
    expected = sum(step.minutes for step in steps[: len(finished)])
    pace = taken / expected if finished else 1.0
    minutes = [pace * step.minutes for step in steps[len(finished) :]]
    lines = [
        f"{len(steps)} commands; {len(finished)} have finished, the others take about "
        f"{sum(minutes):.0f} minutes" + (f" (measured: {pace:.1f} x as usual)" if finished else "")
    ]
    times = ["finished"] * len(finished) + [f"about {one:.1f} min" for one in minutes]
    for number, (step, time_text) in enumerate(zip(steps, times, strict=True), start=1):
        lines.append(f"  {number:2}  {time_text:14}  {step.words[0]}  {step.result}")
    return "\n".join(lines)
