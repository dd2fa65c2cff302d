"""Train a student on observations with expert actions: supervised learning, the core of DAgger."""

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
    """Settings of the supervised training of a student.

    Attributes:
        optimizer: settings of AdamW and its learning rate schedule, which begins anew in every
            DAgger iteration (round).
        batch: number of observations per gradient step.
        steps: number of gradient steps in each round except the last.
        last_steps: number of gradient steps in the last round. Behaviour cloning has only one
            round, which is the last.
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
    """N observations with the expert's actions, such as a `demonstrations.features.Dataset`.

    Attributes:
        embeddings: float16 [N c e], the embeddings of c cameras, each with e elements.
        proprio: float32 [N p], proprioception of p elements.
        labels: float32 [N a], the expert's actions, each with a elements.
    """

    embeddings: torch.Tensor
    proprio: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return the number of observations N."""
        ...


@runtime_checkable
class Chunked(Protocol):
    """Observations with expert actions for a student that predicts chunks (the next k actions).

    Attributes:
        ends: int64 [N]. For each observation, the end of its episode: the index of the last
            observation of the episode plus 1.
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
    """Train a student to predict the expert's actions, with the mean squared error as the loss.

    Args:
        student: the student; changed in place, on its device.
        data: observations with the expert's actions; `Chunked` if the student predicts chunks.
        config: batch size, optimizer and logging.
        steps: number of gradient steps.
        seed: seed of the batches and of dropout.
        progress: called with the number of completed steps and the mean loss, every `log_every`
            steps and after the last step.

    Returns:
        The losses, each averaged over `log_every` gradient steps; the last over fewer, if `steps`
        is not a multiple of `log_every`.
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
    """Return the mean squared error of the predicted actions of some observations.

    Predicted actions after the end of an episode do not count.

    Args:
        student: the student.
        data: observations with the expert's actions.
        rows: [b] indices of the b observations.

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
    """Return the expert's next k = `chunk` actions after each of b observations.

    Args:
        data: observations with the expert's actions.
        rows: [b] indices of the observations.
        chunk: number k of actions.

    Returns:
        The actions [b k a], and a mask [b k]: False for actions after the end of the episode.
    """
    if not isinstance(data, Chunked):
        raise ValueError("a student with chunks needs data with the attribute `ends`")
    next_rows = rows[:, None] + torch.arange(chunk)
    counts = next_rows < data.ends[rows][:, None]
    return data.labels[next_rows.clamp(max=len(data) - 1)], counts


def _rows(length: int, batch: int, seed: tuple[int, ...], step: int) -> torch.Tensor:
    """Draw the observations for one gradient step.

    The result depends only on `seed` and `step`, so that a resumed run draws the same observations.

    Args:
        length: number of all observations.
        batch: number of observations to draw.
        seed: seed of the training.
        step: index of the gradient step.

    Returns:
        [batch] indices of observations.
    """
    rng = np.random.default_rng((*seed, step))
    return torch.from_numpy(rng.integers(length, size=batch))
