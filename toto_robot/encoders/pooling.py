"""Pool the token features of a frame into one embedding (paper section 3.5)."""

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, rms_norm

__all__ = [
    "POOLS",
    "AttentionPool",
    "GridPool",
    "JoinedPool",
    "LastPool",
    "Pool",
    "PrincipalPool",
    "build_pool",
    "default_pool",
    "is_attention",
    "is_pool",
    "join_layers",
    "layer_numbers",
    "layer_setting",
    "needs_components",
]

POOLS = (
    "mean, last, attention, attention<q> (attention4: 4 queries), grid<g> (grid4: 4 x 4 cells), "
    "pca<k> (pca8: 8 principal components of each token), pca<k>grid<g> (pca32grid8: 32 principal "
    "components in 8 x 8 cells)"
)
_N = r"[1-9][0-9]*"
_NAME = re.compile(
    rf"mean|last|attention(?P<queries>{_N})?"
    rf"|(?=pca|grid)(pca(?P<components>{_N}))?(grid(?P<side>{_N}))?"
)


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


class PrincipalPool(nn.Module):
    """A pool that projects features to k principal components in each cell of a g x g grid.

    For a given number of values, it has few components at many places instead of all features at
    few places. The components are fixed; `toto_robot.encoders.pca` fits them.
    """

    mean: Tensor  # d
    components: Tensor  # d k

    def __init__(
        self, side: int, mean: Float[Tensor, " d"], components: Float[Tensor, "d k"]
    ) -> None:
        super().__init__()
        self.cells = GridPool(side, len(mean))
        self.dim = side * side * components.shape[1]
        self.register_buffer("mean", mean.clone())
        self.register_buffer("components", components.clone())

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b e"]:
        """Return the embeddings [b, g * g * k] of b frames with n tokens of d features."""
        cells = self.cells(features).unflatten(1, (-1, len(self.mean)))
        return ((cells - self.mean) @ self.components).flatten(1)


class AttentionPool(nn.Module):
    """The attention pool of the paper (section 3.5): learned queries attend to all tokens.

    The paper has one query. With several queries, each can attend to another thing in the image;
    their outputs are concatenated. The matrices ``W_k`` and ``W_v`` and the queries are the only
    parameters of an encoder that can be trained. Before training, all tokens have nearly the same
    weight, and the embedding is a random projection of their average.
    """

    def __init__(self, dim: int, seed: int = 0, queries: int = 1) -> None:
        super().__init__()
        self.dim = queries * dim
        generator = torch.Generator().manual_seed(seed)
        self.keys = nn.Linear(dim, dim, bias=False)
        self.values = nn.Linear(dim, dim, bias=False)
        self.query = nn.Parameter(torch.randn(1, queries, dim, generator=generator) * dim**-0.5)
        for linear in (self.keys, self.values):
            nn.init.normal_(linear.weight, std=dim**-0.5, generator=generator)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b e"]:
        """Return the pooled features [b, q * d] of q queries.

        Because there are few queries, they are multiplied by ``W_k`` first, and ``W_v`` is applied
        only to the weighted averages. The cost per token is then O(q d) instead of O(d^2).
        """
        queries = self.query[0] @ self.keys.weight * self.values.in_features**-0.5
        weights = (features @ queries.T).softmax(dim=1)
        return self.values(weights.mT @ features).flatten(1)


class JoinedPool(nn.Module):
    """The pools of several layers, whose embeddings are concatenated.

    Its input are the features of the layers, joined in the last dimension by `join_layers`.
    """

    def __init__(self, pools: "Sequence[SinglePool]") -> None:
        super().__init__()
        self.pools = nn.ModuleList(pools)
        self.dim = sum(pool.dim for pool in pools)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b e"]:
        """Return the embeddings of all layers, side by side."""
        layers = features.chunk(len(self.pools), dim=-1)
        return torch.cat([pool(one) for pool, one in zip(self.pools, layers, strict=True)], dim=1)


SinglePool = GridPool | LastPool | AttentionPool | PrincipalPool
Pool = SinglePool | JoinedPool


