"""Group a model's parameters for the optimizer; with muP, learning rates depend on the width.

    groups = parameter_groups(model, weight_decay=0.1)
    optimizer = AdamW(groups, lr=lr)     # at every step: group["lr"] = lr * group["lr_scale"]

The maximal update parametrisation (Yang et al. 2022, arXiv 2203.03466, table 8; paper section A.5)
makes one learning rate suit all widths: the change of the residual stream in a step neither
vanishes nor explodes as the width grows. With m = dim / mup_base_dim, and a fixed number of heads,
so that heads become wider, the rules are:

    matrices inside blocks   initialised smaller by sqrt(m); learning rate / m, weight decay * m, so
                             that the decay per step is constant
    output projection        its input / m; initialised as zero if it is not the embedding
    attention scores         / sqrt(m), in addition to the usual 1 / sqrt(head width)
    embedding, norms         unchanged

`TotoConfig.mup_base_dim` enables it. Groups depend only on parameter names, so they are the same
for a sharded or compiled model.
"""

from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices with decay, vectors (norms, biases) without.

    Parameters without gradient are in no group.

    Args:
        model: any module, sharded or not.
        weight_decay: weight decay of matrices.

    Returns:
        Dicts with ``params``, ``weight_decay`` and ``lr_scale``, a factor for the learning rate of
        the schedule.
    """
    base = getattr(getattr(model, "config", None), "mup_base_dim", None)
    factor = 1.0 if base is None else model.config.width_factor  # pyrefly: ignore
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay, scale = (weight_decay if _decays(name, parameter) else 0.0), 1.0
        if name.startswith("layers.") and parameter.ndim > 1:
            decay, scale = decay * factor, 1 / factor
        key = (decay, scale)
        if key not in groups:
            groups[key] = {"params": [], "weight_decay": decay, "lr_scale": scale}
        groups[key]["params"].append(parameter)
    return list(groups.values())


def _decays(name: str, parameter: nn.Parameter) -> bool:
    # A of a state-space model is a set of rates, not a matrix
    return parameter.ndim > 1 and not name.endswith("A_log")
