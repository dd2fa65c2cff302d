"""Write the log of a training run and its curves, and make the random generator of each step.

All random numbers of a step come from a generator that is seeded with (seed, step). So a resumed
run needs no saved generator state, and draws the same numbers as an uninterrupted run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from ..plots import drawing

__all__ = [
    "UNSEEN",
    "RunLog",
    "generator_of",
]


UNSEEN = "unseen/"  # begin of the names of losses on data sets that are not trained on
PRINTED = {"loss": "loss", "held-out": "validation_loss"}  # printed label: name in the log


def generator_of(seed: int, step: int) -> np.random.Generator:
    """Return the random generator of one step."""
    return np.random.default_rng((seed, step))


class RunLog:
    """A log of scalar values, in ``log.jsonl`` and TensorBoard, and as a plot in ``curve.png``.

    A resumed run deletes the log lines of the steps that it repeats.
    """

    def __init__(self, out: Path, start: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / "log.jsonl"
        self.rows: list[dict[str, float | int]] = []
        if self._path.is_file():
            lines = [line for line in self._path.read_text().splitlines() if line.endswith("}")]
            self.rows = [row for row in map(json.loads, lines) if row["step"] <= start]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start)
        self._curve = out / "curve.png"
        self._speed = out / "speed.jsonl"

    def add(self, step: int, **scalars: float | int) -> None:
        """Log scalar values of step number ``step``."""
        row = {"step": step, **scalars}
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def note_speed(self, step: int, speed: Mapping[str, float]) -> str:
        """Log the speed of the steps before ``step``, and return a line to print.

        The line has the speed and the newest values of the log. The speed is in a separate file,
        ``speed.jsonl``, so that ``log.jsonl`` of a resumed run equals ``log.jsonl`` of an
        uninterrupted run.
        """
        with self._speed.open("a") as file:
            file.write(json.dumps({"step": step, **speed}) + "\n")
        for name, value in speed.items():
            self._board.add_scalar(name, value, step)
        scores = {name: self.rows[-1].get(key) for name, key in PRINTED.items()}
        scores |= {name: value for name, value in self.rows[-1].items() if name.startswith(UNSEEN)}
        parts = [f"{name} {value:.4f}" for name, value in scores.items() if value is not None]
        parts.append(f"{speed['tokens_per_s']:,.0f} tokens/s")
        parts.append(f"{speed['model_flops_utilisation']:.0%} of the peak")
        return f"step {step}: {', '.join(parts)}"

    def close(self, title: str, names: Sequence[str]) -> None:
        """Draw the logged values with these ``names`` against the step, and close the log."""
        self._board.close()
        with drawing(self._curve, columns=1, width=6.0, height=4.0) as (_, (axes,)):
            for name in names:
                points = [(row["step"], row[name]) for row in self.rows if name in row]
                if points:
                    axes.plot(*zip(*points, strict=True), label=name)
            axes.set(xlabel="step", ylabel="loss", title=title)
            axes.grid(alpha=0.3)
            axes.legend()
