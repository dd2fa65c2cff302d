"""A frozen Toto over continuous patches of pixels, without a tokenizer (paper Table 3).

encoder = load_encoder("runs/patches/encoder")
embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b e]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..models.patches import PatchConfig, PatchTransformer
from ..tokenizers.tokenizer import check_frames
from .frozen import FrozenEncoder
from .pooling import build_pool, normalise

__all__ = ["PatchEncoder", "PatchEncoderConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchEncoderConfig:
    """The config of a `PatchEncoder`, as its checkpoint stores it.

    Attributes:
        transformer: sizes of the transformer.
        layer: layer that is pooled if the caller chooses none; 0 is the embedding.
        pool: name of the pool if the caller chooses none, such as `grid4`.
    """

    transformer: PatchConfig
    layer: int
    pool: str


class PatchEncoder(FrozenEncoder):
    """The frozen first `layer` blocks of a Toto over patches, and a pool.

    A frame is encoded by itself: the start token, then its patches. Features are scaled to unit
    root mean square per token before pooling. Deeper blocks are not run.

    Attributes:
        dim: width e of the embedding.
        layer: layer that is pooled, counted from 0.
        pool: name of the pool: `mean`, `last`, `attention` or `grid<k>`.
        num_layers: blocks of the whole transformer.
        image_size: side that frames are resized to, pixels.
        tokens_per_frame: patches of one frame, in raster order.
        weights_hash: sha256 of all weights and sizes.
        fingerprint: sha256 of weights_hash, layer and pool: equal for encoders whose embeddings are
            interchangeable.
    """

    def __init__(self, transformer: PatchTransformer, layer: int, pool: str) -> None:
        config = transformer.config
        pooling = build_pool(pool, config.dim, config.tokens_per_frame)
        super().__init__(transformer, layer, pool, pooling, config.tokens_per_frame)

    def forward(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b e"]:
        """Return the embeddings of uint8 RGB frames [b h w 3] of any size.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: dtype, range, channels or number of dimensions are wrong; the message says
                which.
        """
        (features,) = self.features(frames)
        return self.pooling(features).float()

    @torch.no_grad()
    def features(
        self, frames: np.ndarray | Tensor, layers: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the patches' features after `layers` (default: the encoder's), before pooling."""
        pixels = check_frames(frames).to(self.transformer.start.device)
        wanted = (self.layer,) if layers is None else layers
        if len(pixels) == 0:  # torch's resize refuses an empty batch
            empty = self.transformer.start.new_empty(
                0, self.tokens_per_frame, len(self.transformer.start)
            )
            return (empty,) * len(wanted)
        outputs = self.transformer.features(pixels[:, None], wanted)
        return tuple(normalise(output[:, 1:]) for output in outputs)
