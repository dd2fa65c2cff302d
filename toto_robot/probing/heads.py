"""Classification heads on frozen features. There are five kinds.

    linear            averages the tokens, and applies a linear layer (paper section 3.5)
    batch_norm_linear averages the tokens, normalises each feature over the batch, and applies a
                      linear layer (the linear probe of MAE)
    attention         pools the tokens by attention with matrices W_k and W_v and one learned query,
                      and applies a linear layer (paper section 3.5)
    cross_attention   has a block of cross attention with one learned query and an MLP, and a linear
                      layer (paper A.7, Table 16)
    low_rank          applies a linear layer to all tokens at their positions, without pooling. Its
                      weight matrix has a low rank, because it would be large otherwise

`LayerHeads` has one head for each layer of an encoder. All heads are trained together, and do not
affect each other.

Shapes: b batch, l layers, n tokens, d width of the features, c classes.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..encoders.pooling import AttentionPool

__all__ = [
    "AVERAGED",
    "AttentionHead",
    "BatchNormHead",
    "CrossAttentionHead",
    "HeadKind",
    "LayerHeads",
    "LinearHead",
    "LowRankHead",
    "ProbeKind",
    "build_head",
]

HeadKind = Literal["linear", "batch_norm_linear", "attention", "cross_attention"]
ProbeKind = Literal[  # heads of probes
    "linear", "batch_norm_linear", "attention", "cross_attention", "low_rank"
]
AVERAGED = ("linear", "batch_norm_linear")  # they average the tokens first
RANK = 8  # of `LowRankHead`
HEAD_WIDTH = 64  # largest width of an attention head of `CrossAttentionHead`
SMALLEST_DEVIATION = 1e-3  # minimum divisor of a feature, so that constant features stay small


class LinearHead(nn.Module):
    """A linear classifier of the average of all tokens."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = _classifier(dim, num_classes)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
        """Return the logits of the classes."""
        return self.classifier(features.mean(1))


class BatchNormHead(nn.Module):
    """A linear classifier of the average of all tokens, which a batch norm without weights scales.

    This is the linear probe of MAE (He et al. 2021, arXiv 2111.06377, appendix A.1), also with its
    initial weights, which LARS needs. In training, mean and variance are those of the examples of a
    forward pass. Afterwards they are running averages.
    """

    def __init__(self, dim: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, eps=1e-6, affine=False)
        self.classifier = _classifier(dim, num_classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01, generator=generator)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
        """Return the logits of the classes."""
        return self.classifier(self.norm(features.mean(1)))


