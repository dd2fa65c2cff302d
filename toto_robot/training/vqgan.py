"""Train a VQGAN (Esser et al., arXiv 2012.09841, section 3.1).

The loss has an L1 term on the pixels and two codebook terms. From a given step on, it also has an
adversarial term, for which a patch discriminator (Isola et al., arXiv 1611.07004) is trained with
the hinge loss. In each step, the weight of the adversarial term is set so that both this term and
the reconstruction loss have equally large gradients at the last layer (equation 7). A perceptual
term is used only if the user has its weights (see `toto_robot.training.perceptual`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ..tokenizers import Vqgan
from .optimizer import build_optimizer, descend
from .perceptual import load_perceptual
from .reconstruction import Reconstructed, Setting

__all__ = [
    "Adversary",
    "PatchDiscriminator",
    "Perceptual",
    "VqganRecipe",
    "VqganTrainer",
    "adapted_weight",
    "codebook_terms",
]

LARGEST_WEIGHT = 1e4  # limit of the adversarial weight, which grows if that gradient vanishes


@dataclass(frozen=True, kw_only=True, slots=True)
class Perceptual:
    """Settings of the perceptual loss.

    Attributes:
        vgg: file with the weights of VGG16 from torchvision.
        linear: file with the channel weights of LPIPS.
        weight: weight of the perceptual loss, relative to the L1 loss of images in [-1, 1].
    """

    vgg: Path
    linear: Path
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Adversary:
    """Settings of the patch discriminator.

    Attributes:
        first_step: number of the first step in which the discriminator is used.
        weight: factor that multiplies the adapted weight of the adversarial term.
        width: number of channels of the first layer.
        layers: number of convolutions with stride 2.
    """

    first_step: int
    weight: float
    width: int
    layers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VqganRecipe:
    """Training settings of `Vqgan`.

    Attributes:
        codebook_weight: weight of the term that moves code vectors towards the latents.
        commitment_weight: weight of the term that moves latents towards their code vectors.
        restart_every: number of steps between two restarts of unused codes (Jukebox, arXiv
            2005.00341, section 3.1). A restart sets each code that was not used since the last
            restart to a random latent of the batch. At step 0, it sets all codes. null never
            restarts, as in the program of the VQGAN authors. Then, in a small run with a
            small learning rate, all latents and codes can stay near zero.
        adversary: settings of the discriminator. null trains without a discriminator.
        perceptual: settings of the perceptual loss. null trains without this loss, so that no
            ImageNet labels are used.
    """

    kind: ClassVar[str] = "vqgan"
    codebook_weight: float
    commitment_weight: float
    restart_every: int | None
    adversary: Adversary | None
    perceptual: Perceptual | None


class PatchDiscriminator(nn.Module):
    """A network that predicts, for each patch of an image, whether the image is real.

    The image is a training image (real) or a reconstruction.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            parts += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(widths[i]),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for part in self.main.children():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logit of "real" for i x j patches [b 1 i j] of images [b 3 s s] in [-1, 1]."""
        return self.main(images)


class VqganTrainer:
    """A trainer of the VQGAN and, if the recipe has one, of the discriminator.

    Each of the two has its own optimizer.
    """

    def __init__(self, tokenizer: Vqgan, recipe: VqganRecipe, setting: Setting) -> None:
        self.tokenizer = tokenizer
        self._recipe, self._setting = recipe, setting
        self._optimizer = build_optimizer(tokenizer, setting.optimizer)
        place = setting.ranks.device
        self._chosen = torch.zeros(tokenizer.vocab_size, dtype=torch.bool, device=place)
        self._discriminator = self._other_optimizer = None
        if recipe.adversary is not None:
            self._discriminator = PatchDiscriminator(
                recipe.adversary.width, recipe.adversary.layers
            ).to(place)
            self._other_optimizer = build_optimizer(self._discriminator, setting.optimizer)
        self._perceptual = None
        if recipe.perceptual is not None:
            files = recipe.perceptual
            self._perceptual = load_perceptual(files.vgg, files.linear).to(place)

    def step(
        self, images: Tensor, lr: float, step: int, generator: torch.Generator
    ) -> dict[str, float | Tensor]:
        """Train one step, and return values for the log. `Trainer.step` explains the arguments.

        The discriminator is trained only from `Adversary.first_step` on.
        """
        recipe, clip = self._recipe, self._setting.optimizer.clip_norm
        if recipe.restart_every is not None and step % recipe.restart_every == 0:
            self._restart(images, generator)
        with self._setting.arithmetic():
            reconstruction, latents, vectors, ids = self.tokenizer(images)
        self._chosen[ids.flatten()] = True
        real, made = images * 2 - 1, reconstruction.float() * 2 - 1
        codebook, commitment = codebook_terms(latents.float(), vectors.float())
        likelihood = self._distance(made, real)
        log: dict[str, float | Tensor] = {
            "likelihood_loss": likelihood.detach(),
            "commitment": commitment.detach(),
        }
        loss = (
            likelihood + recipe.codebook_weight * codebook + recipe.commitment_weight * commitment
        )
        adversary, critic = recipe.adversary, self._discriminator
        adversarial = adversary is not None and critic is not None and step >= adversary.first_step
        if adversary is not None and critic is not None and adversarial:
            critic.requires_grad_(False)
            with self._setting.arithmetic():
                fooled = -critic(made).float().mean()
            critic.requires_grad_(True)
            last = self.tokenizer.get_parameter("decoder.conv_out.weight")
            weight = adversary.weight * adapted_weight(likelihood, fooled, last)
            loss = loss + weight * fooled
            log |= {"adversary_weight": weight, "generator_loss": fooled.detach()}
        norm = descend(self.tokenizer, self._optimizer, loss, clip, lr)
        log |= {"loss": loss.detach(), "gradient_norm": norm, "lr": lr}
        if critic is not None and self._other_optimizer is not None and adversarial:
            with self._setting.arithmetic():
                logits = critic(real).float(), critic(made.detach()).float()
            hinge = 0.5 * (relu(1 - logits[0]).mean() + relu(1 + logits[1]).mean())
            descend(critic, self._other_optimizer, hinge, clip, lr)
            log["discriminator_loss"] = hinge.detach()
        return log

    @torch.no_grad()
    def _restart(self, images: Tensor, generator: torch.Generator) -> None:
        """Set each code that was not used recently to a random latent of the batch."""
        with self._setting.arithmetic():
            latents = self.tokenizer.latents(images).float().movedim(1, -1).flatten(0, 2)
        drawn = torch.randint(
            len(latents), (len(self._chosen),), generator=generator, device=latents.device
        )
        codebook = self.tokenizer.codebook
        codebook.copy_(torch.where(self._chosen[:, None], codebook, latents[drawn]))
        self._chosen.zero_()

    def _distance(self, made: Tensor, real: Tensor) -> Tensor:
        loss = (made - real).abs().mean()
        if self._perceptual is not None and self._recipe.perceptual is not None:
            with self._setting.arithmetic():
                distance = self._perceptual(made, real).float()
            loss = loss + self._recipe.perceptual.weight * distance
        return loss

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Reconstruct images from discrete tokens. The loss has no adversarial term."""
        ids = self.tokenizer.nearest(self.tokenizer.latents(images))
        made = self.tokenizer.reconstruct(self.tokenizer.vectors(ids))
        return Reconstructed(self._distance(made * 2 - 1, images * 2 - 1), made, ids)

    def state(self) -> dict[str, Any]:
        """Return the state of optimizers and discriminator, and which codes were used recently."""
        state: dict[str, Any] = {
            "optimizer": self._optimizer.state_dict(),
            "chosen": self._chosen,
        }
        if self._discriminator is not None and self._other_optimizer is not None:
            state["discriminator"] = self._discriminator.state_dict()
            state["discriminator_optimizer"] = self._other_optimizer.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._chosen.copy_(state["chosen"])
        if self._discriminator is not None and self._other_optimizer is not None:
            self._discriminator.load_state_dict(state["discriminator"])
            self._other_optimizer.load_state_dict(state["discriminator_optimizer"])


def codebook_terms(latents: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two codebook terms of the loss (equation 4).

    Both terms are the mean squared distance between latents and code vectors. The first term has
    gradients only for the code vectors, and the second only for the latents. The program
    of the authors multiplies the first term by 0.25 instead of the second. The authors know this
    mistake, and keep it for compatibility. Here, each weight applies to the term of the paper.
    """
    codebook = (vectors - latents.detach()).square().mean()
    commitment = (vectors.detach() - latents).square().mean()
    return codebook, commitment


def adapted_weight(likelihood: Tensor, fooled: Tensor, last: Tensor) -> Tensor:
    """Return the weight of the adversarial term that makes both gradients equally large.

    This is equation 7, with the constant 1e-4 that the program of the authors adds to the divisor.

    Args:
        likelihood: reconstruction loss.
        fooled: adversarial term of the loss.
        last: weights of the last layer, for which both gradients are computed.
    """
    (one,) = torch.autograd.grad(likelihood, last, retain_graph=True)
    (other,) = torch.autograd.grad(fooled, last, retain_graph=True)
    return (one.norm() / (other.norm() + 1e-4)).clamp(max=LARGEST_WEIGHT).detach()
