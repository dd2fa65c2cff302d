"""Fit the principal components of an encoder's features at the end of its training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.mixture import FrameMixture
from ..data.shards import Shard
from ..encoders.pca import STORED_FRAMES, PrincipalComponents, all_features, fit_components

__all__ = ["PCA_FRAMES", "check_pool", "require_pca_frames", "sample_frames", "trained_components"]

PCA_FRAMES = 512  # as in the configs of trainings


def require_pca_frames(number: int) -> None:
    """Check the number of frames before a training.

    Raises:
        ValueError: it is neither 0 nor at least 2; one frame has no variance.
    """
    if number < 0 or number == 1:
        raise ValueError(f"pca_frames must be 0 (no components) or at least 2, got {number}")


def check_pool(kind: Any, transformer: Any, pool: str, pca_frames: int) -> None:
    """Check the default pool of an encoder before its training.

    Args:
        kind: class of the encoder, `VitEncoder` or `PatchEncoder`.
        transformer: config of its model.
        pool: name of the pool.
        pca_frames: number of frames to which principal components will be fitted; 0: none.

    Raises:
        ValueError: the encoder has no such pool.
    """
    pca = PrincipalComponents.stand_in(transformer.layers, transformer.dim) if pca_frames else None
    kind(transformer.build(), 0, pool, pca)


def sample_frames(
    shards: Sequence[Shard], weights: Sequence[float], number: int, side: int, seed: int
) -> NDArray[np.uint8]:
    """Return random frames of the training files of data sets, uint8 [number side side 3].

    Raises:
        ValueError: the frames of a data set are smaller than `side` pixels.
    """
    for shard in shards:
        if (size := shard.manifest["size"]) < side:
            raise ValueError(
                f"{shard.folder} has frames of {size} pixels, and the encoder needs {side}: write "
                f"it again with toto_robot.data.decode size={side}"
            )
    mixture = FrameMixture(shards, weights, validation=False, seed=seed)
    return mixture.rows(0, number, side)


def trained_components(
    encoder: Any, data: Sequence[Any], weights: Sequence[float], number: int, seed: int
) -> PrincipalComponents | None:
    """Fit principal components to `number` frames of the training data.

    Data sets of tokens without frames are left out.

    Returns:
        The components; None if `number` is 0, or if no data set has frames.
    """
    pairs = [pair for pair in zip(data, weights, strict=True) if isinstance(pair[0], Shard)]
    if not number or not pairs:
        return None
    shards, shares = zip(*pairs, strict=True)
    smallest = min(shard.manifest["size"] for shard in shards)  # the encoder may enlarge frames
    frames = sample_frames(shards, shares, number, min(encoder.image_size, smallest), seed)
    return fit_components(all_features(encoder), frames, STORED_FRAMES)
