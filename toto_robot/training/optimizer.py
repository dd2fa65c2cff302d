"""Build AdamW, SGD or LARS, compute their learning rate, and take one optimizer step."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ..models.mup import parameter_groups
from .lars import Lars

__all__ = [
    "AnyOptimizer",
    "LarsConfig",
    "OptimizerConfig",
    "Schedule",
    "SgdConfig",
    "build_optimizer",
    "descend",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A learning rate with linear warm-up and cosine decay (paper section 3.3), for any optimizer.

    Attributes:
        lr: peak learning rate.
        weight_decay: weight decay of matrices. Vectors (norms, biases) have no decay.
        warmup_steps: number of steps during which the learning rate rises linearly to ``lr``.
        final_lr_fraction: learning rate at the last step, as a fraction of ``lr``.
        clip_norm: maximum norm of the gradient. Gradients with a larger norm are scaled down.
    """

    lr: float
    weight_decay: float
    warmup_steps: int
    final_lr_fraction: float
    clip_norm: float

    def lr_at(self, step: int, steps: int) -> float:
        """Return the learning rate of step number ``step`` (from 0) in a run of ``steps`` steps."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * (self.final_lr_fraction + (1 - self.final_lr_fraction) * cosine)

    def note(self, steps: int) -> str | None:
        """Return a note if a run of ``steps`` steps ends within the warm-up, else None."""
        if steps > self.warmup_steps:
            return None
        return (
            f"note: the training has {steps:,} steps, and the warm-up {self.warmup_steps:,}. So "
            f"the learning rate only rises, to {100 * steps / self.warmup_steps:.3g} % of "
            f"{self.lr:g}. Train for more steps, or set a smaller optimizer.warmup_steps"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig(Schedule):
    """Settings of AdamW and of its learning rate.

    Attributes:
        betas: AdamW's betas, (0.9, 0.95) in the paper.
    """

    betas: tuple[float, float]

    def build(self, groups: list[dict[str, Any]]) -> AdamW:
        """Build the optimizer for groups of parameters."""
        return AdamW(groups, lr=self.lr, betas=self.betas, fused=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class SgdConfig(Schedule):
    """Settings of stochastic gradient descent and of its learning rate.

    Attributes:
        momentum: share of the last update that is added to an update.
    """

    kind: ClassVar[str] = "sgd"
    momentum: float

    def build(self, groups: list[dict[str, Any]]) -> SGD:
        """Build the optimizer for groups of parameters."""
        return SGD(groups, lr=self.lr, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True, slots=True)
class LarsConfig(Schedule):
    """Settings of LARS and of its learning rate.

    Attributes:
        momentum: share of the last update that is added to an update.
        trust: norm of an update of a matrix, relative to the norm of the matrix, at a learning rate
            of 1 and without momentum; 0.001 in the authors' paper.
    """

    kind: ClassVar[str] = "lars"
    momentum: float
    trust: float

    def build(self, groups: list[dict[str, Any]]) -> Lars:
        """Build the optimizer for groups of parameters."""
        return Lars(groups, lr=self.lr, momentum=self.momentum, trust=self.trust)


AnyOptimizer = OptimizerConfig | SgdConfig | LarsConfig


def build_optimizer(module: nn.Module, config: AnyOptimizer) -> Optimizer:
    """Build the optimizer for the parameters of ``module``, grouped by `parameter_groups`."""
    return config.build(parameter_groups(module, config.weight_decay))


def descend(
    module: nn.Module, optimizer: Optimizer, loss: Tensor, clip_norm: float, lr: float
) -> float:
    """Take one optimizer step, and return the norm of the gradient before clipping.

    Args:
        module: the trained module.
        optimizer: the optimizer of the module.
        loss: the loss of this step.
        clip_norm: maximum norm of the gradient.
        lr: learning rate.

    Raises:
        FloatingPointError: loss or gradient is not finite. The weights are then unchanged.
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
