"""A frozen Toto over continuous patches behind the encoder's contract (paper Table 3).

encoder = load_encoder("runs/patches/encoder")
embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b e]
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checkpoint import load_weights, save_checkpoint, weights_hash
from .config import from_dict, to_dict
from .models.patches import PatchConfig, PatchTransformer
from .pooling import AttentionPool, build_pool, normalise
from .tokenizers.tokenizer import check_frames

__all__ = ["PatchEncoder", "PatchEncoderConfig", "open_patches", "save_patches"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchEncoderConfig:
    """What such an encoder's checkpoint says of itself.

    Attributes:
        transformer: its sizes.
        layer: the layer to use unless the caller asks for another.
        pool: the pool to use unless the caller asks for another.
    """

    transformer: PatchConfig
    layer: int
    pool: str


class PatchEncoder(nn.Module):
    """Frozen first `layer` blocks of a Toto over patches, and a pool.

    A frame is encoded by itself: the start token, then its patches. Features are scaled to unit
    root mean square per token before pooling. Deeper blocks are not run.

    Attributes:
        dim: width e of the embedding.
        layer: layer that is pooled, counted from 0.
        pool: name of the pool: `mean`, `last`, `attention` or `grid<k>`.
        num_layers: blocks of the whole transformer.
        image_size: side that frames are resized to, pixels.
        tokens_per_frame: patches of one frame, in raster order.
        weights_hash: sha256 of all weights, and of the sizes that go with them.
        fingerprint: sha256 of that, layer and pool: equal for encoders whose embeddings are
            interchangeable.
    """

    def __init__(self, transformer: PatchTransformer, layer: int, pool: str) -> None:
        super().__init__()
        config = transformer.config
        self.num_layers = config.layers
        self.layer = transformer.layer_index(layer)
        self.pool = pool
        self.image_size = config.image_size
        self.tokens_per_frame = config.tokens_per_frame
        self.transformer = transformer.requires_grad_(False)
        self.weights_hash = hashlib.sha256(
            (json.dumps(to_dict(config)) + weights_hash(transformer)).encode()
        ).hexdigest()
        self.pooling = build_pool(pool, config.dim, config.tokens_per_frame)
        self.dim = self.pooling.dim
        self.eval()

    @property
    def fingerprint(self) -> str:
        """Hash that two encoders share if their embeddings are interchangeable."""
        parts = f"{self.weights_hash} {self.layer} {self.pool}"
        if isinstance(self.pooling, AttentionPool):
            parts += weights_hash(self.pooling)
        return hashlib.sha256(parts.encode()).hexdigest()

    def train(self, mode: bool = True) -> "PatchEncoder":
        """Stay in eval mode, except for the pool: the encoder is frozen."""
        super().train(False)
        self.pooling.train(mode)
        return self

    def forward(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b e"]:
        """Return the embeddings of uint8 RGB frames [b h w 3] of any size.

        Raises:
            TypeError: neither a numpy array nor a tensor.
            ValueError: wrong dtype, range, channels or number of dimensions; the message says
            which.
        """
        (features,) = self.features(frames)
        return self.pooling(features).float()

    @torch.no_grad()
    def features(
        self, frames: np.ndarray | Tensor, layers: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the patches' features of `layers` (default: the encoder's own), before pooling."""
        given = check_frames(frames).to(self.transformer.start.device)
        wanted = (self.layer,) if layers is None else layers
        if len(given) == 0:  # torch's resize refuses an empty batch
            empty = self.transformer.start.new_empty(
                0, self.tokens_per_frame, len(self.transformer.start)
            )
            return (empty,) * len(wanted)
        outputs = self.transformer.features(given[:, None], wanted)
        return tuple(normalise(output[:, 1:]) for output in outputs)

    def untrained(self, seed: int = 0) -> "PatchEncoder":
        """Return the same architecture with fresh random weights: the control of every claim."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return PatchEncoder(self.transformer.config.build(), self.layer, self.pool)


def save_patches(
    folder: Path,
    config: PatchEncoderConfig,
    weights: Mapping[str, Tensor],
    training: Mapping[str, object] | None = None,
) -> None:
    """Write a checkpoint that `load_encoder` opens as a `PatchEncoder`.

    Args:
        folder: the checkpoint's folder.
        config: what it is.
        weights: the state dict of its transformer.
        training: plain data that tells how it was trained.
    """
    notes = {} if training is None else {"training": dict(training)}
    save_checkpoint(folder, "patches", to_dict(config), weights, **notes)


def open_patches(
    folder: Path, data: Mapping[str, Any], layer: int | None = None, pool: str | None = None
) -> PatchEncoder:
    """Open what `save_patches` wrote.

    Args:
        folder: the checkpoint's folder.
        data: what its ``config.json`` says.
        layer: None for the checkpoint's choice.
        pool: None for the checkpoint's choice.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: it is damaged, or there is no such layer or pool.
    """
    config = from_dict(PatchEncoderConfig, data["config"])
    transformer = config.transformer.build()
    transformer.load_state_dict(load_weights(folder, data["sha256"]))
    return PatchEncoder(
        transformer,
        config.layer if layer is None else layer,
        config.pool if pool is None else pool,
    )
