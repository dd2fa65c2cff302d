"""What the training of a tokenizer is: a recipe for each layout, one step at a time.

A trainer owns a tokenizer, its optimizer and whatever else a recipe needs; the loop in
`toto_robot.training.tokenizer` hands it images and a generator, so that a step depends on nothing
but its number and the state.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..tokenizers import DalleDVae, LightDVae, Vqgan
from .optimizer import OptimizerConfig, build_optimizer, descend
from .parallel import Precision, Ranks, arithmetic

__all__ = [
    "Anneal",
    "LightRecipe",
    "LightTrainer",
    "Reconstructed",
    "Setting",
    "Trained",
    "Trainer",
    "reconstruction_loss",
]


Trained = LightDVae | DalleDVae | Vqgan


@dataclass(frozen=True, kw_only=True, slots=True)
class Anneal:
    """A value that goes from one to another by a cosine (DALL-E, appendix A.2).

    Attributes:
        first: its value at step 0.
        last: its value from ``steps`` on.
        steps: how long it takes; 0: it is ``last`` from the start.
    """

    first: float
    last: float
    steps: int

    def at(self, step: int) -> float:
        """Return the value at ``step``, counted from 0."""
        progress = min(1.0, step / self.steps) if self.steps else 1.0
        return self.last + (self.first - self.last) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all trainers are given.

    Attributes:
        optimizer: AdamW.
        ranks: where it computes.
        precision: of the products.
    """

    optimizer: OptimizerConfig
    ranks: Ranks
    precision: Precision

    def arithmetic(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        return arithmetic(self.ranks, self.precision)


class Reconstructed(NamedTuple):
    """Held-out images through the tokens.

    Attributes:
        loss: of the reconstruction from hard tokens.
        images: the reconstruction, about [0, 1].
        ids: the tokens.
    """

    loss: Float[Tensor, ""]
    images: Float[Tensor, "b 3 s s"]
    ids: Int64[Tensor, "b i j"]


@runtime_checkable
class Trainer(Protocol):
    """One recipe at work."""

    @property
    def tokenizer(self) -> "Trained":
        """What is scored and saved."""
        ...

    def step(
        self, images: Tensor, lr: float, step: int, generator: torch.Generator
    ) -> dict[str, float | Tensor]:
        """Take step number ``step`` on images [b 3 s s] in [0, 1] and return what to log of it."""
        ...

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Return images through hard tokens, and their loss."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the weights of ``tokenizer``."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned; the weights of ``tokenizer`` are there already."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LightRecipe:
    """How `LightDVae` is trained.

    Attributes:
        edge_weight: weight of the L1 loss on horizontal and vertical differences, which keeps edges
            sharp.
    """

    kind: ClassVar[str] = "light"
    edge_weight: float


class LightTrainer:
    """L1 on pixels and on their differences; finite scalar quantisation needs nothing else."""

    def __init__(self, tokenizer: LightDVae, recipe: LightRecipe, setting: Setting) -> None:
        self.tokenizer = tokenizer
        self._recipe, self._setting = recipe, setting
        self._optimizer = build_optimizer(tokenizer, setting.optimizer)

    def step(
        self, images: Tensor, lr: float, step: int, generator: torch.Generator
    ) -> dict[str, float | Tensor]:
        """Take one step."""
        with self._setting.arithmetic():
            reconstruction, _ = self.tokenizer(images)
        loss = reconstruction_loss(reconstruction.float(), images, self._recipe.edge_weight)
        clip = self._setting.optimizer.clip_norm
        return {
            "loss": loss.detach(),
            "gradient_norm": descend(self.tokenizer, self._optimizer, loss, clip, lr),
            "lr": lr,
        }

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Return images through hard tokens, and their loss."""
        reconstruction, codes = self.tokenizer(images)
        loss = reconstruction_loss(reconstruction, images, self._recipe.edge_weight)
        return Reconstructed(loss, reconstruction, self.tokenizer.ids(codes))

    def state(self) -> dict[str, Any]:
        """Return the optimizer's."""
        return {"optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the optimizer's."""
        self._optimizer.load_state_dict(state["optimizer"])


def reconstruction_loss(reconstruction: Tensor, images: Tensor, edge_weight: float) -> Tensor:
    """Return the mean absolute error of pixels and ``edge_weight`` times that of their differences.

    No perceptual loss: it would bring ImageNet labels in through its network (paper section 3.4).
    """
    error = reconstruction - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + edge_weight * edges
