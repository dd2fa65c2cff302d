"""Behaviour cloning on data without an environment, evaluated on held-out episodes.

`policies.train` with `env=none` uses this module. Files in `out`:

    config.json        the settings; a run is resumed only with the same settings
    data/              the episodes as tokens, if `data` is a data set with images
    policy/            the checkpoint of the policy
    metrics.json       losses, and the relative error on held-out episodes
    timings.json       wall time of each phase
    curve.png tensorboard/

The relative error of a policy is the mean squared error of its actions, divided by the mean squared
error of a constant policy that always returns the mean action of the training episodes. So a policy
that ignores its input has a relative error of about 1.
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
class _Split:
    """The data of the training episodes and of the held-out episodes.

    Attributes:
        fitted: observations and actions of the training episodes.
        held_out: observations and actions of the held-out episodes.
        numbers: indices of the held-out episodes in the demonstration store.
    """

    fitted: Dataset
    held_out: Dataset
    numbers: list[int]


def clone(learner: Learner, demonstrations: Demonstrations, out: Path) -> None:
    """Train a student on the demonstrations, and write the files that the module docstring lists.

    Only `config.json` is not written here.
    """
    clock = PhaseClock()
    with clock("start-up"):
        encoder, origin = learner.encoder, demonstrations.origin()
    with clock("tokenizer"):
        store = demonstrations.open(encoder, out / "data")
    with clock("transformer"):
        split = _hold_out(learner, store, out)
    with clock("student's training"):
        student, losses, errors = _fit(learner, store, split)
    with clock("curve and video"):
        metrics = {
            "seed": learner.seed,
            "episodes": len(store),
            "held_out": split.numbers,
            "fitted_steps": len(split.fitted),
            "gradient_steps": learner.imitation.last_steps,
            "losses": losses,
            "held_out_errors": errors,
        }
        del split
        for name in ("fitted", "held_out"):
            _scratch(out, name).unlink(missing_ok=True)
        steps = learner.imitation.last_steps
        student.save(out / "policy", held_out_error=errors[-1], steps=steps, origin=origin)
        write_cloning_board(out, metrics)
        draw_cloning(out, metrics)
    write_json(out / "timings.json", clock.seconds)
    write_json(out / "metrics.json", metrics)


def _fit(
    learner: Learner, store: DemoStore, split: _Split
) -> tuple[StudentPolicy, list[float], list[float]]:
    """Train a student on the training episodes.

    Returns:
        The student; the training losses; the relative errors on the held-out episodes. A loss and
        an error are computed every `log_every` gradient steps.
    """
    student = learner.begin(store.header.interface, None, split.fitted, 0)
    steps, errors = learner.imitation.last_steps, list[float]()
    with tqdm(total=steps, desc="train", unit="step") as bar:

        def note(step: int, loss: float) -> None:
            errors.append(_error(student, split))
            bar.set_postfix_str(f"loss {loss:.4f}, held out {errors[-1]:.3f} of the mean action's")
            bar.update(step - bar.n)

        losses = learner.fit(student, split.fitted, steps, 0, note)
    return student, losses, errors


def _hold_out(learner: Learner, store: DemoStore, out: Path) -> _Split:
    """Split the episodes at random into a tenth that is held out and the rest for training."""
    if len(store) < 2:
        raise ValueError(
            f"{store.folder}: at least 2 episodes are needed, one is held out; got {len(store)}"
        )
    number = max(1, round(HELD_OUT * len(store)))
    order = np.random.default_rng((learner.seed, len(store))).permutation(len(store)).tolist()
    held_out, fitted = sorted(order[:number]), set(order[number:])
    return _Split(
        fitted=learner.gather([store], _scratch(out, "fitted"), fitted),
        held_out=learner.gather([store], _scratch(out, "held_out"), held_out),
        numbers=held_out,
    )


@torch.no_grad()
def _error(student: StudentPolicy, split: _Split) -> float:
    """Return the relative error on the held-out episodes, which the module docstring defines."""
    data, mean = split.held_out, student.as_outputs(split.fitted.labels.mean(0))
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
