"""A masked autoencoder in one file (He et al. 2021, arXiv 2111.06377).

The encoder is a plain vision transformer that receives only a quarter of the patches of an image. A
small decoder receives the outputs of the encoder, and a mask token for each hidden patch. The
decoder predicts the pixels of the hidden patches. It is not used after training.

Parameters have the same names as in the files that the authors published, also in the decoder. So
this class can load those files, and `load_encoder(file, format="mae")` can load files of this
class.

Shapes: b batch, n patches, m hidden patches, t tokens (CLS and patches), d width, s image side.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..tokenizers.patch import from_patches, normalise_patches, to_patches
from ..tokenizers.tokenizer import frames_to_unit, unit_to_frames
from .causal import check_sizes
from .vision_transformer import Block, VisionTransformer, VitConfig

__all__ = ["MaeConfig", "MaskedAutoencoder", "mae_flops"]

DECODER_PARTS = ("mask_token", "decoder_")
POSITION_BASE = 10000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MaeConfig:
    """Sizes of a masked autoencoder.

    Attributes:
        encoder: sizes of the vision transformer, which is kept after training.
        mask_ratio: share of the patches that are hidden from the encoder, 0.75 in the paper.
        decoder_dim: width of the decoder's residual stream.
        decoder_layers: number of blocks of the decoder.
        decoder_heads: number of attention heads of the decoder.
        decoder_mlp_hidden: hidden width of the MLPs of the decoder.
    """

    encoder: VitConfig
    mask_ratio: float
    decoder_dim: int
    decoder_layers: int
    decoder_heads: int
    decoder_mlp_hidden: int

    def __post_init__(self) -> None:
        """Check that the sizes and the kind of positions are valid for a masked autoencoder."""
        check_sizes(self, "decoder_dim", "decoder_layers", "decoder_heads", "decoder_mlp_hidden")
        if not 1 <= self.kept < self.encoder.side**2:
            raise ValueError(
                f"mask_ratio must hide some of the {self.encoder.side**2} patches, but not all, "
                f"got {self.mask_ratio}"
            )
        if self.encoder.positions != "learned" or self.encoder.registers:
            raise ValueError(
                "encoder: positions must be learned (they are set to fixed sines) and "
                f"registers 0, got {self.encoder.positions} and {self.encoder.registers}"
            )
        for name in ("encoder.dim", "decoder_dim"):
            width = self.encoder.dim if name == "encoder.dim" else self.decoder_dim
            if width % 4:
                raise ValueError(f"{name} must be a multiple of 4, got {width}")

    @property
    def kept(self) -> int:
        """Number of visible patches per image. The encoder receives only these."""
        return int(self.encoder.side**2 * (1 - self.mask_ratio))

    @property
    def decoder(self) -> VitConfig:
        """Sizes of the decoder's blocks."""
        return replace(
            self.encoder,
            dim=self.decoder_dim,
            layers=self.decoder_layers,
            heads=self.decoder_heads,
            mlp_hidden=self.decoder_mlp_hidden,
        )

    def build(self) -> "MaskedAutoencoder":
        """Build the model with initialised weights."""
        return MaskedAutoencoder(self)


