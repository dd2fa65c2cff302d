"""Train DALL-E's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, appendix A).

The loss is the evidence lower bound. It has two terms. The first term is the negative logit-Laplace
likelihood of the reconstruction. The second term is the divergence of the token distribution from a
uniform prior. The weight of this term grows from 0 to well above 1 during training. Tokens are
drawn with the Gumbel-softmax relaxation, whose temperature falls.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..tokenizers import DalleDVae
from ..tokenizers.dvae import laplace_mean, with_margin
from .optimizer import build_optimizer, descend
from .reconstruction import Anneal, Reconstructed, Setting

__all__ = ["DalleRecipe", "DalleTrainer", "divergence", "gumbel_softmax", "logit_laplace_loss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleRecipe:
    """Training settings of `DalleDVae`.

    Attributes:
        temperature: schedule of the temperature of the Gumbel-softmax relaxation.
        divergence_weight: schedule of the weight of the divergence from the uniform prior. A weight
            of 1 adds the divergence, summed over the tokens of an image, to the negative log
            likelihood, summed over the pixel values of the image.
        average_decay: decay per step of the running average of the weights. The averaged weights
            are validated and saved.
    """

    kind: ClassVar[str] = "dalle"
    temperature: Anneal
    divergence_weight: Anneal
    average_decay: float

    def __post_init__(self) -> None:
        """Check the ranges of temperature and decay."""
        if min(self.temperature.first, self.temperature.last) <= 0:
            raise ValueError(f"temperature must stay above 0, got {self.temperature}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must be in [0, 1), got {self.average_decay}")


class DalleTrainer:
    """A trainer of `DalleDVae` with the recipe of DALL-E.

    `tokenizer` has a running average of the trained weights.
    """

    def __init__(self, tokenizer: DalleDVae, recipe: DalleRecipe, setting: Setting) -> None:
        if tokenizer.decoder is None:
            raise ValueError("tokenizer.decoder_init is null: a dVAE is trained with its decoder")
        self._trained = tokenizer
        self.tokenizer = copy.deepcopy(tokenizer).requires_grad_(False)
        self._recipe, self._setting = recipe, setting
        self._optimizer = build_optimizer(tokenizer, setting.optimizer)

    def step(
        self, images: Tensor, lr: float, step: int, generator: torch.Generator
    ) -> dict[str, float | Tensor]:
        """Train one step, and return values for the log.

        Args:
            images: images of side s, [b 3 s s], in [0, 1].
            lr: learning rate.
            step: number of the step, from 0.
            generator: random generator of the drawn tokens.
        """
        recipe, clip = self._recipe, self._setting.optimizer.clip_norm
        temperature, weight = recipe.temperature.at(step), recipe.divergence_weight.at(step)
        with self._setting.arithmetic():
            logits = self._trained.logits(images).float()
            codes = gumbel_softmax(logits, temperature, generator)
            statistics = self._trained.statistics(codes).float()
        likelihood = logit_laplace_loss(statistics, images)
        extra = divergence(logits)
        # Both terms are in nats per pixel value. In the paper, the weight is 6.6 / 192, where a
        # token has 192 pixel values (8 x 8 pixels, 3 channels).
        values_per_token = images[0].numel() / logits[0, 0].numel()
        loss = likelihood + weight / values_per_token * extra
        norm = descend(self._trained, self._optimizer, loss, clip, lr)
        self._average(step)
        return {
            "loss": loss.detach(),
            "likelihood_loss": likelihood.detach(),
            "divergence": extra.detach(),
            "divergence_weight": weight,
            "temperature": temperature,
            "gradient_norm": norm,
            "lr": lr,
        }

    @torch.no_grad()
    def _average(self, step: int) -> None:
        # The average is short at first, so that it does not contain the random initial weights.
        decay = min(self._recipe.average_decay, (1 + step) / (10 + step))
        for mean, now in zip(self.tokenizer.parameters(), self._trained.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Reconstruct images from discrete tokens, without the relaxation."""
        ids = self.tokenizer.logits(images).argmax(1)
        one_hot = nn.functional.one_hot(ids, self.tokenizer.vocab_size).movedim(-1, 1)
        statistics = self.tokenizer.statistics(one_hot.to(images.dtype))
        return Reconstructed(logit_laplace_loss(statistics, images), laplace_mean(statistics), ids)

    def state(self) -> dict[str, Any]:
        """Return the state of the optimizer, and the newest weights, which are not averaged."""
        return {"optimizer": self._optimizer.state_dict(), "trained": self._trained.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self._trained.load_state_dict(state["trained"])
        self._optimizer.load_state_dict(state["optimizer"])


def gumbel_softmax(
    logits: Float[Tensor, "b v i j"], temperature: float, generator: torch.Generator
) -> Float[Tensor, "b v i j"]:
    """Draw relaxed one-hot codes (Jang et al., arXiv 1611.01144, equation 2).

    v is the number of codes, and i and j are the rows and columns of the token grid.
    """
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
    # clamped to the smallest positive value of `rand`, because the logarithm of 0 is infinite
    noise = -torch.log(-torch.log(uniform.clamp(2**-24, 1 - 2**-24)))
    return torch.softmax((logits + noise) / temperature, dim=1)


def divergence(logits: Float[Tensor, "b v i j"]) -> Float[Tensor, ""]:
    """Return the KL divergence of each token's distribution from uniform, averaged, in nats."""
    log_share = logits.log_softmax(1)
    return math.log(logits.shape[1]) + (log_share.exp() * log_share).sum(1).mean()


def logit_laplace_loss(
    statistics: Float[Tensor, "b 6 h w"], images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, ""]:
    """Return the mean negative log likelihood of a pixel value, nats (appendix A.3, equation 3).

    The distribution of a pixel value is the sigmoid of a Laplace variable, so it lies in (0, 1).
    The loss can be below 0, because the likelihood is a density and not a probability.

    Args:
        statistics: three channels with the means of the Laplace variables, then three channels with
            the logarithms of their scales.
        images: the true images, in [0, 1].
    """
    mean, log_scale = statistics.chunk(2, dim=1)
    x = with_margin(images)
    distance = (torch.logit(x) - mean).abs() * torch.exp(-log_scale)
    return (math.log(2) + log_scale + torch.log(x) + torch.log1p(-x) + distance).mean()
