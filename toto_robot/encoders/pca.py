"""Principal components of an encoder's token features, for the pools `pca<k>` and `pca<k>grid<g>`.

The components are fitted to the features of each layer on frames like those of the training. A
checkpoint stores them beside the weights of the encoder: `pca.mean`, `pca.components` and
`pca.frames`. Fixed components make an embedding of few numbers for each place in the image; see
docs/toto_robot.md for a comparison of pools.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import weights_hash
from .pooling import JoinedPool, Pool, build_pool, is_attention, needs_components

__all__ = [
    "MAX_COMPONENTS",
    "PCA_PREFIX",
    "Features",
    "PrincipalComponents",
    "all_features",
    "build_pools",
    "fit_components",
    "identity_of_pool",
]

MAX_COMPONENTS = 64  # stored for each layer, or fewer if the features are narrower
STORED_FRAMES = 16
PCA_PREFIX = "pca."
_BATCH = 16

Features = Callable[[Tensor], Sequence[Tensor]]  # frames -> features [b n d] of all layers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrincipalComponents:
    """The principal components of the features of all layers of an encoder.

    Attributes:
        mean: mean features of each of the l layers, [l d].
        components: the k directions of largest variance of each layer, largest first, [l d k].
        frames: m of the frames on which they were fitted. With them, the components of an untrained
            copy of the encoder can be fitted in the same way.
        shares: cumulative share of the variance in the first components of each layer, [l k]; empty
            if the components were read from a checkpoint.
        identity: hash that is equal if the components are equal. It is the hash of the tensors, or
            for an untrained copy, of the frames on which they were fitted, because the last bits of
            the tensors depend on the processor.
    """

    mean: Float[Tensor, "l d"]
    components: Float[Tensor, "l d k"]
    frames: UInt8[Tensor, "m h w 3"]
    identity: str
    shares: Sequence[Sequence[float]] = ()

    @staticmethod
    def of_state(
        weights: Mapping[str, Tensor], num_layers: int, dim: int
    ) -> "PrincipalComponents | None":
        """Return the components in the weights of a checkpoint; None if it has none.

        Args:
            weights: the tensors of the checkpoint.
            num_layers: number of blocks of the encoder's transformer.
            dim: number of features of a token.

        Raises:
            ValueError: the tensors do not belong to such an encoder.
        """
        if not any(name.startswith(PCA_PREFIX) for name in weights):
            return None
        faults = [
            f"missing {PCA_PREFIX}{name}" for name in _STORED if PCA_PREFIX + name not in weights
        ]
        if faults:
            raise ValueError(f"the checkpoint's principal components are damaged: {faults}")
        mean, components, frames = (weights[PCA_PREFIX + name] for name in _STORED)
        shapes = (tuple(mean.shape), tuple(components.shape[:-1]))
        if shapes != ((num_layers + 1, dim),) * 2 or frames.ndim != 4:
            raise ValueError(
                f"the checkpoint's principal components have shapes {shapes[0]} and "
                f"{tuple(components.shape)}, expected {num_layers + 1} layers of {dim} features"
            )
        return PrincipalComponents(
            mean=mean, components=components, frames=frames, identity=_hash(mean, components)
        )

    @staticmethod
    def stand_in(num_layers: int, dim: int) -> "PrincipalComponents":
        """Return components of zeros, with which layers and pools are checked before a fit."""
        return PrincipalComponents(
            mean=torch.zeros(num_layers + 1, dim),
            components=torch.zeros(num_layers + 1, dim, min(dim, MAX_COMPONENTS)),
            frames=torch.zeros(0, 1, 1, 3, dtype=torch.uint8),
            identity="",
        )

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by the names that they have in a checkpoint."""
        return {PCA_PREFIX + name: getattr(self, name) for name in _STORED}

    def refit(self, features: Features) -> "PrincipalComponents":
        """Fit components to the features of another encoder, on the stored frames.

        Raises:
            ValueError: no frames are stored.
        """
        if not len(self.frames):
            raise ValueError(
                "an untrained copy needs frames to fit its own principal components, and the "
                "checkpoint stores none: write them with python -m toto_robot.fit_pca"
            )
        fitted = fit_components(features, self.frames)
        return PrincipalComponents(
            mean=fitted.mean,
            components=fitted.components,
            frames=self.frames,
            identity=_hash(self.frames),
        )


