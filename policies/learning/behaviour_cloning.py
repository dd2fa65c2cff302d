"""Behaviour cloning on an arm's data, where no environment is: held-out episodes judge it.

`policies.train` with `env=none` comes here. In `out`:

    config.json        what was asked for; a run is only resumed with the same
    data/              the data set's episodes as tokens, if `data` is one with pictures
    policy/            the policy
    metrics.json       losses, and the error on held-out episodes
    timings.json       where the time went
    curve.png tensorboard/

The error is the mean squared one of the actions, as a ratio to that of always giving the mean
action of the other episodes: 1 is a policy that sees nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from toto_robot.files import write_json

from ..demonstrations.features import Dataset
from ..demonstrations.source import Demonstrations
from ..demonstrations.store import DemoStore
from ..report import draw_cloning, write_cloning_board
from ..rollouts.job import PhaseClock
from ..student import StudentPolicy
from .fit import chunk_labels, loss_of
from .learner import Learner

HELD_OUT = 0.1  # share of the episodes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lessons:
    """What is fitted to, and what judges.

    Attributes:
        fitted: rows of most episodes.
        held_out: rows of the others.
        numbers: which these are, in the store.
    """

    fitted: Dataset
    held_out: Dataset
    numbers: list[int]


def clone(learner: Learner, demonstrations: Demonstrations, out: Path) -> None:
    """Fit a student to the demonstrations, and write what the module's docstring lists."""
    clock = PhaseClock()
    with clock("start-up"):
        encoder, origin = learner.encoder, demonstrations.origin()
    with clock("tokenizer"):
        store = demonstrations.open(encoder, out / "data")
    with clock("transformer"):
        lessons = _split(learner, store, out)
    with clock("student's training"):
        student, losses, errors = _fit(learner, store, lessons)
    with clock("curve and video"):
        metrics = {
            "seed": learner.seed,
            "episodes": len(store),
            "held_out": lessons.numbers,
            "fitted_steps": len(lessons.fitted),
            "gradient_steps": learner.imitation.last_steps,
            "losses": losses,
            "held_out_errors": errors,
        }
        del lessons
        for name in ("fitted", "held_out"):
            _scratch(out, name).unlink(missing_ok=True)
        steps = learner.imitation.last_steps
        student.save(out / "policy", held_out_error=errors[-1], steps=steps, origin=origin)
        write_cloning_board(out, metrics)
        draw_cloning(out, metrics)
    write_json(out / "timings.json", clock.seconds)
    write_json(out / "metrics.json", metrics)


def _fit(
    learner: Learner, store: DemoStore, lessons: _Lessons
) -> tuple[StudentPolicy, list[float], list[float]]:
    """Return the student, its losses, and its errors on the held-out episodes."""
    student = learner.begin(store.header.interface, None, lessons.fitted, 0)
    steps, errors = learner.imitation.last_steps, list[float]()
    with tqdm(total=steps, desc="train", unit="step") as bar:

        def note(step: int, loss: float) -> None:
            errors.append(_error(student, lessons))
            bar.set_postfix_str(f"loss {loss:.4f}, held out {errors[-1]:.3f} of the mean action's")
            bar.update(step - bar.n)

        losses = learner.fit(student, lessons.fitted, steps, 0, note)
    return student, losses, errors


def _split(learner: Learner, store: DemoStore, out: Path) -> _Lessons:
    """Hold a tenth of the episodes out, drawn by the seed."""
    if len(store) < 2:
        raise ValueError(f"{store.folder}: {len(store)} episode(s); one is held out, so 2 at least")
    number = max(1, round(HELD_OUT * len(store)))
    order = np.random.default_rng((learner.seed, len(store))).permutation(len(store)).tolist()
    held_out, fitted = sorted(order[:number]), set(order[number:])
    return _Lessons(
        fitted=learner.gather([store], _scratch(out, "fitted"), fitted),
        held_out=learner.gather([store], _scratch(out, "held_out"), held_out),
        numbers=held_out,
    )


@torch.no_grad()
def _error(student: StudentPolicy, lessons: _Lessons) -> float:
    """Return the error on the held-out episodes as a ratio to that of the mean action."""
    data, mean = lessons.held_out, student.as_outputs(lessons.fitted.labels.mean(0))
    student.eval()
    ours = baseline = 0.0
    for rows in torch.arange(len(data)).split(1024):
        ours += len(rows) * float(loss_of(student, data, rows))
        labels, counts = chunk_labels(data, rows, student.chunk)
        squares = (student.as_outputs(labels) - mean).square().mean(2)
        baseline += len(rows) * float((squares * counts).sum() / counts.sum())
    student.train()
    return ours / max(baseline, 1e-12)


def _scratch(out: Path, name: str) -> Path:
    return out / f"embeddings-{name}.npy"
