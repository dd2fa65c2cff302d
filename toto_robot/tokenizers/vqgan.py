"""VQGAN tokenizers with the architecture of taming-transformers (Esser et al., arXiv 2012.09841).

The encoder is convolutional, with attention at its coarsest level. The codebook has 1024 or 16384
learned vectors. The token of a cell of 16 x 16 pixels is the index of the vector that is nearest to
the encoder's output. A decoder reconstructs the frame. The parameters have the names of the
published Lightning checkpoints (github.com/CompVis/taming-transformers,
``taming.models.vqgan.VQModel``). So a published state dict can be loaded after its entries with
``loss.`` are removed.

The published weights were trained with a perceptual loss on VGG16, a network that was trained with
ImageNet's labels. For this reason the paper prefers the DALL-E dVAE (section 3.4).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from .tokenizer import check_frames, check_ids, frames_to_unit, unit_to_frames

__all__ = ["Vqgan", "VqganConfig"]

GROUPS = 32  # of every GroupNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class VqganConfig:
    """The sizes of `Vqgan`.

    The published models with 16 x 16 pixels per token have `width` 128, `multipliers`
    (1, 1, 2, 2, 4), `blocks` 2, `latent` 256 and `embedding` 256.

    Attributes:
        image_size: side of the square input, pixels; with five levels, 256 makes 16 x 16 tokens.
        width: number of channels that the ``multipliers`` refer to; a multiple of 32.
        multipliers: factor of the number of channels at each level, from the finest level to the
            coarsest. Each level except the last halves the side.
        blocks: number of residual blocks per level; the decoder has one more.
        attention_levels: numbers of the levels, from 0, in which attention follows each block.
        latent: number of channels between encoder and codebook.
        embedding: number of values in the vector of a code.
        vocab_size: number of codes, 1024 or 16384 in the published models.
    """

    kind: ClassVar[str] = "vqgan"
    image_size: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    latent: int
    embedding: int
    vocab_size: int

    def __post_init__(self) -> None:
        """Check that the sizes are consistent."""
        if self.width <= 0 or self.width % GROUPS:
            raise ValueError(f"width must be a positive multiple of {GROUPS}, got {self.width}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must each be at least 1, got {self.multipliers}")
        if self.image_size <= 0 or self.image_size % self.pixels:
            raise ValueError(
                f"image_size must be a positive multiple of {self.pixels} pixels, "
                f"got {self.image_size}"
            )
        if wrong := [i for i in self.attention_levels if not 0 <= i < len(self.multipliers)]:
            raise ValueError(
                f"attention_levels must be in [0, {len(self.multipliers)}), got {wrong}"
            )

    @property
    def pixels(self) -> int:
        """Side of the image cell that a token represents, pixels."""
        return 2 ** (len(self.multipliers) - 1)

    def build(self) -> "Vqgan":
        """Return a `Vqgan` of these sizes with initial weights."""
        return Vqgan(self)


class Vqgan(nn.Module):
    """A vector-quantised autoencoder; the docstring of this module describes it."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.vocab_size = config.vocab_size
        self.side = config.image_size // config.pixels
        self.tokens_per_frame = self.side**2
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(config.vocab_size, config.embedding)
        nn.init.uniform_(self.codebook, -1 / config.vocab_size, 1 / config.vocab_size)
        self.quant_conv = nn.Conv2d(config.latent, config.embedding, 1)
        self.post_quant_conv = nn.Conv2d(config.embedding, config.latent, 1)

    @property
    def codebook(self) -> Float[Tensor, "v e"]:
        """The vectors of the v codes, with e values each."""
        return self.get_parameter("quantize.embedding.weight")

    def encode(self, frames: UInt8[Tensor, "b h w 3"]) -> Int64[Tensor, "b n"]:
        """Return the tokens of b RGB frames of any size, n tokens each, in raster order."""
        images = frames_to_unit(
            check_frames(frames).to(self.codebook.device), self.image_size, self.codebook.dtype
        )
        return self.nearest(self.latents(images)).flatten(1)

    def decode(self, ids: Int64[Tensor, "b n"]) -> UInt8[Tensor, "b s s 3"]:
        """Return the RGB frames reconstructed from tokens.

        Raises:
            ValueError: ids are outside the vocabulary, or there are not ``tokens_per_frame`` per
                frame.
        """
        check_ids(ids, self.vocab_size, self.tokens_per_frame)
        return unit_to_frames(self.reconstruct(self.vectors(ids.unflatten(1, (self.side, -1)))))

    def latents(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b e i j"]:
        """Return the encoder's output for images in [0, 1]: e values for each of i x j tokens."""
        return self.quant_conv(self.encoder(images * 2 - 1))

    def nearest(self, latents: Float[Tensor, "b e i j"]) -> Int64[Tensor, "b i j"]:
        """Return the tokens whose code vectors are nearest to the latents (Euclidean distance)."""
        # half precision cannot distinguish 16384 distances
        with torch.autocast(latents.device.type, enabled=False):
            codes, flat = self.codebook.float(), latents.float().movedim(1, -1)
            # the square of the latent is equal for all codes, so it is omitted
            return (codes.square().sum(1) - 2 * flat @ codes.T).argmin(-1)

    def vectors(self, ids: Int64[Tensor, "b i j"]) -> Float[Tensor, "b e i j"]:
        """Return the code vectors of tokens, e values each."""
        return self.codebook[ids].movedim(-1, 1)

    def reconstruct(self, vectors: Float[Tensor, "b e i j"]) -> Float[Tensor, "b 3 s s"]:
        """Return images, approximately in [0, 1], from code vectors."""
        return (self.decoder(self.post_quant_conv(vectors)) + 1) / 2

    def forward(
        self, images: Float[Tensor, "b 3 s s"]
    ) -> tuple[
        Float[Tensor, "b 3 s s"],
        Float[Tensor, "b e i j"],
        Float[Tensor, "b e i j"],
        Int64[Tensor, "b i j"],
    ]:
        """Return the reconstruction of images in [0, 1], the latents, code vectors and tokens.

        The gradient of the reconstruction passes to the latents as if they were not quantised.
        """
        latents = self.latents(images)
        ids = self.nearest(latents)
        vectors = self.vectors(ids)
        reconstruction = self.reconstruct(latents + (vectors - latents).detach())
        return reconstruction, latents, vectors, ids


class _Encoder(nn.Module):
    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        previous = config.width
        for i, width in enumerate(widths):
            level = _level(previous, width, config.blocks, i in config.attention_levels)
            if i < len(widths) - 1:
                level.downsample = _Downsample(width)
            self.down.append(level)
            previous = width
        self.mid = _middle(previous)
        self.norm_out = _norm(previous)
        self.conv_out = nn.Conv2d(previous, config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = _through(level, x)
        return self.conv_out(silu(self.norm_out(_through_middle(self.mid, x))))


class _Decoder(nn.Module):
    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        previous = widths[-1]
        self.conv_in = nn.Conv2d(config.latent, previous, 3, padding=1)
        self.mid = _middle(previous)
        levels: list[nn.Module] = []
        for i, width in reversed(list(enumerate(widths))):
            level = _level(previous, width, config.blocks + 1, i in config.attention_levels)
            if i > 0:
                level.upsample = _Upsample(width)
            levels.append(level)
            previous = width
        self.up = nn.ModuleList(reversed(levels))  # published names count from the finest level
        self.norm_out = _norm(previous)
        self.conv_out = nn.Conv2d(previous, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = _through_middle(self.mid, self.conv_in(x))
        for level in reversed(self.up):
            x = _through(level, x)
        return self.conv_out(silu(self.norm_out(x)))


def _level(width_in: int, width: int, blocks: int, attention: bool) -> nn.Module:
    level = nn.Module()
    level.block = nn.ModuleList(
        _ResnetBlock(width_in if i == 0 else width, width) for i in range(blocks)
    )
    level.attn = nn.ModuleList(_Attention(width) for _ in range(blocks if attention else 0))
    return level


def _through(level: nn.Module, x: Tensor) -> Tensor:
    parts = dict(level.named_children())
    attentions = list(parts["attn"].children())
    for i, block in enumerate(parts["block"].children()):
        x = block(x)
        if attentions:
            x = attentions[i](x)
    for name in ("downsample", "upsample"):
        if name in parts:
            x = parts[name](x)
    return x


def _middle(width: int) -> nn.Module:
    middle = nn.Module()
    middle.block_1 = _ResnetBlock(width, width)
    middle.attn_1 = _Attention(width)
    middle.block_2 = _ResnetBlock(width, width)
    return middle


def _through_middle(middle: nn.Module, x: Tensor) -> Tensor:
    for part in middle.children():
        x = part(x)
    return x


class _ResnetBlock(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if width_in != width:
            self.nin_shortcut = nn.Conv2d(width_in, width, 1)
        self._narrow = width_in == width

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        return inner + (x if self._narrow else self.nin_shortcut(x))


class _Attention(nn.Module):
    """A layer of attention with one head, over all cells of the grid of tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (part(normed).flatten(2).mT[:, None] for part in (self.q, self.k, self.v))
        mixed = scaled_dot_product_attention(q, k, v)[:, 0].mT  # b c n
        return x + self.proj_out(mixed.unflatten(2, x.shape[2:]))


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad(x, (0, 1, 0, 1)))  # only right and below, as in the original


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=1e-6)
