"""The parameters of a model in groups that an optimizer treats alike.

groups = parameter_groups(model, weight_decay=0.1)
optimizer = AdamW(groups, lr=lr)     # at every step: group["lr"] = lr * group["lr_scale"]
"""

from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices with decay, vectors (norms, biases) without.

    Args:
        model: any module. Names and shapes decide, so it may be sharded already.
        weight_decay: of matrices.

    Returns:
        Dicts of ``params``, ``weight_decay`` and ``lr_scale``, which the learning rate of the
        schedule is multiplied by.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    return [group for group in groups if group["params"]]