class AttentionHead(nn.Module):
    """A linear classifier of an embedding that attention pools from the tokens.

    The attention has the matrices ``W_k`` and ``W_v`` and the learned query of the paper. The
    pooled embedding has the width of the features.
    """

    def __init__(self, dim: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.pool = AttentionPool(dim, seed)
        self.classifier = _classifier(dim, num_classes)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
        """Return the logits of the classes."""
        return self.classifier(self.pool(features))


class CrossAttentionHead(nn.Module):
    """A block of cross attention with one learned query and an MLP, then a linear classifier.

    The paper gives no sizes (A.7). Here the block is the attentive probe of V-JEPA (Bardes et al.
    2024, arXiv 2404.08471): heads of width 64, a residual connection, LayerNorm before the
    attention and the MLP, and an MLP of four times the width.
    """

    def __init__(self, dim: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.num_heads = max(1, dim // HEAD_WIDTH)
        if dim % self.num_heads:
            raise ValueError(
                f"cross attention has {self.num_heads} heads at this width, which do not divide "
                f"it: choose another head than cross_attention for features of width {dim}"
            )
        generator = torch.Generator().manual_seed(seed)
        self.norm_tokens, self.norm_query = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query = nn.Parameter(torch.randn(dim, generator=generator) * 0.02)
        self.queries = nn.Linear(dim, dim)
        self.keys = nn.Linear(dim, dim, bias=False)  # a bias would not change attention weights
        self.values = nn.Linear(dim, dim)
        self.projection = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.classifier = _classifier(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.classifier:
                nn.init.normal_(module.weight, std=0.02, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
        """Return the logits of the classes."""
        tokens = self.norm_tokens(features)
        query = self.queries(self.norm_query(self.query)).unflatten(0, (self.num_heads, -1))
        # As in `AttentionPool`, the order of the products is changed to reduce the cost to O(d h)
        # per token for h heads.
        keys = self.keys.weight.unflatten(0, (self.num_heads, -1))  # h e d
        scores = tokens @ torch.einsum("he,hed->dh", query, keys) * query.shape[1] ** -0.5
        averages = scores.softmax(dim=1).transpose(1, 2) @ tokens  # b h d
        values = self.values.weight.unflatten(0, (self.num_heads, -1))
        pooled = torch.einsum("bhd,hed->bhe", averages, values).flatten(1) + self.values.bias
        hidden = self.query + self.projection(pooled)
        return self.classifier(hidden + self.mlp(self.norm_mlp(hidden)))


class LowRankHead(nn.Module):
    """A linear classifier of tokens at fixed positions, for classes that are places in the image.

    Each token is projected to 8 numbers, by the same matrix at all positions. A linear layer then
    reads the numbers of all tokens. A head that pools tokens must first learn to attend to one of
    them, which takes many examples if it is one of hundreds; this head does not pool.
    """

    def __init__(self, dim: int, num_classes: int, num_tokens: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.projection = nn.Linear(dim, RANK, bias=False)
        nn.init.normal_(self.projection.weight, std=dim**-0.5, generator=generator)
        self.classifier = _classifier(num_tokens * RANK, num_classes)
        self._scale = num_tokens**-0.5

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
        """Return the logits of the classes."""
        return self.classifier(self.projection(features).flatten(1) * self._scale)


def build_head(kind: ProbeKind, dim: int, num_classes: int, num_tokens: int = 0) -> nn.Module:
    """Return an untrained head for features of width ``dim``.

    Only `low_rank` needs the number of tokens.
    """
    if kind == "low_rank":
        return LowRankHead(dim, num_classes, num_tokens)
    heads = {
        "linear": LinearHead,
        "batch_norm_linear": BatchNormHead,
        "attention": AttentionHead,
        "cross_attention": CrossAttentionHead,
    }
    return heads[kind](dim, num_classes)


class LayerHeads(nn.Module):
    """Classification heads for several layers, one head for each layer.

    Features are standardised before the heads, with a mean and a standard deviation for each layer
    and feature. Until `standardise` is called, the mean is 0 and the standard deviation is 1.

    Attributes:
        layers: the heads, in the order of the layers.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, kind: ProbeKind, num_layers: int, dim: int, num_classes: int, num_tokens: int = 0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            build_head(kind, dim, num_classes, num_tokens) for _ in range(num_layers)
        )
        self.register_buffer("mean", torch.zeros(num_layers, 1, dim))
        self.register_buffer("scale", torch.ones(num_layers, 1, dim))

    def standardise(self, mean: Float[Tensor, "l d"], deviation: Float[Tensor, "l d"]) -> None:
        """Set the mean and the standard deviation with which features are standardised."""
        self.mean.copy_(mean[:, None])
        self.scale.copy_(1 / deviation[:, None].clamp(min=SMALLEST_DEVIATION))

    def forward(self, features: Float[Tensor, "b l n d"]) -> Float[Tensor, "l b c"]:
        """Return the class logits of the head of each layer."""
        features = (features - self.mean) * self.scale
        return torch.stack([head(features[:, i]) for i, head in enumerate(self.layers)])

    def loss(
        self, features: Float[Tensor, "b l n d"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Return the cross entropy in nats, summed over the layers.

        The gradient of a head in this sum equals the gradient of its loss alone, because the heads
        have no common weights.
        """
        logits = self(features)
        per_layer = cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="sum")
        return per_layer / len(labels)


def _classifier(dim: int, num_classes: int) -> nn.Linear:
    """Return a linear layer whose initial logits are equal for all classes."""
    layer = nn.Linear(dim, num_classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
