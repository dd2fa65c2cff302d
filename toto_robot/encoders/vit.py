"""A plain vision transformer with the interface of all encoders, the baseline of Toto.

    encoder = load_encoder("mae_pretrain_egosoup_vit_base.pth", format="mvp")
    embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b e]

frames -> resize, statistics -> patches -> transformer, stopped at a layer -> norm -> pool ->
embedding

Preprocessing is part of the encoder: a frame of any size is resized to a square by antialiased
bicubic interpolation, without a crop, and normalised with the statistics of the model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..models.vision_transformer import VisionTransformer, VitConfig
from ..tokenizers.tokenizer import check_frames
from .frozen import FrozenEncoder
from .pooling import build_pool

__all__ = ["VIT_POOLS", "VitEncoder", "VitEncoderConfig"]

VIT_POOLS = "cls, cls_before_norm, mean, attention, grid<k> (grid2: 2 x 2 cells)"


@dataclass(frozen=True, kw_only=True, slots=True)
class VitEncoderConfig:
    """The config of a `VitEncoder`, as its checkpoint stores it.

    Attributes:
        transformer: sizes of the transformer, and size and statistics of its images.
        layer: layer that is pooled if the caller chooses none; 0 is the embedding.
        pool: name of the pool if the caller chooses none, such as `grid4`.
    """

    transformer: VitConfig
    layer: int
    pool: str


class VitEncoder(FrozenEncoder):
    """The frozen first `layer` blocks of a vision transformer, its last norm, and a pool.

    The model's last norm is applied to features of any layer (as in DINOv2's
    `get_intermediate_layers`), except with the pool `cls_before_norm`. Deeper blocks are not run.
    The encoder is always in eval mode and has no gradients, except those of the parameters of an
    attention pool.

    Attributes:
        dim: width e of the embedding.
        layer: layer that is pooled, counted from 0.
        pool: name of the pool: `cls` (as in MVP's policies), `cls_before_norm` (as stored in MVP's
            rollouts), `mean` of the patches (RPT), `grid<k>` of them, or `attention` over them.
        num_layers: blocks of the whole transformer.
        image_size: side that frames are resized to, pixels.
        tokens_per_frame: patches of one frame, in raster order.
        weights_hash: sha256 of all weights, sizes and image statistics.
        fingerprint: sha256 of weights_hash, layer and pool: equal for encoders whose embeddings are
            interchangeable.
    """

    def __init__(self, transformer: VisionTransformer, layer: int, pool: str) -> None:
        config = transformer.config
        super().__init__(transformer, layer, pool, _build_pool(pool, config), config.side**2)

    def forward(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b e"]:
        """Return the embeddings of uint8 RGB frames [b h w 3] of any size.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: dtype, range, channels or number of dimensions are wrong; the message says
                which.
        """
        (hidden,) = self.hidden(frames, (self.layer,))
        if self.pooling is None:
            with torch.no_grad():
                cls = hidden[:, 0]
                return (
                    cls if self.pool == "cls_before_norm" else self.transformer.norm(cls)
                ).float()
        pooled = self.pooling(self._patches(hidden))
        if self.transformer.config.norm_after_pool:
            with torch.no_grad():
                cells = pooled.unflatten(1, (-1, self.transformer.config.dim))
                pooled = self.transformer.norm(cells).flatten(1)
        return pooled.float()

    def features(
        self, frames: np.ndarray | Tensor, layers: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the patches' features after `layers` (default: the encoder's), before pooling.

        The last norm has been applied, unless the model applies it after the pool.
        """
        hidden = self.hidden(frames, (self.layer,) if layers is None else layers)
        return tuple(self._patches(one) for one in hidden)

    @torch.no_grad()
    def hidden(
        self, frames: np.ndarray | Tensor, layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b t d"], ...]:
        """Return the residual stream of all tokens after `layers`: CLS, registers, patches."""
        return self.transformer.hidden(self.preprocess(frames), layers)

    @torch.no_grad()
    def preprocess(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b 3 s s"]:
        """Return the transformer's input for uint8 RGB frames [b h w 3]."""
        config, weight = self.transformer.config, self.transformer.cls_token
        images = _resize(check_frames(frames).to(weight.device), config.image_size)
        for channel, (mean, std) in enumerate(zip(config.mean, config.std, strict=True)):
            images[:, channel].sub_(mean).div_(std)
        return images.to(weight.dtype)

    @torch.no_grad()
    def _patches(self, hidden: Float[Tensor, "b t d"]) -> Float[Tensor, "b n d"]:
        config = self.transformer.config
        patches = hidden[:, 1 + config.registers :]
        return patches if config.norm_after_pool else self.transformer.norm(patches)


def _resize(frames: UInt8[Tensor, "b h w 3"], size: int) -> Float[Tensor, "b 3 s s"]:
    """Return frames resized like Pillow's antialiased bicubic filter does, scaled to [0, 1]."""
    images = frames.permute(0, 3, 1, 2).float() / 255
    if len(images) == 0:
        return images.new_empty(0, 3, size, size)  # torch's resize refuses an empty batch
    if images.shape[-2:] != (size, size):
        images = interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return images.clamp(0, 1)  # some bicubic weights are negative


def _build_pool(pool: str, config: VitConfig) -> nn.Module | None:
    """Return the pool over patches; None for pools that use the CLS token."""
    if config.norm_after_pool and pool in ("cls", "attention"):
        raise ValueError(
            f"pool {pool!r}: this model has no norm for single tokens, it was fine-tuned with the "
            "average of its patches (fc_norm); possible: mean, grid<k>, cls_before_norm"
        )
    if pool in ("cls", "cls_before_norm"):
        return None
    if pool == "last" or not re.fullmatch(r"mean|attention|grid[1-9][0-9]*", pool):
        raise ValueError(f"unknown pool {pool!r}; known: {VIT_POOLS}")
    return build_pool(pool, config.dim, config.side**2)
