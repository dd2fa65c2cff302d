"""Training of DALL-E's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, appendix A).

The loss is the evidence lower bound of a discrete latent. Tokens are drawn by the Gumbel-softmax
relaxation with a falling temperature; the decoder's loss is the logit-Laplace likelihood. The prior
over tokens is uniform, and the weight of the divergence from it grows from 0 to well above 1.
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
        temperature: temperature of the Gumbel-softmax relaxation.
        divergence_weight: weight of the divergence from the uniform prior, summed over the tokens
            of an image, relative to the log likelihood summed over its pixels.
        average_decay: decay of the running average of the weights, which is validated and saved.
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
    """A trainer with Gumbel-softmax and logit-Laplace losses, and a running average of weights."""

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
        """Train one step; return values to log."""
        recipe, clip = self._recipe, self._setting.optimizer.clip_norm
        temperature, weight = recipe.temperature.at(step), recipe.divergence_weight.at(step)
        with self._setting.arithmetic():
            logits = self._trained.logits(images).float()
            codes = gumbel_softmax(logits, temperature, generator)
            statistics = self._trained.statistics(codes).float()
        likelihood = logit_laplace_loss(statistics, images)
        extra = divergence(logits)
        # both in nats per pixel value, as in the paper: 6.6 / 192 for 8 x 8 pixels
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
        # a shorter average at first, so that it does not keep the random initial weights
        decay = min(self._recipe.average_decay, (1 + step) / (10 + step))
        for mean, now in zip(self.tokenizer.parameters(), self._trained.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Return the reconstruction of images from hard tokens, and the likelihood loss."""
        ids = self.tokenizer.logits(images).argmax(1)
        one_hot = nn.functional.one_hot(ids, self.tokenizer.vocab_size).movedim(-1, 1)
        statistics = self.tokenizer.statistics(one_hot.to(images.dtype))
        return Reconstructed(logit_laplace_loss(statistics, images), laplace_mean(statistics), ids)

    def state(self) -> dict[str, Any]:
        """Return the optimizer's state, and the weights of which ``tokenizer`` is the average."""
        return {"optimizer": self._optimizer.state_dict(), "trained": self._trained.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self._trained.load_state_dict(state["trained"])
        self._optimizer.load_state_dict(state["optimizer"])


def gumbel_softmax(
    logits: Float[Tensor, "b v i j"], temperature: float, generator: torch.Generator
) -> Float[Tensor, "b v i j"]:
    """Draw relaxed one-hot codes (Jang et al., arXiv 1611.01144, equation 2)."""
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
    # clamped to the smallest positive number of rand, so that no logarithm is of 0
    noise = -torch.log(-torch.log(uniform.clamp(2**-24, 1 - 2**-24)))
    return torch.softmax((logits + noise) / temperature, dim=1)


def divergence(logits: Float[Tensor, "b v i j"]) -> Float[Tensor, ""]:
    """Return the mean KL divergence of a token's distribution from the uniform one, nats."""
    log_share = logits.log_softmax(1)
    return math.log(logits.shape[1]) + (log_share.exp() * log_share).sum(1).mean()


def logit_laplace_loss(
    statistics: Float[Tensor, "b 6 h w"], images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, ""]:
    """Return the mean negative log likelihood of a pixel value, nats (appendix A.3, equation 3).

    It is the density on (0, 1) of the sigmoid of a Laplace variable. The loss can be below 0,
    because it uses a density and not a probability.
    """
    mean, log_scale = statistics.chunk(2, dim=1)
    x = with_margin(images)
    distance = (torch.logit(x) - mean).abs() * torch.exp(-log_scale)
    return (math.log(2) + log_scale + torch.log(x) + torch.log1p(-x) + distance).mean()
