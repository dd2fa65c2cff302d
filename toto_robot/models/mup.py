"""The parameters of a model in groups that an optimizer treats alike; with muP, by width.

    groups = parameter_groups(model, weight_decay=0.1)
    optimizer = AdamW(groups, lr=lr)     # at every step: group["lr"] = lr * group["lr_scale"]

The maximal update parametrisation (Yang et al. 2022, arXiv 2203.03466, table 8; paper section A.5)
makes one learning rate right for all widths: what a step changes in the residual stream neither
vanishes nor explodes as the width grows. With m = dim / mup_base_dim, and the number of heads
fixed, so that heads grow with the width:

    matrices inside blocks   drawn smaller by sqrt(m); learning rate / m, weight decay * m, so that
                             what decays in a step stays
    output projection        its input / m; drawn zero where it is not the embedding
    attention scores         / sqrt(m) beside the usual 1 / sqrt(head width)
    embedding, norms         as they were

`TotoConfig.mup_base_dim` switches it on. Groups are made by names and not by marks on parameters,
so they are the same for a model that is sharded or compiled.
"""

from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices with decay, vectors (norms, biases) without.

    Parameters that want no gradient are in none.

    Args:
        model: any module, sharded or not.
        weight_decay: of matrices.

    Returns:
        Dicts of ``params``, ``weight_decay`` and ``lr_scale``, which the learning rate of the
        schedule is multiplied by.
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
    # a state-space model's A is made of rates, each with a meaning of its own
    return parameter.ndim > 1 and not name.endswith("A_log")
