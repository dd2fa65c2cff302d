"""A vision transformer with the methods of all encoders, as a baseline of Toto.

    encoder = load_encoder("mae_pretrain_egosoup_vit_base.pth", format="mvp")
    embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b e]

The steps are: frames -> resize and normalise -> patches -> first blocks of the transformer -> last
norm -> pool -> embedding.

The encoder resizes a frame of any size to a square by antialiased bicubic interpolation, without
cropping. It normalises colours with the mean and standard deviation of the model's training images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from ..device import own_precision
from ..models.vision_transformer import VisionTransformer, VitConfig
from ..tokenizers.tokenizer import check_frames
from .frozen import FrozenEncoder
from .pca import PrincipalComponents
from .pooling import POOLS, is_attention, is_pool, join_layers, needs_components

__all__ = ["VIT_POOLS", "VitEncoder", "VitEncoderConfig"]

VIT_POOLS = f"cls, cls_before_norm, {POOLS.replace('last, ', '')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class VitEncoderConfig:
    """The settings of a `VitEncoder`, which its checkpoint contains.

    Attributes:
        transformer: sizes of the transformer, and the size, mean and standard deviation of its
            input images.
        layer: default layer whose features are pooled, or several layers; 0 is the token embedding.
        pool: name of the default pool, such as `grid4`.
    """

    transformer: VitConfig
    layer: int | tuple[int, ...]
    pool: str


class VitEncoder(FrozenEncoder):
    """A frozen encoder: the first `layer` blocks of a vision transformer, and a pool.

    The last norm of the model is applied to the features of any layer, as in DINOv2's
    `get_intermediate_layers`. The only exception is the pool `cls_before_norm`. Blocks after the
    layer are not computed. The encoder is always in eval mode. It has no gradients, except for the
    parameters of an attention pool.

    Attributes:
        dim: number e of values in an embedding.
        layer: number of the layer whose features are pooled, or of several layers, whose embeddings
            are concatenated; 0 is the embedding of the input.
        layers: the same numbers, always as a tuple.
        pool: name of the pool. `cls` is the class token, as in MVP's policies. `cls_before_norm` is
            the class token before the last norm, as in MVP's stored rollouts. `mean` (as in RPT),
            and the other pools of `toto_robot.encoders.pooling.POOLS` combine the features of the
            patches, except `last`.
        num_layers: number of blocks of the whole transformer.
        image_size: side of the square to which frames are resized, pixels.
        tokens_per_frame: number of patches of a frame; they are in raster order.
        weights_hash: sha256 of all weights, sizes and image statistics.
        fingerprint: sha256 of weights_hash, layer and pool. If it is equal for two encoders, their
            embeddings are interchangeable.
    """

    def __init__(
        self,
        transformer: VisionTransformer,
        layer: int | Sequence[int],
        pool: str,
        pca: PrincipalComponents | None = None,
    ) -> None:
        config = transformer.config
        super().__init__(
            transformer,
            layer,
            pool,
            config.side**2,
            pca,
            reads_patches=_reads_patches(pool, config),
        )

    @own_precision()
    def forward(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b e"]:
        """Return the embeddings of uint8 RGB frames [b h w 3] of any size.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: dtype, range, channels or number of dimensions are wrong; the message says
                which.
        """
        hidden = self.hidden(frames, self.layers)
        if self.pooling is None:
            with torch.no_grad():
                cls = [one[:, 0] for one in hidden]
                if self.pool != "cls_before_norm":
                    cls = [self.transformer.norm(one) for one in cls]
                return join_layers(cls).float()
        pooled = self.pooling(join_layers([self._patches(one) for one in hidden]))
        if self.transformer.config.norm_after_pool:
            with torch.no_grad():
                cells = pooled.unflatten(1, (-1, self.transformer.config.dim))
                pooled = self.transformer.norm(cells).flatten(1)
        return pooled.float()

    @own_precision()
    def features(
        self, frames: np.ndarray | Tensor, layers: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the features of the patches for each of the `layers`, before pooling.

        `layers` is None for the encoder's layers. A frame has n patches of d features. The last
        norm has been applied, unless the model applies it after the pool.
        """
        hidden = self.hidden(frames, self.layers if layers is None else layers)
        return tuple(self._patches(one) for one in hidden)

    @own_precision()
    @torch.no_grad()
    def hidden(
        self, frames: np.ndarray | Tensor, layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b t d"], ...]:
        """Return the output of each of the `layers` for all t tokens, before the last norm.

        The order of the tokens is: class token, register tokens, patches.
        """
        return self.transformer.hidden(self.preprocess(frames), layers)

    @torch.no_grad()
    def preprocess(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b 3 s s"]:
        """Resize and normalise uint8 RGB frames [b h w 3] for the transformer."""
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
    """Resize frames with the antialiased bicubic filter of Pillow, and scale them to [0, 1]."""
    images = frames.permute(0, 3, 1, 2).float() / 255
    if len(images) == 0:
        return images.new_empty(0, 3, size, size)  # torch's resize refuses an empty batch
    if images.shape[-2:] != (size, size):
        images = interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return images.clamp(0, 1)  # some bicubic weights are negative


def _reads_patches(pool: str, config: VitConfig) -> bool:
    """Return whether a pool combines the features of patches; if not, it is a class token.

    Raises:
        ValueError: there is no such pool for this model.
    """
    needs_norm = pool == "cls" or is_attention(pool) or needs_components(pool)
    if config.norm_after_pool and needs_norm:
        raise ValueError(
            f"pool {pool!r}: this model has no norm for single tokens, it was fine-tuned with the "
            "average of its patches (fc_norm); possible: mean, grid<g>, cls_before_norm"
        )
    if pool in ("cls", "cls_before_norm"):
        return False
    if pool == "last" or not is_pool(pool):
        raise ValueError(f"unknown pool {pool!r}; known: {VIT_POOLS}")
    return True