def join_layers(features: Sequence[Float[Tensor, "*b d"]]) -> Float[Tensor, "*b e"]:
    """Return the features of several layers, joined in the last dimension."""
    return features[0] if len(features) == 1 else torch.cat(list(features), dim=-1)


def layer_numbers(layer: int | Sequence[int], index: Callable[[int], int]) -> tuple[int, ...]:
    """Return the numbers of one or several layers.

    Args:
        layer: number of a layer, or of several layers.
        index: function that checks a number, and counts a negative number from the last layer.

    Raises:
        ValueError: there is no layer, or a layer occurs twice.
    """
    asked: Any = [layer] if np.ndim(layer) == 0 else layer
    try:  # numbers of numpy become int, because they are hashed and saved
        numbers = tuple(index(int(operator.index(one))) for one in asked)
    except TypeError:
        numbers = ()
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"layer must be a number or a list of different numbers, got {layer!r}")
    return numbers


def layer_setting(numbers: tuple[int, ...]) -> int | tuple[int, ...]:
    """Return the setting `layer` of these layers: a number if there is only one."""
    return numbers if len(numbers) > 1 else numbers[0]


def build_pool(
    name: str,
    dim: int,
    tokens_per_frame: int,
    components: tuple[Tensor, Tensor] | None = None,
) -> SinglePool:
    """Return the pool ``name`` for features of width ``dim``.

    The attribute ``dim`` of the pool is the width e of its embeddings.

    Args:
        name: name of the pool.
        dim: number of features of a token.
        tokens_per_frame: number of tokens of a frame.
        components: mean [d] and principal components [d k] of the features, for a pool `pca<k>`;
            None: the encoder has none.

    Raises:
        ValueError: there is no such pool, the grid does not divide the frame's tokens, or there are
            fewer principal components than the pool needs.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"unknown pool {name!r}; known: {POOLS}")
    if name == "last":
        return LastPool(dim)
    if is_attention(name):
        return AttentionPool(dim, queries=int(match["queries"] or 1))
    frame = round(tokens_per_frame**0.5)
    side = 1 if name == "mean" else int(match["side"] or frame)
    if frame % side:
        raise ValueError(
            f"pool {name!r}: {side} does not divide the frame's {frame} x {frame} tokens"
        )
    if not match["components"]:
        return GridPool(side, dim)
    if components is None:
        raise ValueError(
            f"pool {name!r} needs principal components, and this encoder has none: "
            "python -m toto_robot.fit_pca encoder=checkpoint encoder.name_or_path=<name or folder> "
            "'data=[{path: <data set>, weight: 1.0}]' writes a copy of its checkpoint with them"
        )
    mean, directions = components
    number = int(match["components"])
    if number > directions.shape[1]:
        raise ValueError(
            f"pool {name!r}: this encoder has {directions.shape[1]} principal components, not "
            f"{number}"
        )
    return PrincipalPool(side, mean, directions[:, :number])


def default_pool(tokens_per_frame: int) -> str:
    """Return the name of the finest pooling grid that divides the tokens of a frame equally.

    The grid has at most 4 x 4 cells. If no grid is possible, the name is `mean`.
    """
    side = math.isqrt(tokens_per_frame)
    cells = next((k for k in (4, 3, 2) if side**2 == tokens_per_frame and side % k == 0), 1)
    return "mean" if cells == 1 else f"grid{cells}"


def is_pool(name: str) -> bool:
    """Return whether there is a pool with this name."""
    return _NAME.fullmatch(name) is not None


def is_attention(name: str) -> bool:
    """Return whether a pool has parameters that are trained with a policy."""
    return name.startswith("attention")


def needs_components(name: str) -> bool:
    """Return whether a pool needs principal components."""
    return name.startswith("pca")


def normalise(features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Scale the features of each token to a root mean square of 1.

    Features grow with the depth of the layer, and those of a few tokens grow much more than others.
    Without scaling, these tokens would dominate an average, and layers could not be compared.
    """
    return rms_norm(features, features.shape[-1:], eps=1e-8)
