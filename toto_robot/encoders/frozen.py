"""The base class of frozen encoders that divide a frame into patches, and their checkpoints.

`VitEncoder` and `PatchEncoder` are derived from it. They have the same methods as `Encoder`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import build_module, load_weights, save_checkpoint, weights_hash
from ..config import to_dict
from ..device import float32_default, seeded
from .contract import (
    NO_PAST,
    CodeFormat,
    Codes,
    HashedWeights,
    IndependentFrames,
    as_float16_codes,
    from_float16_codes,
    refuse_gradients,
)
from .forks import survive_forks
from .pca import PCA_PREFIX, PrincipalComponents, all_features, build_pools, identity_of_pool
from .pooling import layer_numbers, layer_setting, needs_components

__all__ = ["FrozenConfig", "FrozenEncoder", "open_frozen", "save_frozen"]


F = TypeVar("F", bound="FrozenEncoder")


@runtime_checkable
class FrozenConfig(Protocol):
    """The settings of a frozen encoder, which its checkpoint contains."""

    @property
    def transformer(self) -> Any:
        """The settings of the model; their method `build` returns the model."""
        ...

    @property
    def layer(self) -> int | tuple[int, ...]:
        """Number of the default layer whose features are pooled, or of several layers."""
        ...

    @property
    def pool(self) -> str:
        """Name of the default pool."""
        ...


class FrozenEncoder(HashedWeights):
    """A frozen encoder: the first `layer` blocks of a model, and a pool over the patches.

    The encoder is always in eval mode. It has no gradients, except for the parameters of an
    attention pool. It computes in the precision of its weights, also inside `torch.autocast`.

    Attributes:
        dim: number e of values in an embedding.
        layer: number of the layer whose features are pooled, or of several layers, whose embeddings
            are concatenated; 0 is the embedding of the input.
        layers: the same numbers, always as a tuple.
        pool: name of the pool.
        pca: principal components of the features, for the pools `pca<k>`; None: it has none.
        past: always `NO_PAST`, because an embedding depends on one frame only.
        num_layers: number of blocks of the whole model.
        image_size: side of the square to which frames are resized, pixels.
        tokens_per_frame: number of patches of a frame; they are in raster order.
        weights_hash: sha256 of all weights, sizes and image statistics.
        fingerprint: sha256 of weights_hash, layer and pool. If it is equal for two encoders, their
            embeddings are interchangeable.
    """

    past = NO_PAST

    def __init__(
        self,
        transformer: Any,
        layer: int | Sequence[int],
        pool: str,
        tokens_per_frame: int,
        pca: PrincipalComponents | None,
        *,
        reads_patches: bool = True,
    ) -> None:
        """Freeze ``transformer``.

        Args:
            transformer: the model.
            layer: number of the layer whose features are pooled, or of several layers; -1 is the
                last layer.
            pool: name of the pool.
            tokens_per_frame: number of patches of a frame.
            pca: principal components of the features; None: there are none.
            reads_patches: false if `pool` is no pool over the patches.

        Raises:
            ValueError: there is no such layer or pool.
        """
        super().__init__()
        survive_forks()
        config = transformer.config
        self.num_layers: int = config.layers
        self.layers = layer_numbers(layer, transformer.layer_index)
        self.layer = layer_setting(self.layers)
        self.pool, self.pca = pool, pca
        self.image_size: int = config.image_size
        self.tokens_per_frame = tokens_per_frame
        self.transformer = transformer.requires_grad_(False)
        self._hash_weights()
        self.pooling: Any = None
        self.dim: int = config.dim * len(self.layers)
        if reads_patches:
            self.pooling = build_pools(pool, config.dim, tokens_per_frame, self.layers, pca)
            self.dim = self.pooling.dim
        self.eval()

    def _hash_weights(self) -> None:
        hashed = json.dumps(to_dict(self.transformer.config)) + weights_hash(self.transformer)
        self.weights_hash = hashlib.sha256(hashed.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """A hash; if it is equal for two encoders, their embeddings are interchangeable."""
        parts = f"{self.weights_hash} {self.layer} {self.pool}"
        parts += identity_of_pool(self.pool, self.pooling, self.pca)
        return hashlib.sha256(parts.encode()).hexdigest()

    def requires_grad_(self: F, requires_grad: bool = True) -> F:
        """Raise an error if gradients are requested, because the encoder is frozen.

        Raises:
            ValueError: gradients are requested. Only parameters of `pooling` can have gradients.
        """
        refuse_gradients(requires_grad)
        super().requires_grad_(False)
        return self

    @property
    def codes(self) -> CodeFormat:
        """The format of the codes that `compress` returns, which are the embedding."""
        return CodeFormat(size=self.dim, fingerprint=self.fingerprint)

    @torch.no_grad()
    def compress(self, frames: np.ndarray | Tensor) -> NDArray[np.float16]:
        """Return the embeddings [b e] of uint8 RGB frames [b h w 3] as float16, to save them.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: the frames are invalid, or an embedding does not fit into float16.
        """
        return as_float16_codes(self(frames).cpu().numpy(), self.pool)

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] that `compress` returned, as float32.

        Raises:
            ValueError: the codes cannot be output of `compress`.
        """
        return from_float16_codes(codes)

    def open_streams(self, num_streams: int) -> IndependentFrames:
        """Return streams that ignore earlier frames, because this model cannot use them."""
        del num_streams
        return IndependentFrames(self)

    def train(self: F, mode: bool = True) -> F:
        """Set only the pool to training mode, or to eval mode if `mode` is false."""
        super().train(False)
        if self.pooling is not None:
            self.pooling.train(mode)
        return self

    @float32_default()
    def untrained(self: F, seed: int = 0) -> F:
        """Return an encoder of the same architecture with random weights, for comparison.

        The principal components of a pool `pca<k>` are fitted to the copy's own features, on the
        frames that the checkpoint stores.
        """
        with seeded(seed):
            transformer = self.transformer.config.build()
        kind: Any = type(self)
        pca = None
        if self.pca is not None and needs_components(self.pool):
            pca = self.pca.refit(all_features(kind(transformer, 0, "mean")))
        return kind(transformer, self.layer, self.pool, pca)


