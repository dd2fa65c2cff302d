"""A frozen Toto without a tokenizer, whose transformer reads patches of pixels (paper Table 3).

encoder = load_encoder("runs/patches/encoder")
embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b e]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..device import own_precision
from ..models.patches import PatchConfig, PatchTransformer
from ..tokenizers.tokenizer import check_frames
from .frozen import FrozenEncoder
from .pca import PrincipalComponents
from .pooling import join_layers, normalise

__all__ = ["PatchEncoder", "PatchEncoderConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchEncoderConfig:
    """The settings of a `PatchEncoder`, which its checkpoint contains.

    Attributes:
        transformer: sizes of the transformer.
        layer: default layer whose features are pooled, or several layers; 0 is the token embedding.
        pool: name of the default pool, such as `grid4`.
    """

    transformer: PatchConfig
    layer: int | tuple[int, ...]
    pool: str


class PatchEncoder(FrozenEncoder):
    """A frozen encoder: the first `layer` blocks of a Toto over patches, and a pool.

    An embedding depends on one frame only. The input of the transformer is a start token and the
    patches of the frame. Before pooling, the features of each patch are scaled to a root mean
    square of 1. Blocks after the layer are not computed.

    Attributes:
        dim: number e of values in an embedding.
        layer: number of the layer whose features are pooled, or of several layers, whose embeddings
            are concatenated; 0 is the embedding of the input.
        layers: the same numbers, always as a tuple.
        pool: name of the pool: see `toto_robot.encoders.pooling.POOLS`.
        num_layers: number of blocks of the whole transformer.
        image_size: side of the square to which frames are resized, pixels.
        tokens_per_frame: number of patches of a frame; they are in raster order.
        weights_hash: sha256 of all weights and sizes.
        fingerprint: sha256 of weights_hash, layer and pool. If it is equal for two encoders, their
            embeddings are interchangeable.
    """

    def __init__(
        self,
        transformer: PatchTransformer,
        layer: int | Sequence[int],
        pool: str,
        pca: PrincipalComponents | None = None,
    ) -> None:
        super().__init__(transformer, layer, pool, transformer.config.tokens_per_frame, pca)

    @own_precision()
    def forward(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b e"]:
        """Return the embeddings of uint8 RGB frames [b h w 3] of any size.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: dtype, range, channels or number of dimensions are wrong; the message says
                which.
        """
        return self.pooling(join_layers(self.features(frames))).float()

    @own_precision()
    @torch.no_grad()
    def features(
        self, frames: np.ndarray | Tensor, layers: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the features of the patches for each of the `layers`, before pooling.

        `layers` is None for the encoder's layers. A frame has n patches of d features.
        """
        pixels = check_frames(frames).to(self.transformer.start.device)
        wanted = self.layers if layers is None else layers
        if len(pixels) == 0:  # torch's resize refuses an empty batch
            empty = self.transformer.start.new_empty(
                0, self.tokens_per_frame, len(self.transformer.start)
            )
            return (empty,) * len(wanted)
        outputs = self.transformer.features(pixels[:, None], wanted)
        return tuple(normalise(output[:, 1:]) for output in outputs)
