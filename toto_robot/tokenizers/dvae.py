"""Discrete VAE tokenizers: our small convolutional one (`light`), and DALL-E's dVAE.

Both convert an RGB frame of 128 x 128 pixels to 16 x 16 tokens from a vocabulary of 8192 codes
(paper section 3.4).

`LightDVae` is the architecture of the tokenizer in toto-nano. It needs about 0.5 GFLOP (1e9
floating-point operations) per frame. The DALL-E encoder needs 68 GFLOP, 65-70 % of all operations
of an encoder that consists of it and the paper's base model. DALL-E computes a softmax over 8192
codes. `LightDVae` uses finite scalar quantisation (Mentzer et al., arXiv 2309.15505) instead: five
channels are rounded to 8, 8, 8, 4 and 4 levels, whose product is 8192. Seen as a discrete VAE,
`LightDVae` has a deterministic posterior and a uniform prior. So the KL term of the loss is
constant (log 8192), and only the reconstruction is trained. There is no learned codebook, of which
parts could stay unused. No layer mixes the whole frame, so a token depends only on its
neighbourhood.

`DalleDVae` is OpenAI's module (Ramesh et al. 2021). It has the widths, depths and parameter names
of the published encoder and decoder, whose convolutions have parameters ``w`` and ``b``.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pixel_shuffle, silu

from .tokenizer import check_frames, check_ids, frames_to_unit, unit_to_frames

__all__ = [
    "MARGIN",
    "DalleConfig",
    "DalleDVae",
    "LightConfig",
    "LightDVae",
    "laplace_mean",
    "with_margin",
]

MARGIN = 0.1  # margin of the logit-Laplace likelihood: dall_e.utils.logit_laplace_eps


@dataclass(frozen=True, kw_only=True, slots=True)
class LightConfig:
    """The sizes of `LightDVae`.

    Attributes:
        image_size: side of the input, pixels; a multiple of 8.
        levels: number of levels of each quantised channel; the product is the vocabulary size.
        widths: numbers of the encoder's channels at 1/4 and at 1/8 of the input resolution.
        blocks: numbers of the encoder's residual blocks at 1/4 and at 1/8 of the resolution.
        decoder_widths: numbers of the decoder's channels at 1/8, 1/4 and 1/2 of the resolution.
        decoder_blocks: numbers of the decoder's residual blocks at 1/8, 1/4 and 1/2 of the
            resolution.
    """

    kind: ClassVar[str] = "light"
    image_size: int
    levels: tuple[int, ...]
    widths: tuple[int, int]
    blocks: tuple[int, int]
    decoder_widths: tuple[int, int, int]
    decoder_blocks: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Check that the image size and the levels are valid."""
        if self.image_size <= 0 or self.image_size % 8:
            raise ValueError(
                f"image_size must be a positive multiple of 8 pixels, got {self.image_size}"
            )
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels must each be at least 2, got {self.levels}")

    def build(self) -> "LightDVae":
        """Return a `LightDVae` of these sizes with initial weights."""
        return LightDVae(self)


