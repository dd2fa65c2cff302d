"""The protocol of all tokenizer trainers, and the trainer of the small `light` tokenizer.

A trainer has a tokenizer, its optimizer, and everything else that a recipe (losses and schedules)
needs. The loop in `toto_robot.training.tokenizer` passes images and a random generator to each
step. So a step depends only on its number and on the state of the trainer.
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
LEAST_SHARE = 1e-12  # lower limit of a share inside the logarithm of `usage_gap`


Trained = LightDVae | DalleDVae | Vqgan


@dataclass(frozen=True, kw_only=True, slots=True)
class Anneal:
    """A value with a cosine schedule (DALL-E, appendix A.2).

    Attributes:
        first: value at step 0.
        last: value from step ``steps`` on.
        steps: number of steps in which the value changes. With 0, the value is always ``last``.
    """

    first: float
    last: float
    steps: int

    def at(self, step: int) -> float:
        """Return the value at step number ``step``, counted from 0."""
        progress = min(1.0, step / self.steps) if self.steps else 1.0
        return self.last + (self.first - self.last) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Settings that all trainers share.

    Attributes:
        optimizer: settings of AdamW and of its learning-rate schedule.
        ranks: the process and the device of the training.
        precision: precision of matrix products.
    """

    optimizer: OptimizerConfig
    ranks: Ranks
    precision: Precision

    def arithmetic(self) -> AbstractContextManager[object]:
        """Return the autocast context of a forward pass, which sets the precision."""
        return arithmetic(self.ranks, self.precision)


class Reconstructed(NamedTuple):
    """A reconstruction of held-out images from discrete tokens.

    Attributes:
        loss: reconstruction loss.
        images: the reconstructed images. Values are in [0, 1] or slightly outside.
        ids: ids of the tokens, for i rows and j columns per image.
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
        """Train one step, and return values for the log.

        Args:
            images: images of side s, [b 3 s s], in [0, 1].
            lr: learning rate.
            step: number of the step, from 0.
            generator: random generator of this step.
        """
        ...

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Reconstruct images [b 3 s s] from discrete tokens."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint. The weights of ``tokenizer`` are saved separately."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned. The weights of ``tokenizer`` are loaded before."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LightRecipe:
    """Training settings of `LightDVae`, the small convolutional tokenizer.

    A weight of 0 disables its term. The default weights are 0, because the configs of the first
    shipped checkpoints do not contain these terms.

    Attributes:
        edge_weight: weight of the L1 loss on the differences of neighbouring pixels, horizontally
            and vertically. This term keeps edges sharp.
        colour_weight: weight of the L1 loss on the differences of two channels (red minus green,
            green minus blue). This term keeps the colour of small objects.
        saturation_weight: additional weight of the error of saturated pixels. A grey pixel has 0
            additional weight, a fully saturated pixel has this weight, and between them the weight
            grows linearly.
        usage_weight: weight of the divergence of the code distribution from the uniform
            distribution, nats (`usage_gap`). This term makes the tokenizer use all codes equally.
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
    """A trainer of `LightDVae`, whose codes come from finite scalar quantisation.

    The loss has L1 terms on pixels and their differences. A term that makes the tokenizer use all
    codes equally is optional.
    """

    def __init__(self, tokenizer: LightDVae, recipe: LightRecipe, setting: Setting) -> None:
        self.tokenizer = tokenizer
        self._recipe, self._setting = recipe, setting
        self._optimizer = build_optimizer(tokenizer, setting.optimizer)

    def step(
        self, images: Tensor, lr: float, step: int, generator: torch.Generator
    ) -> dict[str, float | Tensor]:
        """Train one step, and return values for the log. `Trainer.step` explains the arguments."""
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
        """Reconstruct images [b 3 s s] from discrete tokens, and compute the loss."""
        reconstruction, codes = self.tokenizer(images)
        loss = reconstruction_loss(reconstruction, images, self._recipe)
        return Reconstructed(loss, reconstruction, self.tokenizer.ids(codes))

    def state(self) -> dict[str, Any]:
        """Return the state of the optimizer."""
        return {"optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state of the optimizer."""
        self._optimizer.load_state_dict(state["optimizer"])


def reconstruction_loss(
    reconstruction: Float[Tensor, "b 3 h w"], images: Float[Tensor, "b 3 h w"], recipe: LightRecipe
) -> Float[Tensor, ""]:
    """Return the weighted sum of the L1 losses on pixels and on their differences.

    There is no perceptual loss, because its network is trained with ImageNet labels, which the
    paper avoids (section 3.4).
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
    """Return the saturation of each pixel: its largest channel minus its smallest channel.

    The saturation is 0 for grey and 1 for a pure colour such as red.
    """
    return images.amax(1, keepdim=True) - images.amin(1, keepdim=True)


def usage_gap(bounded: Float[Tensor, "b c i j"], levels: Int64[Tensor, " c"]) -> Float[Tensor, ""]:
    """Return how far the code distribution of a batch is from uniform: a KL divergence in nats.

    Counts of codes have no gradient. Therefore each token is assigned to all levels of each channel
    with shares that fall with the distance between its latent and the level. The share of a token
    in a code is the product of the shares over the channels. The mean shares of all codes (8192 for
    the shipped tokenizer) are computed as one product of two matrices.

    Args:
        bounded: latents before rounding, with c channels, i rows and j columns per image.
        levels: number of quantisation levels of each channel.
    """
    shares = []
    for channel, count in enumerate(levels.tolist()):
        centres = torch.arange(count, device=bounded.device) - count // 2
        distance = (bounded[:, channel].reshape(-1, 1) - centres) / SHARING_WIDTH  # n l
        shares.append((-distance.square() / 2).softmax(1))
    start, middle = torch.ones_like(shares[0][:, :1]), len(shares) // 2
    first, second = (_outer(start, part) for part in (shares[:middle], shares[middle:]))
    mean = (first.T @ second).flatten() / len(first)
    # a share may underflow to 0, and the gradient of log(0) is infinite
    return math.log(len(mean)) + (mean * mean.clamp_min(LEAST_SHARE).log()).sum()


def _outer(
    start: Float[Tensor, "n 1"], shares: Sequence[Float[Tensor, "n _"]]
) -> Float[Tensor, "n m"]:
    """Return, for each of n rows, the m products of one value from each array of ``shares``."""
    product = start
    for part in shares:
        product = (product[:, :, None] * part[:, None, :]).flatten(1)
    return product
