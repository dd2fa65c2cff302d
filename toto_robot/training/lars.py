"""LARS: the optimizer of linear probes with very large batches (You et al. 2017).

Layer-wise adaptive rate scaling (arXiv 1708.03888) multiplies the gradient of each matrix by the
ratio of the norm of the matrix to the norm of the gradient. So the relative size of an update is
equal for all matrices. Vectors (norms and biases) are updated as by SGD. The rules are those of the
linear probes of MAE (He et al. 2021, arXiv 2111.06377), which use LARS. timm has LARS too, but it
needs torchvision.
"""

from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["Lars"]


class Lars(Optimizer):
    """The optimizer LARS with momentum.

    Args:
        groups: groups of parameters, with ``params`` and ``weight_decay``.
        lr: learning rate.
        momentum: share of the last update that is added to an update.
        trust: factor of the ratio of the norms.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, momentum: float, trust: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore  # no closure is supported
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                change = weight.grad
                if weight.ndim > 1:
                    change = change.add(weight, alpha=group["weight_decay"])
                    size, length = weight.norm(), change.norm()
                    ratio = group["trust"] * size / length
                    # a matrix or a gradient of zeros has no direction, so it is not scaled
                    change = change * torch.where((size > 0) & (length > 0), ratio, 1.0)
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(change)
                weight.add_(state["momentum"], alpha=-group["lr"])
