"""Pool the token features of a frame into one embedding (paper section 3.5)."""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, rms_norm

__all__ = ["POOLS", "AttentionPool", "GridPool", "LastPool", "build_pool"]

POOLS = "mean, last, attention, grid<k> (grid4: 4 x 4 cells)"


class GridPool(nn.Module):
    """A pool that averages features in each cell of a k x k grid and concatenates the averages.

    The embedding therefore contains where things are in the image. The cells are in raster order.
    k = 1 is the average pooling of the paper.
    """

    def __init__(self, side: int, dim: int) -> None:
        super().__init__()
        self.side, self.dim = side, side * side * dim

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b e"]:
        """Return the embeddings [b, k * k * d] of b frames with n tokens of d features."""
        side = round(features.shape[1] ** 0.5)
        image = features.transpose(1, 2).unflatten(2, (side, side))  # b d i j
        return adaptive_avg_pool2d(image, self.side).permute(0, 2, 3, 1).flatten(1)


class LastPool(nn.Module):
    """A pool that returns the features of the last token.

    In a causal transformer, only the last token depends on the whole frame.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b e"]:
        """Return the pooled features [b, d]."""
        return features[:, -1]


class AttentionPool(nn.Module):
    """The attention pool of the paper (section 3.5): one learned query attends to all tokens.

    The matrices ``W_k`` and ``W_v`` and the query are the only parameters of an encoder that can be
    trained. Before training, all tokens have nearly the same weight, and the embedding is a random
    projection of their average.
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        super().__init__()
        self.dim = dim
        generator = torch.Generator().manual_seed(seed)
        self.keys = nn.Linear(dim, dim, bias=False)
        self.values = nn.Linear(dim, dim, bias=False)
        self.query = nn.Parameter(torch.randn(1, 1, dim, generator=generator) * dim**-0.5)
        for linear in (self.keys, self.values):
            nn.init.normal_(linear.weight, std=dim**-0.5, generator=generator)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b e"]:
        """Return the pooled features [b, d].

        Because there is only one query, it is multiplied by ``W_k`` first, and ``W_v`` is applied
        only to the weighted average. The cost per token is then O(d) instead of O(d^2).
        """
        query = self.query[0, 0] @ self.keys.weight * self.dim**-0.5
        weights = (features @ query).softmax(dim=-1)
        return self.values((weights[:, None] @ features)[:, 0])


def build_pool(name: str, dim: int, tokens_per_frame: int) -> GridPool | LastPool | AttentionPool:
    """Return the pool ``name`` for features of width ``dim``.

    The attribute ``dim`` of the pool is the width e of its embeddings.

    Raises:
        ValueError: there is no such pool, or the grid does not divide the frame's tokens.
    """
    if name == "mean":
        return GridPool(1, dim)
    if name == "last":
        return LastPool(dim)
    if name == "attention":
        return AttentionPool(dim)
    match = re.fullmatch(r"grid([1-9][0-9]*)", name)
    if not match:
        raise ValueError(f"unknown pool {name!r}; known: {POOLS}")
    side, frame = int(match[1]), round(tokens_per_frame**0.5)
    if frame % side:
        raise ValueError(
            f"pool {name!r}: {side} does not divide the frame's {frame} x {frame} tokens"
        )
    return GridPool(side, dim)


def normalise(features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Scale the features of each token to a root mean square of 1.

    Features grow with the depth of the layer, and those of a few tokens grow much more than others.
    Without scaling, these tokens would dominate an average, and layers could not be compared.
    """
    return rms_norm(features, features.shape[-1:], eps=1e-8)
