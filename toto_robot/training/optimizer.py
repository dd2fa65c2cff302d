"""Build AdamW, compute its learning rate, and take one optimizer step."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ..models.mup import parameter_groups


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Settings of AdamW with linear warm-up and cosine decay (paper section 3.3).

    Attributes:
        lr: peak learning rate.
        betas: AdamW's betas, (0.9, 0.95) in the paper.
        weight_decay: weight decay of matrices. Vectors (norms, biases) have no decay.
        warmup_steps: number of steps during which the learning rate rises linearly to ``lr``.
        final_lr_fraction: learning rate at the last step, as a fraction of ``lr``.
        clip_norm: maximum norm of the gradient. Gradients with a larger norm are scaled down.
    """

    lr: float
    betas: tuple[float, float]
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


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> AdamW:
    """Build AdamW for the parameters of ``module``, grouped by `parameter_groups`."""
    groups = parameter_groups(module, config.weight_decay)
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def descend(
    module: nn.Module, optimizer: AdamW, loss: Tensor, clip_norm: float, lr: float
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
