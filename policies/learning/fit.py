"""Fit a student to labelled observations: behaviour cloning, the inner step of DAgger."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn.functional import mse_loss

from toto_robot.training.optimizer import OptimizerConfig, build_optimizer, descend

from ..student import StudentPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class ImitationConfig:
    """Settings of fitting a student.

    Attributes:
        optimizer: AdamW and its schedule, which restarts in every round.
        batch: observations per gradient step.
        steps: gradient steps per round.
        last_steps: gradient steps in the last round; behaviour cloning has only this round.
        log_every: number of gradient steps over which a logged loss is averaged.
    """

    optimizer: OptimizerConfig
    batch: int
    steps: int
    last_steps: int
    log_every: int

    def __post_init__(self) -> None:
        if min(self.batch, self.steps, self.last_steps, self.log_every) < 1:
            raise ValueError("batch, steps, last_steps and log_every must be at least 1")


class Labelled(Protocol):
    """Observations with the expert's actions: a `demonstrations.features.Dataset` or a subset.

    Attributes:
        embeddings: float16 [N c e].
        proprio: float32 [N p].
        labels: float32 [N a].
    """

    embeddings: torch.Tensor
    proprio: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return the number of observations N."""
        ...


@runtime_checkable
class Chunked(Protocol):
    """Labelled observations for a student that predicts chunks of actions.

    Attributes:
        ends: int64 [N], for each observation the index after the last observation of its episode.
    """

    ends: torch.Tensor


def fit(
    student: StudentPolicy,
    data: Labelled,
    config: ImitationConfig,
    steps: int,
    seed: tuple[int, ...],
    progress: Callable[[int, float], object] = lambda step, loss: None,
) -> list[float]:
    """Train in place with a mean squared error; return the mean loss of every `log_every` steps.

    Args:
        student: the student, on the device of the computation.
        data: observations with the expert's labels; also `Chunked` for a student with chunks.
        config: batch size, optimizer and logging.
        steps: number of gradient steps.
        seed: seed of the batches and of dropout.
        progress: called with the step and the loss, every `log_every` steps.
    """
    device = student.proprio_mean.device
    optimizer = build_optimizer(student, config.optimizer)
    losses: list[float] = []
    total = torch.zeros((), device=device)
    student.requires_grad_(True).train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**31)))
        for step in range(steps):
            rows = _rows(len(data), config.batch, seed, step)
            loss = loss_of(student, data, rows)
            lr = config.optimizer.lr_at(step, steps)
            descend(student, optimizer, loss, config.optimizer.clip_norm, lr)
            total += loss.detach()
            if (step + 1) % config.log_every == 0 or step + 1 == steps:
                losses.append(float(total) / ((step % config.log_every) + 1))
                total.zero_()
                progress(step + 1, losses[-1])
    student.requires_grad_(False).eval()
    return losses


def loss_of(student: StudentPolicy, data: Labelled, rows: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of actions; those after an episode's end do not count.

    Raises:
        ValueError: the student predicts chunks, but the data has no ends of episodes.
    """
    device = student.proprio_mean.device
    predicted = student.chunks(
        data.embeddings[rows].to(device, torch.float32), data.proprio[rows].to(device)
    )
    if student.chunk == 1:
        return mse_loss(predicted[:, 0], student.as_outputs(data.labels[rows].to(device)))
    labels, counts = chunk_labels(data, rows, student.chunk)
    squares = (predicted - student.as_outputs(labels.to(device))).square().mean(2)
    counts = counts.to(device)
    return (squares * counts).sum() / counts.sum()


def chunk_labels(
    data: Labelled, rows: torch.Tensor, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next k labels [b k a], and a mask [b k]: True within the same episode."""
    if not isinstance(data, Chunked):
        raise ValueError("a student with chunks needs data with the attribute `ends`")
    next_rows = rows[:, None] + torch.arange(chunk)
    counts = next_rows < data.ends[rows][:, None]
    return data.labels[next_rows.clamp(max=len(data) - 1)], counts


def _rows(length: int, batch: int, seed: tuple[int, ...], step: int) -> torch.Tensor:
    """Return the indices of a step's observations, drawn from (seed, step) only."""
    rng = np.random.default_rng((*seed, step))
    return torch.from_numpy(rng.integers(length, size=batch))
