"""Fit a student to labelled observations: behaviour cloning, the inner step of DAgger."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import mse_loss

from toto_robot.training.run import OptimizerConfig, build_optimizer, descend

from .student import StudentPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class ImitationConfig:
    """Say how long and how a student is fitted.

    Attributes:
        optimizer: AdamW and its schedule, which begins anew in every round.
        batch: observations in a gradient step.
        steps: gradient steps in a round.
        last_steps: gradient steps in the last round, and so in behaviour cloning.
        log_every: the loss is averaged and logged over so many steps.
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
    """Observations and what to do in them: `policies.features.Dataset`, or a part of one.

    Attributes:
        embeddings: float16 [N c e].
        proprio: float32 [N p].
        labels: float32 [N a].
    """

    embeddings: torch.Tensor
    proprio: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Give N."""
        ...


def fit(
    student: StudentPolicy,
    data: Labelled,
    config: ImitationConfig,
    steps: int,
    seed: tuple[int, ...],
    progress: Callable[[int, float], object] = lambda step, loss: None,
) -> list[float]:
    """Train in place with a mean squared error; give the mean loss of every `log_every` steps.

    Args:
        student: where it is, there the computation happens.
        data: observations with the expert's labels.
        config: how.
        steps: gradient steps.
        seed: of the batches' order and of dropout.
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
            predicted = student(
                data.embeddings[rows].to(device, torch.float32), data.proprio[rows].to(device)
            )
            loss = mse_loss(predicted, data.labels[rows].to(device))
            lr = config.optimizer.lr_at(step, steps)
            descend(student, optimizer, loss, config.optimizer.clip_norm, lr)
            total += loss.detach()
            if (step + 1) % config.log_every == 0 or step + 1 == steps:
                losses.append(float(total) / ((step % config.log_every) + 1))
                total.zero_()
                progress(step + 1, losses[-1])
    student.requires_grad_(False).eval()
    return losses


def _rows(length: int, batch: int, seed: tuple[int, ...], step: int) -> torch.Tensor:
    """Give the rows of a step; drawn from (seed, step), so that no generator's state is carried."""
    rng = np.random.default_rng((*seed, step))
    return torch.from_numpy(rng.integers(length, size=batch))
