"""What every training run has: its optimizer, the claim on its folder, its log and its curves.

All randomness of a step is drawn from a generator seeded with (seed, step), so a resumed run needs
no generator state and goes on to the bit.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.tensorboard import SummaryWriter

from ..config import to_dict
from ..data.shards import write_json
from ..models.mup import parameter_groups

__all__ = [
    "OptimizerConfig",
    "RunLog",
    "build_optimizer",
    "claim",
    "descend",
    "generator_of",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay (paper section 3.3).

    Attributes:
        lr: peak learning rate.
        betas: AdamW's betas, (0.9, 0.95) in the paper.
        weight_decay: decay of matrices; vectors (norms, biases) have none.
        warmup_steps: steps of the linear warm-up.
        final_lr_fraction: learning rate at the last step, as a fraction of ``lr``.
        clip_norm: gradients are scaled down to this norm.
    """

    lr: float
    betas: tuple[float, float]
    weight_decay: float
    warmup_steps: int
    final_lr_fraction: float
    clip_norm: float

    def lr_at(self, step: int, steps: int) -> float:
        """Return the learning rate of ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * (self.final_lr_fraction + (1 - self.final_lr_fraction) * cosine)


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> AdamW:
    """Return AdamW over ``module``, in the groups of `parameter_groups`."""
    groups = parameter_groups(module, config.weight_decay)
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def generator_of(seed: int, step: int) -> np.random.Generator:
    """Return the generator of one step."""
    return np.random.default_rng((seed, step))


def claim(out: Path, config: object) -> None:
    """Write what the run in ``out`` is, or check that the run that is there is this one.

    Raises:
        ValueError: ``out`` holds a run with another config; the message names what differs.
    """
    path, data = out / "config.json", to_dict(config)
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, data)
        return
    before, now = _flat(json.loads(path.read_text())), _flat(json.loads(json.dumps(data)))
    lines = [
        f"{name}: {before.get(name, 'not there')!r} != {now.get(name, 'not there')!r}"
        for name in sorted({*before, *now})
        if before.get(name, path) != now.get(name, path)
    ]
    if lines:
        raise ValueError(
            f"{out} holds a run with another config (there != here); choose another out=, or "
            "delete it:\n  " + "\n  ".join(lines)
        )


def _flat(data: object, at: str = "") -> dict[str, object]:
    if not isinstance(data, dict) or not data:
        return {at: data}
    return {
        name: value
        for key, item in data.items()
        for name, value in _flat(item, f"{at}.{key}" if at else str(key)).items()
    }


def descend(
    module: nn.Module, optimizer: AdamW, loss: Tensor, clip_norm: float, lr: float
) -> float:
    """Take one optimizer step on ``loss`` at learning rate ``lr`` and return the gradient's norm.

    Raises:
        FloatingPointError: loss or gradient is not finite; the weights are left as they were.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm).item()
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"loss {loss.item()}, gradient norm {norm}: training stops, the last checkpoint is good"
        )
    optimizer.step()
    return norm


class RunLog:
    """Scalars of a run: ``log.jsonl``, TensorBoard, and ``curve.png``.

    A resumed run drops the lines of steps that it is about to repeat.
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
        """Log scalars of ``step``."""
        row = {"step": step, **scalars}
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def note_speed(self, step: int, **scalars: float) -> None:
        """Log how fast the steps before ``step`` were: in ``speed.jsonl``, and not with the rest.

        The log of a resumed run equals that of an uninterrupted one; its speed does not.
        """
        with self._speed.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self, title: str, names: Sequence[str]) -> None:
        """Draw the curves of those ``names`` that were logged, over steps, and close the log."""
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        self._board.close()
        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        for name in names:
            points = [(row["step"], row[name]) for row in self.rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name)
        axes.set(xlabel="step", ylabel="loss", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(self._curve, dpi=110)
        pyplot.close(figure)