class LightDVae(nn.Module):
    """A small discrete VAE with 8 x 8 pixels per token and finite scalar quantisation."""

    levels: Tensor
    basis: Tensor

    def __init__(self, config: LightConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.vocab_size = math.prod(config.levels)
        self.tokens_per_frame = (config.image_size // 8) ** 2
        channels = len(config.levels)
        quarter, eighth = config.widths
        self.encoder = _named(
            stem=nn.Conv2d(3 * 16, quarter, 3, padding=1),
            blocks_quarter=nn.Sequential(
                *(_ResidualBlock(quarter) for _ in range(config.blocks[0]))
            ),
            down=nn.Conv2d(quarter, eighth, 4, stride=2, padding=1),
            blocks_eighth=nn.Sequential(*(_ResidualBlock(eighth) for _ in range(config.blocks[1]))),
            act=nn.SiLU(),
            head=nn.Conv2d(eighth, channels, 1),
        )
        d_eighth, d_quarter, d_half = config.decoder_widths
        n_eighth, n_quarter, n_half = config.decoder_blocks
        self.decoder = _named(
            stem=nn.Conv2d(channels, d_eighth, 3, padding=1),
            blocks_eighth=nn.Sequential(*(_ResidualBlock(d_eighth) for _ in range(n_eighth))),
            up_quarter=nn.Conv2d(d_eighth, 4 * d_quarter, 1),
            shuffle_quarter=nn.PixelShuffle(2),
            blocks_quarter=nn.Sequential(*(_ResidualBlock(d_quarter) for _ in range(n_quarter))),
            up_half=nn.Conv2d(d_quarter, 4 * d_half, 1),
            shuffle_half=nn.PixelShuffle(2),
            blocks_half=nn.Sequential(*(_ResidualBlock(d_half) for _ in range(n_half))),
            act=nn.SiLU(),
            head=nn.Conv2d(d_half, 3 * 4, 3, padding=1),
        )
        levels = torch.tensor(config.levels)
        basis = torch.cumprod(torch.tensor([1, *config.levels[:-1]]), dim=0)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("basis", basis, persistent=False)

    def encode(self, frames: UInt8[Tensor, "b h w 3"]) -> Int64[Tensor, "b n"]:
        """Return the tokens of b RGB frames of any size, n tokens each, in raster order."""
        weight = next(self.parameters())
        images = frames_to_unit(
            check_frames(frames).to(weight.device), self.image_size, weight.dtype
        )
        return self.ids(self.bottleneck(images)).flatten(1)

    def decode(self, ids: Int64[Tensor, "b n"]) -> UInt8[Tensor, "b s s 3"]:
        """Return the RGB frames reconstructed from tokens.

        Raises:
            ValueError: ids are outside the vocabulary, or there are not ``tokens_per_frame`` per
                frame.
        """
        check_ids(ids, self.vocab_size, self.tokens_per_frame)
        side = self.image_size // 8
        digits = (
            ids.unflatten(1, (1, side, side))
            // self.basis[:, None, None]
            % self.levels[:, None, None]
        )
        codes = (digits - (self.levels // 2)[:, None, None]).to(next(self.parameters()).dtype)
        return unit_to_frames(self.reconstruct(codes))

    def bottleneck(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c i j"]:
        """Return the codes of images in [0, 1], bounded but not rounded (arXiv 2309.15505).

        Each of i x j tokens has c channels.
        """
        raw = self.encoder(_cells_to_channels(images * 2 - 1, 4))
        half = (self.levels - 1).float()[:, None, None] * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)[:, None, None]
        shift = torch.atanh(offset / half)
        return torch.tanh(raw + shift) * half - offset

    def quantise(self, bounded: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c i j"]:
        """Round codes; the gradient passes as if they were not rounded (straight-through)."""
        return bounded + (bounded.round() - bounded).detach()

    def ids(self, codes: Float[Tensor, "b c i j"]) -> Int64[Tensor, "b i j"]:
        """Return the tokens of codes, which need not be rounded."""
        digits = codes.round().long() + (self.levels // 2)[:, None, None]
        return (digits * self.basis[:, None, None]).sum(1)

    def reconstruct(self, codes: Float[Tensor, "b c i j"]) -> Float[Tensor, "b 3 s s"]:
        """Return images, approximately in [0, 1], from rounded codes."""
        scaled = codes / (self.levels // 2)[:, None, None]
        return (pixel_shuffle(self.decoder(scaled), 2) + 1) / 2

    def forward(
        self, images: Float[Tensor, "b 3 s s"]
    ) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b c i j"]]:
        """Return the reconstruction of images in [0, 1], and the rounded codes.

        The gradient passes as if the codes were not rounded (straight-through).
        """
        codes = self.quantise(self.bottleneck(images))
        return self.reconstruct(codes), codes


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.conv_out.parameters():
            # the block starts as the identity, so that deep stacks train without norms
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_out(silu(self.conv_in(silu(x))))


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleConfig:
    """The sizes of `DalleDVae`.

    OpenAI's model has `hidden` 256, `decoder_init` 128, `blocks_per_group` 2 and `vocab_size` 8192.

    Attributes:
        image_size: side of the input, pixels; a multiple of 8.
        hidden: number of channels of the first group; the four groups have 1, 2, 4 and 8 times this
            number.
        decoder_init: number of channels after the decoder's first convolution; null: there is no
            decoder, as in some published files.
        blocks_per_group: number of residual blocks in each of the four groups.
        vocab_size: number of codes.
    """

    kind: ClassVar[str] = "dalle"
    image_size: int
    hidden: int
    decoder_init: int | None
    blocks_per_group: int
    vocab_size: int

    def __post_init__(self) -> None:
        """Check that the image size is valid."""
        if self.image_size <= 0 or self.image_size % 8:
            raise ValueError(
                f"image_size must be a positive multiple of 8 pixels, got {self.image_size}"
            )

    def build(self) -> "DalleDVae":
        """Return a `DalleDVae` of these sizes with initial weights."""
        return DalleDVae(self)


class DalleDVae(nn.Module):
    """OpenAI's discrete VAE with its encoder and decoder (github.com/openai/DALL-E).

    ``encoder`` and ``decoder`` have the parameter names of the published modules
    (``blocks.group_1.block_1...``), so ``encoder.load_state_dict`` accepts a published state dict.
    """

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.vocab_size = config.vocab_size
        self.tokens_per_frame = (config.image_size // 8) ** 2
        self.encoder = _DalleHalf(config, config.hidden, decoder=False)
        self.decoder = (
            None
            if config.decoder_init is None
            else _DalleHalf(config, config.decoder_init, decoder=True)
        )

    def encode(self, frames: UInt8[Tensor, "b h w 3"]) -> Int64[Tensor, "b n"]:
        """Return the tokens of b RGB frames of any size, n tokens each, in raster order.

        A token is the code with the highest logit.
        """
        weight = next(self.parameters())
        images = frames_to_unit(
            check_frames(frames).to(weight.device), self.image_size, weight.dtype
        )
        return self.logits(images).argmax(1).flatten(1)

    def logits(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b v i j"]:
        """Return the logits of the v codes at each of i x j tokens, for images in [0, 1]."""
        return self.encoder(with_margin(images))

    def decode(self, ids: Int64[Tensor, "b n"]) -> UInt8[Tensor, "b s s 3"]:
        """Return the RGB frames reconstructed from tokens.

        A frame is the mean of the logit-Laplace distribution that the decoder predicts.

        Raises:
            ValueError: there is no decoder, ids are outside the vocabulary, or there are not
                ``tokens_per_frame`` per frame.
        """
        check_ids(ids, self.vocab_size, self.tokens_per_frame)
        side = self.image_size // 8
        one_hot = nn.functional.one_hot(ids, self.vocab_size).to(next(self.parameters()).dtype)
        return unit_to_frames(
            laplace_mean(self.statistics(one_hot.transpose(1, 2).unflatten(2, (side, side))))
        )

    def statistics(self, codes: Float[Tensor, "b v i j"]) -> Float[Tensor, "b 6 s s"]:
        """Return the logit-Laplace distribution of each pixel: 3 means and 3 log scales.

        The input `codes` is a distribution over the v codes at each of i x j tokens.

        Raises:
            ValueError: there is no decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "this tokenizer has only an encoder, so it cannot decode: load OpenAI's "
                "decoder.pkl together with the encoder"
            )
        return self.decoder(codes)

    def mixed(self, dtype: torch.dtype) -> "DalleDVae":
        """Convert the groups to ``dtype``, in place, and return the module.

        The first and the last convolution stay in float32. With float16, the module equals OpenAI's
        module on a GPU. In half precision, many of the 8192 logits of the last convolution would
        be equal.
        """
        for half in (self.encoder, self.decoder):
            for name, group in half.blocks.named_children() if half is not None else ():
                if name.startswith("group_"):
                    group.to(dtype)
        return self


def with_margin(images: Tensor) -> Tensor:
    """Map images from [0, 1] to [0.1, 0.9], so that logits are finite (DALL-E, A.3)."""
    return images * (1 - 2 * MARGIN) + MARGIN


def laplace_mean(statistics: Float[Tensor, "b 6 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return images, approximately in [0, 1], from the statistics of a logit-Laplace distribution.

    The images are the mean of this distribution. `with_margin` is undone.
    """
    return (torch.sigmoid(statistics[:, :3]) - MARGIN) / (1 - 2 * MARGIN)


class _DalleHalf(nn.Module):
    """The encoder or the decoder of `DalleDVae`.

    The encoder begins with a 7 x 7 convolution, and has a max-pool after groups 1 to 3. The decoder
    begins with a 1 x 1 convolution, and doubles the side by nearest-neighbour interpolation.
    """

    def __init__(self, config: DalleConfig, first: int, *, decoder: bool) -> None:
        super().__init__()
        self.is_decoder = decoder
        widths = [config.hidden * m for m in ((8, 4, 2, 1) if decoder else (1, 2, 4, 8))]
        gain = 1 / (4 * config.blocks_per_group) ** 2
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        blocks["input"] = _RawConv(config.vocab_size if decoder else 3, first, 1 if decoder else 7)
        previous = first
        for g, width in enumerate(widths, start=1):
            group: OrderedDict[str, nn.Module] = OrderedDict()
            for b in range(1, config.blocks_per_group + 1):
                group[f"block_{b}"] = _DalleBlock(previous, width, gain, decoder)
                previous = width
            blocks[f"group_{g}"] = nn.Sequential(group)
        out = 6 if decoder else config.vocab_size
        blocks["output"] = _named(relu=nn.ReLU(), conv=_RawConv(previous, out, 1))
        self.blocks = nn.Sequential(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for name, module in self.blocks.named_children():
            x = module(x)
            if name in {"group_1", "group_2", "group_3"}:
                x = (
                    interpolate(x, scale_factor=2)
                    if self.is_decoder
                    else nn.functional.max_pool2d(x, 2)
                )
        return x


class _DalleBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, gain: float, decoder: bool) -> None:
        super().__init__()
        hidden = width_out // 4
        kernels = (1, 3, 3, 3) if decoder else (3, 3, 3, 1)
        self.gain = gain
        self.id_path = _RawConv(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        sizes = [width_in, hidden, hidden, hidden, width_out]
        path: OrderedDict[str, nn.Module] = OrderedDict()
        for i, kernel in enumerate(kernels, start=1):
            path[f"relu_{i}"] = nn.ReLU()
            path[f"conv_{i}"] = _RawConv(sizes[i - 1], sizes[i], kernel)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


class _RawConv(nn.Module):
    """A convolution whose parameters have the published names ``w`` and ``b``."""

    def __init__(self, width_in: int, width_out: int, kernel: int) -> None:
        super().__init__()
        self.padding = (kernel - 1) // 2
        self.w = nn.Parameter(
            torch.randn(width_out, width_in, kernel, kernel) / math.sqrt(width_in * kernel**2)
        )
        self.b = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor) -> Tensor:
        # cast as in the original: with mixed precision the input may have another dtype
        return conv2d(x.to(self.w.dtype), self.w, self.b, padding=self.padding)


def _cells_to_channels(images: Tensor, side: int) -> Tensor:
    """Move cells of `side` x `side` pixels to the channels, as `pixel_unshuffle` does.

    The ONNX export of `pixel_unshuffle` in torch 2.13 is not used, because it changes the order of
    the channels.
    """
    height, width = images.shape[2] // side, images.shape[3] // side
    cells = images.unflatten(3, (width, side)).unflatten(2, (height, side))  # b c i y j x
    return cells.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))