class MaskedAutoencoder(VisionTransformer):
    """A vision transformer with a decoder that predicts the patches hidden from the encoder."""

    def __init__(self, config: MaeConfig) -> None:
        super().__init__(config.encoder)
        self.mae = config
        dim, patches = config.decoder_dim, config.encoder.side**2
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.decoder_embed = nn.Linear(config.encoder.dim, dim)
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, 1 + patches, dim))
        self.decoder_blocks = nn.ModuleList(
            Block(config.decoder) for _ in range(config.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(dim, eps=config.encoder.norm_eps)
        self.decoder_pred = nn.Linear(dim, 3 * config.encoder.patch_size**2)
        for positions in (self.pos_embed, self.decoder_pos_embed):
            assert positions is not None  # MaeConfig rejects rotary positions
            positions.requires_grad_(False)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all weights with the rules of the authors.

        Matrices have Xavier initialisation. Positions are sines and cosines, which are not trained.
        """
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))  # a tensor view, set in place
        for name, parameter in self.named_parameters():
            if name in ("cls_token", "mask_token"):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("pos_embed"):
                nn.init.zeros_(parameter)
                with torch.no_grad():
                    parameter[0, 1:] = _sines(self.config.side, parameter.shape[2])

    @property
    def layers(self) -> nn.ModuleList:
        """Blocks of the encoder, which training shards, compiles and recomputes one by one."""
        return self.blocks

    def loss(
        self, frames: UInt8[Tensor, "b s s 3"], order: Int64[Tensor, "b n"]
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the predicted pixels in the hidden patches.

        The target pixels of a patch are normalised with the mean and variance of the patch.

        Args:
            frames: images of the encoder's size.
            order: permutation of the patches of each image. The first `kept` patches are visible.
        """
        images = self._standardise(frames)
        hidden = order[:, self.mae.kept :]
        targets = normalise_patches(to_patches(images, self.config.patch_size))
        found = self.decoder_pred(_take(self._decode(images, order), hidden))
        return mse_loss(found.float(), _take(targets, hidden))

    @torch.no_grad()
    def reconstruct(
        self, frames: UInt8[Tensor, "b s s 3"], order: Int64[Tensor, "b n"]
    ) -> tuple[UInt8[Tensor, "b s s 3"], UInt8[Tensor, "b s s 3"]]:
        """Return two versions of each image: visible patches on grey, and with predicted patches.

        In the second version, predicted patches replace the hidden patches. The model does not
        predict the mean and variance of a patch, so these are taken from the original image.
        """
        pixels = to_patches(
            frames_to_unit(frames, self.config.image_size, torch.float32), self.config.patch_size
        )
        images = self._standardise(frames)
        targets = to_patches(images, self.config.patch_size)
        hidden = order[:, self.mae.kept :]
        predicted = self.decoder_pred(_take(self._decode(images, order), hidden)).float()
        wanted = _take(targets, hidden)
        predicted = predicted * wanted.std(-1, keepdim=True) + wanted.mean(-1, keepdim=True)
        std = torch.tensor(self.config.std).repeat(self.config.patch_size**2)
        mean = torch.tensor(self.config.mean).repeat(self.config.patch_size**2)
        index = hidden[..., None].expand_as(predicted)
        shown = pixels.scatter(1, index, 0.5)
        filled = pixels.scatter(1, index, predicted * std + mean)
        return self._to_frames(shown), self._to_frames(filled)

    def encoder_weights(self) -> dict[str, Tensor]:
        """Return the weights of the encoder, under the parameter names of `VisionTransformer`."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith(DECODER_PARTS)
        }

    def _standardise(self, frames: Tensor) -> Float[Tensor, "b 3 s s"]:
        images = frames_to_unit(frames, self.config.image_size, torch.float32)
        mean, std = (
            images.new_tensor(values)[:, None, None]
            for values in (self.config.mean, self.config.std)
        )
        return (images - mean) / std

    def _decode(self, images: Tensor, order: Tensor) -> Float[Tensor, "b n d"]:
        """Return the output of the decoder for all n patches, visible and hidden."""
        shown = order[:, : self.mae.kept]
        assert self.pos_embed is not None
        patches = _take(self.patch_embed(images) + self.pos_embed[:, 1:], shown)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        x = torch.cat([cls, patches], dim=1)
        for block in self.blocks:
            x = block(x, None)
        x = self.decoder_embed(self.norm(x))
        slots = self.mask_token.to(x.dtype).expand(len(x), order.shape[1], -1)
        slots = slots.scatter(1, shown[..., None].expand(-1, -1, x.shape[2]), x[:, 1:])
        x = torch.cat([x[:, :1], slots], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x, None)
        return self.decoder_norm(x)[:, 1:]

    def _to_frames(self, tokens: Tensor) -> Tensor:
        return unit_to_frames(from_patches(tokens, self.config.patch_size))


def mae_flops(config: MaeConfig) -> float:
    """Return the floating-point operations per training image, forward and backward.

    `model_flops` explains the rules of the count.
    """
    encoder, decoder = config.encoder, config.decoder
    patches, shown = encoder.side**2, config.kept + 1
    pixels = 3 * encoder.patch_size**2
    weights = patches * pixels * encoder.dim + shown * _block_weights(encoder) * encoder.layers
    weights += shown * encoder.dim * decoder.dim
    weights += (patches + 1) * _block_weights(decoder) * decoder.layers
    weights += (patches - config.kept) * decoder.dim * pixels
    attention = encoder.layers * encoder.dim * shown**2
    attention += decoder.layers * decoder.dim * (patches + 1) ** 2
    return float(6 * weights + 12 * attention)


def _block_weights(config: VitConfig) -> int:
    return 4 * config.dim**2 + 2 * config.dim * config.mlp_hidden


def _take(tokens: Float[Tensor, "b n d"], which: Int64[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    return tokens.gather(1, which[..., None].expand(-1, -1, tokens.shape[2]))


def _sines(side: int, dim: int) -> Float[Tensor, "n d"]:
    """Return the fixed position vectors of a square grid of patches.

    One half of a vector encodes the column of the patch, and the other half encodes the row.
    """
    rates = POSITION_BASE ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    halves = []
    for places in (columns, rows):
        angles = places.flatten()[:, None] * rates
        halves += [angles.sin(), angles.cos()]
    return torch.cat(halves, dim=1).float()
