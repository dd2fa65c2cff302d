"""Embeddings of observations for policies, and the identity of their encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toto_robot import FrameEncoder
from toto_robot.encoders.contract import NO_PAST, Codes
from toto_robot.encoders.vision import NoVision, RandomVision, TotoVision, VisionConfig, VitVision
from toto_robot.moved import moved_names

__all__ = [
    "EncoderId",
    "EpisodeEmbedder",
    "NoVision",
    "RandomVision",
    "TotoVision",
    "VisionConfig",
    "VitVision",
    "embed_episode",
    "encoder_id",
]

# Frames per call of the encoder, which bounds the memory; constant, so that results are equal.
_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderId:
    """The identity of an encoder: encoders with equal fingerprints compute equal embeddings.

    Attributes:
        weights_hash: hash of all weights.
        layer: number of the layer whose features are pooled.
        pool: name of the pooling method, such as `grid4`.
        past: temporal context: `none`, or the settings of the stream in words.
        fingerprint: hash of all these.
        dim: number of elements of an embedding.
    """

    weights_hash: str
    layer: int
    pool: str
    past: str
    fingerprint: str
    dim: int


def encoder_id(encoder: FrameEncoder | None) -> EncoderId | None:
    """Return the identity of an encoder; None without an encoder."""
    if encoder is None:
        return None
    return EncoderId(
        weights_hash=encoder.weights_hash,
        layer=encoder.layer,
        pool=encoder.pool,
        past=encoder.past,
        fingerprint=encoder.fingerprint,
        dim=encoder.dim,
    )


class EpisodeEmbedder:
    """An embedder of compressed frames of several episodes; any subset can be embedded at a time.

    An encoder with temporal context has one stream for each camera of each episode. Embeddings are
    rounded to float16 (relative error 0.0005) as in the store, so that a student acts on the same
    numbers as in training.
    """

    def __init__(self, encoder: FrameEncoder, num_episodes: int, num_cameras: int) -> None:
        self._num_cameras = num_cameras
        self._streams = encoder.open_streams(num_episodes * num_cameras)

    def embed(self, codes: Codes, episodes: Sequence[int]) -> NDArray[np.float16]:
        """Return the embeddings [k c e] of the newest frames [k c n] of k episodes.

        Args:
            codes: the compressed frames, as `FrameEncoder.codes` describes them.
            episodes: index of the episode of each frame, counted from 0.
        """
        cameras = range(self._num_cameras)
        streams = [row * self._num_cameras + camera for row in episodes for camera in cameras]
        embeddings = self._streams.embed(codes.reshape(-1, codes.shape[-1]), streams)
        return embeddings.astype(np.float16).reshape(*codes.shape[:-1], -1)


def embed_episode(encoder: FrameEncoder, codes: Codes) -> NDArray[np.float16]:
    """Return the embeddings [t c e] of an episode's compressed frames [t c n]."""
    if encoder.past != NO_PAST:
        embedder = EpisodeEmbedder(encoder, 1, codes.shape[1])
        return np.stack([embedder.embed(frames[None], [0])[0] for frames in codes])
    flat = codes.reshape(-1, codes.shape[-1])
    parts = [encoder.embed(flat[at : at + _BATCH]) for at in range(0, len(flat), _BATCH)]
    return np.concatenate(parts).astype(np.float16).reshape(*codes.shape[:2], -1)


__getattr__ = moved_names(
    __name__,
    {
        "EncoderStamp": "policies.vision:EncoderId",
        "stamp": "policies.vision:encoder_id",
        "ObservationEmbedder": "policies.vision:EpisodeEmbedder",
    },
)
