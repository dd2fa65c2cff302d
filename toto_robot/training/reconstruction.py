"""Tokenizer trainers: the protocol, and the recipe and trainer of the light dVAE.

A trainer owns a tokenizer, its optimizer and everything else that a recipe needs. The loop in
`toto_robot.training.tokenizer` passes images and a random generator, so that a step depends only on
its number and the trainer's state.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..tokenizers import DalleDVae, LightDVae, Vqgan
from .optimizer import OptimizerConfig, build_optimizer, descend
from .parallel import Precision, Ranks, arithmetic

__all__ = [
    "SHARING_WIDTH",
    "Anneal",
    "LightRecipe",
    "LightTrainer",
    "Reconstructed",
    "Setting",
    "Trained",
    "Trainer",
    "reconstruction_loss",
    "saturation",
    "usage_gap",
]

SHARING_WIDTH = (
    0.4  # kernel width of `usage_gap`, in levels; a code at a level assigns 0.92 of its share to it
)
LEAST_SHARE = 1e-12  # minimum share of a code inside the logarithm of `usage_gap`


Trained = LightDVae | DalleDVae | Vqgan


@dataclass(frozen=True, kw_only=True, slots=True)
class Anneal:
    """A value with a cosine schedule (DALL-E, appendix A.2).

    Attributes:
        first: value at step 0.
        last: value from step ``steps`` on.
        steps: duration of the schedule, steps; 0: the value is always ``last``.
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
    """Settings that all trainers share.

    Attributes:
        optimizer: settings of AdamW and of its learning-rate schedule.
        ranks: device of the training.
        precision: precision of matrix products.
    """

    optimizer: OptimizerConfig
    ranks: Ranks
    precision: Precision

    def arithmetic(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        return arithmetic(self.ranks, self.precision)


class Reconstructed(NamedTuple):
    """A reconstruction of held-out images from tokens.

    Attributes:
        loss: loss of the reconstruction from hard tokens.
        images: the reconstruction, about [0, 1].
        ids: the tokens.
    """

    loss: Float[Tensor, ""]
    images: Float[Tensor, "b 3 s s"]
    ids: Int64[Tensor, "b i j"]


@runtime_checkable
class Trainer(Protocol):
    """A trainer of one tokenizer by one recipe."""

    @property
    def tokenizer(self) -> "Trained":
        """The tokenizer that is validated and saved."""
        ...

    def step(
        self, images: Tensor, lr: float, step: int, generator: torch.Generator
    ) -> dict[str, float | Tensor]:
        """Train step number ``step`` on images [b 3 s s] in [0, 1]; return values to log."""
        ...

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Return the reconstruction of images from hard tokens, and its loss."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, without the weights of ``tokenizer``."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state of `state`; the weights of ``tokenizer`` are already loaded."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LightRecipe:
    """Training settings of `LightDVae`.

    A weight of 0 disables its term. The defaults are the values of the first shipped weights, whose
    configs do not name these terms.

    Attributes:
        edge_weight: weight of the L1 loss on horizontal and vertical differences, which keeps edges
            sharp.
        colour_weight: weight of the L1 loss on the differences of neighbouring channels (red and
            green, green and blue), which keeps the colour of small objects.
        saturation_weight: additional weight of the error of a fully saturated pixel; it grows
            linearly with the saturation, from 0 for a grey pixel.
        usage_weight: weight of the distance of the code distribution from the uniform
            distribution, nats (`usage_gap`).
    """

    kind: ClassVar[str] = "light"
    edge_weight: float
    colour_weight: float = 0.0
    saturation_weight: float = 0.0
    usage_weight: float = 0.0

    def __post_init__(self) -> None:
        """Check that no weight is negative."""
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(
                    f"{field.name} must not be negative, got {getattr(self, field.name)}"
                )


class LightTrainer:
    """A trainer with L1 losses on pixels and their differences, for finite scalar quantisation.

    A term that evens out the use of the codes is optional.
    """

    def __init__(self, tokenizer: LightDVae, recipe: LightRecipe, setting: Setting) -> None:
        self.tokenizer = tokenizer
        self._recipe, self._setting = recipe, setting
        self._optimizer = build_optimizer(tokenizer, setting.optimizer)

    def step(
        self, images: Tensor, lr: float, step: int, generator: torch.Generator
    ) -> dict[str, float | Tensor]:
        """Train one step; return values to log."""
        tokenizer, weight = self.tokenizer, self._recipe.usage_weight
        with self._setting.arithmetic():
            bounded = tokenizer.bottleneck(images)
            reconstruction = tokenizer.reconstruct(tokenizer.quantise(bounded))
        loss = reconstruction_loss(reconstruction.float(), images, self._recipe)
        log: dict[str, float | Tensor] = {"loss": loss.detach()}
        if weight > 0:
            gap = usage_gap(bounded.float(), tokenizer.levels)
            log["usage_gap"] = gap.detach()
            loss = loss + weight * gap
        clip = self._setting.optimizer.clip_norm
        norm = descend(tokenizer, self._optimizer, loss, clip, lr)
        return log | {"gradient_norm": norm, "lr": lr}

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Return the reconstruction of images from hard tokens, and its loss."""
        reconstruction, codes = self.tokenizer(images)
        loss = reconstruction_loss(reconstruction, images, self._recipe)
        return Reconstructed(loss, reconstruction, self.tokenizer.ids(codes))

    def state(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return {"optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the optimizer's state."""
        self._optimizer.load_state_dict(state["optimizer"])


def reconstruction_loss(
    reconstruction: Float[Tensor, "b 3 h w"], images: Float[Tensor, "b 3 h w"], recipe: LightRecipe
) -> Float[Tensor, ""]:
    """Return the weighted sum of the L1 losses on pixels and on their differences.

    There is no perceptual loss, whose network would use ImageNet labels (paper section 3.4).
    """
    error = reconstruction - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    pixels = error.abs()
    if recipe.saturation_weight:
        pixels = pixels * (1 + recipe.saturation_weight * saturation(images))
    loss = pixels.mean() + recipe.edge_weight * edges
    if recipe.colour_weight:
        loss = loss + recipe.colour_weight * error.diff(dim=-3).abs().mean()
    return loss


def saturation(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Return the largest minus the smallest channel of each pixel: 0 for grey, 1 for pure red."""
    return images.amax(1, keepdim=True) - images.amin(1, keepdim=True)


def usage_gap(bounded: Float[Tensor, "b c i j"], levels: Int64[Tensor, " c"]) -> Float[Tensor, ""]:
    """Return the KL divergence of the codes' distribution in a batch from the uniform one, nats.

    Each code before rounding is assigned softly to all levels of its channels by distance, so that
    the mean share of each of the 8192 codes has a gradient. The shares of a token are a product
    over the channels, so the mean over tokens is one product of two matrices.
    """
    shares = []
    for channel, count in enumerate(levels.tolist()):
        centres = torch.arange(count, device=bounded.device) - count // 2
        distance = (bounded[:, channel].reshape(-1, 1) - centres) / SHARING_WIDTH  # n l
        shares.append((-distance.square() / 2).softmax(1))
    start, middle = torch.ones_like(shares[0][:, :1]), len(shares) // 2
    first, second = (_outer(start, part) for part in (shares[:middle], shares[middle:]))
    mean = (first.T @ second).flatten() / len(first)
    # a share may underflow to 0, where the logarithm has no finite gradient
    return math.log(len(mean)) + (mean * mean.clamp_min(LEAST_SHARE).log()).sum()


def _outer(
    start: Float[Tensor, "n 1"], shares: Sequence[Float[Tensor, "n _"]]
) -> Float[Tensor, "n m"]:
    """Return, for each row, all products of one value from each of ``shares``."""
    product = start
    for part in shares:
        product = (product[:, :, None] * part[:, None, :]).flatten(1)
    return product
