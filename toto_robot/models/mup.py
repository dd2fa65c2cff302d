"""Group the parameters of a model for the optimizer, with or without muP.

    groups = parameter_groups(model, weight_decay=0.1)
    optimizer = AdamW(groups, lr=lr)     # at every step: group["lr"] = lr * group["lr_scale"]

In the standard parametrisation, the best learning rate depends on the width of the model. In the
maximal update parametrisation (muP; Yang et al. 2022, arXiv 2203.03466, table 8; paper section
A.5), one learning rate suits all widths: as the width grows, the change of the residual stream in a
step stays about constant. Let m = dim / mup_base_dim. The number of heads is fixed, so heads become
wider. The rules are:

    matrices inside blocks   initial values are divided by sqrt(m), the learning rate is divided by
                             m, and the weight decay is multiplied by m. So the decay per step is
                             constant.
    output projection        its input is divided by m. Its initial value is zero if it is not the
                             token embedding.
    attention scores         are divided by sqrt(m), in addition to the usual sqrt(head width)
    embedding, norms         are unchanged

`TotoConfig.mup_base_dim` enables muP. Groups depend only on the names of the parameters, so they
are the same for a sharded or compiled model.
"""

from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameter groups for AdamW.

    Matrices have weight decay. Vectors (norms and biases) have none. Parameters that need no
    gradient, or have no elements, are in no group.

    Args:
        model: any module, sharded or not. If it has a method ``lr_scale(name)``, the ``lr_scale``
            of a parameter is multiplied by the result, for example for layer decay.
        weight_decay: weight decay of the matrices.

    Returns:
        One dictionary per group, with ``params``, ``weight_decay`` and ``lr_scale``. The learning
        rate of a group is the rate of the schedule multiplied by ``lr_scale``.
    """
    base = getattr(getattr(model, "config", None), "mup_base_dim", None)
    factor = 1.0 if base is None else model.config.width_factor  # pyrefly: ignore
    own_scale = getattr(model, "lr_scale", None)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter.numel() == 0:
            continue
        decay, scale = (weight_decay if _decays(name, parameter) else 0.0), 1.0
        if name.removeprefix("transformer.").startswith("layers.") and parameter.ndim > 1:
            decay, scale = decay * factor, 1 / factor
        if own_scale is not None:
            scale *= own_scale(name)
        key = (decay, scale)
        if key not in groups:
            groups[key] = {"params": [], "weight_decay": decay, "lr_scale": scale}
        groups[key]["params"].append(parameter)
    return list(groups.values())


def _decays(name: str, parameter: nn.Parameter) -> bool:
    # the parameter A of a state-space model is a list of rates, so it has no weight decay
    return parameter.ndim > 1 and not name.endswith("A_log")
