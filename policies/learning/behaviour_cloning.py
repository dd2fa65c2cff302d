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

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from toto_robot import FrameEncoder
from toto_robot.device import choose_device
from toto_robot.files import write_aside

from ..demonstrations.features import Dataset
from ..demonstrations.lerobot.reader import DatasetReader, is_dataset
from ..demonstrations.store import DemoStore, StoreHeader, open_store, read_header
from ..demonstrations.tokenised import tokenised
from ..report import draw_cloning, time_table, write_cloning_board
from ..student import StudentCard, StudentPolicy
from ..vision import stamp
from .fit import chunk_labels, fit, loss_of

if TYPE_CHECKING:  # it is what calls `clone`
    from .config import TrainConfig

Json = dict[str, Any]
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


def clone(config: "TrainConfig", out: Path) -> None:
    """Fit a student to the data, and report; `policies.train` has printed what it will do."""
    if not (out / "metrics.json").is_file():
        _fit(config, out)
    else:
        print(f"{out} is complete already; nothing to do")
    metrics: Json = json.loads((out / "metrics.json").read_text())
    print(time_table(json.loads((out / "timings.json").read_text())))
    print(f"policy:  {out / 'policy'}")
    print(f"curve:   {out / 'curve.png'}")
    print(
        f"held out: {len(metrics['held_out'])} of {metrics['episodes']} episodes; their error is "
        f"{metrics['held_out_errors'][-1]:.3f} of that of the mean action"
    )


def open_data(
    config: "TrainConfig", header: StoreHeader, encoder: FrameEncoder | None, out: Path
) -> DemoStore:
    """Open the demonstrations that a run begins with: a store, or a data set made into one.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are of another environment, interface or tokenizer.
    """
    assert config.data is not None
    if is_dataset(config.data):
        reader = DatasetReader(config.data)
        lines = reader.interface.differences(header.interface)
        if lines and config.env is not None:
            raise ValueError(
                f"{config.data} has another interface than {config.env.id} (there != here):\n  "
                + "\n  ".join(lines)
                + "\nto learn from it alone, without an environment: method=bc env=none"
            )
        return tokenised(reader, out / "data", header, encoder, config.data_episodes)
    return open_store(config.data, header)


def _fit(config: "TrainConfig", out: Path) -> None:
    device = choose_device(config.device)
    clock = time.perf_counter()
    encoder = config.encoder.build(torch.device(device))
    header = _header(config, encoder)
    seconds = {"start-up": time.perf_counter() - clock}
    clock = time.perf_counter()
    store = open_data(config, header, encoder, out)
    seconds["tokenizer"] = time.perf_counter() - clock
    clock = time.perf_counter()
    lessons = _split(config, store, encoder, out)
    seconds["transformer"] = time.perf_counter() - clock
    clock = time.perf_counter()
    card = StudentCard(
        student=config.student,
        interface=header.interface,
        env=None,
        vision=config.encoder,
        encoder=stamp(encoder),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 1000)
        student = StudentPolicy(card)
    student.to(device)
    student.standardise(lessons.fitted.embeddings, lessons.fitted.proprio)
    steps, errors = config.imitation.last_steps, list[float]()
    with tqdm(total=steps, desc="train", unit="step") as bar:

        def note(step: int, loss: float) -> None:
            errors.append(_error(student, lessons))
            bar.set_postfix_str(f"loss {loss:.4f}, held out {errors[-1]:.3f} of the mean action's")
            bar.update(step - bar.n)

        losses = fit(student, lessons.fitted, config.imitation, steps, (config.seed, 0), note)
    seconds["student's training"] = time.perf_counter() - clock
    clock = time.perf_counter()
    metrics = {
        "seed": config.seed,
        "episodes": len(store),
        "held_out": lessons.numbers,
        "fitted_steps": len(lessons.fitted),
        "gradient_steps": steps,
        "losses": losses,
        "held_out_errors": errors,
    }
    del lessons
    for name in ("fitted", "held_out"):
        _scratch(out, name).unlink(missing_ok=True)
    student.save(out / "policy", held_out_error=errors[-1], steps=steps)
    title = f"{config.data}, bc, encoder: {config.encoder.kind}, seed {config.seed}"
    write_cloning_board(out / "tensorboard", metrics, config.imitation.log_every)
    draw_cloning(out / "curve.png", title, metrics, config.imitation.log_every)
    seconds["curve and video"] = time.perf_counter() - clock
    write_aside(out / "timings.json", (json.dumps(seconds, indent=1) + "\n").encode())
    write_aside(out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())


def _header(config: "TrainConfig", encoder: FrameEncoder | None) -> StoreHeader:
    """Say what the data must be: its own interface, seen by these eyes."""
    assert config.data is not None
    env = None
    if is_dataset(config.data):
        interface = DatasetReader(config.data).interface
    else:
        found = read_header(config.data)
        env, interface = found.env, found.interface
    return StoreHeader.of(env, interface, encoder)


def _split(
    config: "TrainConfig", store: DemoStore, encoder: FrameEncoder | None, out: Path
) -> _Lessons:
    """Hold a tenth of the episodes out, drawn by the seed."""
    if len(store) < 2:
        raise ValueError(f"{config.data}: {len(store)} episode(s); one is held out, so 2 at least")
    number = max(1, round(HELD_OUT * len(store)))
    order = np.random.default_rng((config.seed, len(store))).permutation(len(store)).tolist()
    held_out, fitted = sorted(order[:number]), set(order[number:])
    limit_bytes = int(config.memory_limit_gib * 2**30)
    return _Lessons(
        fitted=Dataset([store], encoder, limit_bytes, _scratch(out, "fitted"), fitted),
        held_out=Dataset([store], encoder, limit_bytes, _scratch(out, "held_out"), held_out),
        numbers=held_out,
    )


@torch.no_grad()
def _error(student: StudentPolicy, lessons: _Lessons) -> float:
    """Give the error on the held-out episodes as a ratio to that of the mean action."""
    data, mean = lessons.held_out, lessons.fitted.labels.mean(0)
    student.eval()
    ours = baseline = 0.0
    for rows in torch.arange(len(data)).split(1024):
        ours += len(rows) * float(loss_of(student, data, rows))
        labels, counts = chunk_labels(data, rows, student.chunk)
        squares = (labels - mean).square().mean(2)
        baseline += len(rows) * float((squares * counts).sum() / counts.sum())
    student.train()
    return ours / max(baseline, 1e-12)


def _scratch(out: Path, name: str) -> Path:
    return out / f"embeddings-{name}.npy"
