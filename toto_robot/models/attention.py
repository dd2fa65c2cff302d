"""Causal attention, and the precision of the products around it.

Shapes: b batch, h heads, t time (tokens), k head width.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["causal_attention", "in_product_precision"]

BLOCK = 128  # number of queries whose scores are computed together


def causal_attention(
    q: Float[Tensor, "b h t k"], k: Float[Tensor, "b h t k"], v: Float[Tensor, "b h t k"]
) -> Float[Tensor, "b h t k"]:
    """Compute the attention in which each token attends to itself and to all earlier tokens.

    On a CPU, the flash kernel of torch is slower in bfloat16 than in float32. Therefore bfloat16
    is computed there in blocks of queries, whose scores are an ordinary matrix product.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    keys, values = k.flatten(0, 1).mT, v.flatten(0, 1)
    queries = (q * q.shape[-1] ** -0.5).flatten(0, 1)
    later = q.new_full((BLOCK, BLOCK), float("-inf")).triu_(1)
    outputs = []
    for start in range(0, q.shape[2], BLOCK):
        part = queries[:, start : start + BLOCK]
        end, size = start + part.shape[1], part.shape[1]
        scores = torch.bmm(part, keys[..., :end])
        scores[..., start:].detach().add_(later[:size, :size])  # has no gradient: it is a constant
        outputs.append(torch.bmm(scores.softmax(-1), values[:, :end]))
    return torch.cat(outputs, dim=1).unflatten(0, q.shape[:2])


def in_product_precision(x: Tensor) -> Tensor:
    """Return ``x`` in the precision of autocast's products, so that several products share a cast.

    Without autocast, ``x`` is returned unchanged.
    """
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