_STORED = ("mean", "components", "frames")


@torch.no_grad()
def fit_components(
    features: Features,
    frames: np.ndarray | UInt8[Tensor, "b h w 3"],
    stored_frames: int = STORED_FRAMES,
    *,
    progress: bool = False,
) -> PrincipalComponents:
    """Fit the principal components of token features on b frames.

    The covariance is computed within each position of the token grid, so that what is the same in
    all frames (such as a position embedding) is not a component. It is summed in float64.

    Args:
        features: function that returns the features of frames for all layers.
        frames: uint8 RGB frames.
        stored_frames: number of frames that are stored with the components, evenly spaced.
        progress: true to show a progress bar.
    """
    images = torch.as_tensor(frames)
    products: list[Tensor] = []
    sums: list[Tensor] = []
    batches = images.split(_BATCH)
    for batch in tqdm(batches, desc="fit", unit="batch", disable=not progress):
        layers = [layer.detach().double().cpu() for layer in features(batch)]
        if not products:
            products = [layer.new_zeros(layer.shape[2], layer.shape[2]) for layer in layers]
            sums = [torch.zeros_like(layer[0]) for layer in layers]
        for layer, product, total in zip(layers, products, sums, strict=True):
            flat = layer.flatten(0, 1)
            product += flat.T @ flat
            total += layer.sum(0)
    directions, shares = [], []
    for product, total in zip(products, sums, strict=True):
        values, vectors = torch.linalg.eigh(product - total.T @ total / len(images))
        found = vectors.flip(1)[:, :MAX_COMPONENTS]
        variance = values.flip(0).clamp(min=0).cumsum(0)
        shares.append((variance / variance[-1])[:MAX_COMPONENTS].tolist())
        largest = found.gather(0, found.abs().argmax(0, keepdim=True))
        directions.append(found * largest.sign())  # else the signs would be arbitrary
    mean = torch.stack([total.mean(0) / len(images) for total in sums]).float()
    components = torch.stack(directions).float()
    rows = torch.linspace(0, len(images) - 1, min(stored_frames, len(images))).round().long()
    return PrincipalComponents(
        mean=mean,
        components=components,
        frames=images[rows].clone(),
        identity=_hash(mean, components),
        shares=shares,
    )


def all_features(encoder: Any) -> Features:
    """Return a function that returns the features of frames for all layers of an encoder."""
    return lambda frames: encoder.features(frames, range(encoder.num_layers + 1))


def build_pools(
    name: str,
    dim: int,
    tokens_per_frame: int,
    layers: Sequence[int],
    pca: PrincipalComponents | None,
) -> Pool:
    """Return the pool ``name`` for the features of one or several layers.

    The features of several layers are joined in their last dimension, so the pool's input has width
    ``len(layers) * dim``.

    Raises:
        ValueError: as in `build_pool`.
    """
    pools = [
        build_pool(
            name,
            dim,
            tokens_per_frame,
            None if pca is None else (pca.mean[layer], pca.components[layer]),
        )
        for layer in layers
    ]
    return pools[0] if len(pools) == 1 else JoinedPool(pools)


def identity_of_pool(
    pool: str, pooling: torch.nn.Module | None, pca: PrincipalComponents | None
) -> str:
    """Return what identifies the numbers of a pool in a fingerprint; a pool without any has ``""``.

    Args:
        pool: name of the pool.
        pooling: the pool; None: the embedding is the class token, without a pool.
        pca: principal components of the features; None: the encoder has none.
    """
    found = weights_hash(pooling) if pooling is not None and is_attention(pool) else ""
    return found + (pca.identity if pca is not None and needs_components(pool) else "")


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
