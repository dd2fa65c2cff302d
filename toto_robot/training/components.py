"""Fit the principal components of an encoder's features at the end of its training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.mixture import FrameMixture
from ..data.shards import Shard
from ..encoders.pca import STORED_FRAMES, PrincipalComponents, all_features, fit_components

__all__ = ["PCA_FRAMES", "sample_frames", "trained_components"]

PCA_FRAMES = 512  # as in the configs of trainings


def sample_frames(
    shards: Sequence[Shard], weights: Sequence[float], number: int, side: int, seed: int
) -> NDArray[np.uint8]:
    """Return random frames of the training files of data sets, uint8 [number side side 3].

    Raises:
        ValueError: the frames of a data set are smaller than `side` pixels.
    """
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
    frames = sample_frames(shards, shares, number, encoder.image_size, seed)
    return fit_components(all_features(encoder), frames, STORED_FRAMES)
