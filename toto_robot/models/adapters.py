"""Select the weights that fine-tuning changes: all, the last blocks, or low-rank adapters (LoRA).

    LowRankAdapters(rank=8, alpha=16.0).prepare(model)    # only the adapters are trained
    merge_adapters(model)                                 # the model has plain weights again

A low-rank adapter (Hu et al. 2021, arXiv 2106.09685) adds the product of two thin matrices to a
weight matrix. The library `peft` has the same adapters, but it needs transformers and accelerate,
which are larger than this package.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .causal import CausalModel, check_sizes

__all__ = [
    "Adaptation",
    "AllWeights",
    "LastBlocks",
    "LowRankAdapters",
    "LowRankLinear",
    "merge_adapters",
]


class LowRankLinear(nn.Module):
    """A frozen linear layer, to whose weights a trainable product of two thin matrices is added.

    Before training, the product is zero.

    Args:
        frozen: the linear layer.
        rank: number of rows of `down`, and of columns of `up`.
        alpha: the product is multiplied by alpha / rank.
    """

    def __init__(self, frozen: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features) * frozen.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the layer with the added product."""
        return self.frozen(x) + self.scale * linear(linear(x, self.down), self.up)

    def merged(self) -> nn.Linear:
        """Return the layer with the product added to its weights."""
        with torch.no_grad():
            self.frozen.weight += self.scale * self.up @ self.down
        return self.frozen


@dataclass(frozen=True, kw_only=True, slots=True)
class AllWeights:
    """Settings to train all weights."""

    kind: ClassVar[str] = "all"

    def prepare(self, model: CausalModel) -> None:
        """Make all weights trainable."""
        model.requires_grad_(True)


@dataclass(frozen=True, kw_only=True, slots=True)
class LastBlocks:
    """Settings to train only the last blocks, the last norm and a separate output projection.

    Attributes:
        blocks: number of trained blocks. The features before these blocks do not change.
    """

    kind: ClassVar[str] = "last_blocks"
    blocks: int

    def __post_init__(self) -> None:
        """Check that at least one block is trained."""
        check_sizes(self, "blocks")

    def prepare(self, model: CausalModel) -> None:
        """Freeze the token embedding and the first blocks.

        Raises:
            ValueError: the model has fewer than `blocks` blocks.
        """
        if self.blocks > len(model.layers):
            raise ValueError(
                f"adapt.blocks must be at most {len(model.layers)}, the blocks of the model; got "
                f"{self.blocks}"
            )
        model.requires_grad_(True)
        model.embed_tokens.requires_grad_(False)
        for block in list(model.layers)[: len(model.layers) - self.blocks]:
            block.requires_grad_(False)


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRankAdapters:
    """Settings to train only low-rank adapters of all matrices in the blocks.

    Attributes:
        rank: rank of the change of a matrix.
        alpha: the change is multiplied by alpha / rank.
    """

    kind: ClassVar[str] = "lora"
    rank: int
    alpha: float

    def __post_init__(self) -> None:
        """Check the rank and the scale."""
        check_sizes(self, "rank")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}")

    def prepare(self, model: CausalModel) -> None:
        """Freeze all weights, and add an adapter to each linear layer of the blocks.

        Raises:
            ValueError: the model is a Mamba, not a transformer.
        """
        if model.config.kind == "mamba":
            raise ValueError("adapt=lora is for transformers; use adapt=all or adapt=last_blocks")
        model.requires_grad_(False)
        for parent, name, child in _children(model, nn.Linear):
            assert isinstance(child, nn.Linear)
            setattr(parent, name, LowRankLinear(child, self.rank, self.alpha))


Adaptation = AllWeights | LastBlocks | LowRankAdapters


def merge_adapters(model: CausalModel) -> None:
    """Add the adapters of a model to its weights, so that it is a plain model again."""
    for parent, name, child in _children(model, LowRankLinear):
        assert isinstance(child, LowRankLinear)
        setattr(parent, name, child.merged())


def _children(model: CausalModel, kind: type) -> list[tuple[nn.Module, str, nn.Module]]:
    """Find all modules of the class ``kind`` in the blocks.

    Returns:
        For each module: its parent module, its name in the parent, and the module itself.
    """
    return [
        (parent, name, child)
        for parent in model.layers.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