def save_frozen(
    folder: Path,
    kind: str,
    config: FrozenConfig,
    weights: Mapping[str, Tensor],
    training: Mapping[str, object],
    pca: PrincipalComponents | None = None,
) -> None:
    """Write a checkpoint that `load_encoder` can load.

    Args:
        folder: the checkpoint's folder.
        kind: type of the encoder, ``vit`` or ``patches``.
        config: settings of the encoder.
        weights: the state dict of the transformer.
        training: plain data about the training, saved in ``config.json``.
        pca: principal components of the features; None: the checkpoint has none.
    """
    weights = dict(weights) | ({} if pca is None else pca.state())
    save_checkpoint(folder, kind, to_dict(config), weights, training=dict(training))


def open_frozen(
    folder: Path, data: Mapping[str, Any], config: FrozenConfig, kind: Any, layer: Any, pool: Any
) -> Any:
    """Load an encoder from a checkpoint of `save_frozen`.

    Args:
        folder: the checkpoint's folder.
        data: content of the checkpoint's ``config.json``.
        config: settings of the encoder, from ``data``.
        kind: class of the encoder.
        layer: number of the layer to pool; None: the default in the checkpoint.
        pool: name of the pool; None: the default in the checkpoint.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: the checkpoint is damaged, or there is no such layer or pool.
    """
    weights = load_weights(folder, data["sha256"])
    pca = PrincipalComponents.of_state(weights, config.transformer.layers, config.transformer.dim)
    weights = {name: one for name, one in weights.items() if not name.startswith(PCA_PREFIX)}
    transformer = build_module(config.transformer.build, weights, folder)
    return kind(
        transformer,
        config.layer if layer is None else layer,
        config.pool if pool is None else pool,
        pca,
    )
