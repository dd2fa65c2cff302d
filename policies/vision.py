"""Compute embeddings of camera frames for policies, and identify the encoder that computes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from toto_robot import FrameEncoder
from toto_robot.encoders.contract import NO_PAST, Codes
from toto_robot.encoders.vision import (
    NoVision,
    PixelVision,
    RandomVision,
    TotoVision,
    VitVision,
)
from toto_robot.encoders.vision import VisionConfig as FrozenVision
from toto_robot.moved import moved_names

from .frames import SMALLEST, SmallFrames, nature_cnn

__all__ = [
    "CnnVision",
    "EncoderId",
    "EpisodeEmbedder",
    "FrozenVision",
    "NoVision",
    "PixelVision",
    "RandomVision",
    "StateVision",
    "TotoVision",
    "VisionConfig",
    "VitVision",
    "embed_episode",
    "encoder_id",
]

# Frames per call of the encoder, which bounds the memory; constant, so that results are equal.
_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class StateVision:
    """Settings of a state oracle: a policy with the privileged state of the simulation as input.

    No images are rendered. `policies.oracle` appends the state to the proprioception.
    """

    kind: ClassVar[str] = "state"

    def build(self, device: torch.device) -> None:
        """Return None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CnnVision:
    """Settings of a convolutional network on pixels, which is trained together with the policy.

    Attributes:
        image_size: side of the square to which frames are averaged, pixels.
    """

    kind: ClassVar[str] = "cnn"
    image_size: int

    def __post_init__(self) -> None:
        if self.image_size < SMALLEST:
            raise ValueError(
                f"encoder.image_size must be at least {SMALLEST} pixels, got {self.image_size}"
            )

    def build(self, device: torch.device) -> SmallFrames:
        """Return the encoder, which only makes the frames smaller; the student has the network.

        Raises:
            ImportError: the package with the network is not installed.
        """
        del device
        nature_cnn()  # an error now, not after the demonstrations
        return SmallFrames(self.image_size)


VisionConfig = FrozenVision | StateVision | CnnVision
Blind = NoVision | StateVision  # settings with which no image is rendered


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderId:
    """The identity of an encoder. Encoders with equal fingerprints compute equal embeddings.

    Attributes:
        weights_hash: hash of all weights.
        layer: number of the transformer layer whose features are pooled, or of several layers.
        pool: name of the pooling method, such as `grid4`.
        past: temporal context in words: `none`, or how many earlier frames are used and how.
        fingerprint: hash of the values above.
        dim: number of elements of an embedding.
    """

    weights_hash: str
    layer: int | tuple[int, ...]
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
    """An object that computes the embeddings of several episodes that run at the same time.

    Each call takes the newest frames of all or some of the episodes. For an encoder with temporal
    context, the earlier frames of each camera of each episode are cached. Embeddings are rounded to
    float16 (relative error 0.0005), because the embeddings on which students are trained are stored
    in float16.
    """

    def __init__(self, encoder: FrameEncoder, num_episodes: int, num_cameras: int) -> None:
        self._num_cameras = num_cameras
        self._streams = encoder.open_streams(num_episodes * num_cameras)

    def embed(self, codes: Codes, episodes: Sequence[int]) -> NDArray[np.float16]:
        """Return the embeddings [k c e] of the newest frames of k episodes.

        Args:
            codes: [k c n] the newest frame of each of c cameras, compressed to n elements (for
                example token ids) by `FrameEncoder.codes`.
            episodes: [k] indices of the episodes to which the frames belong, from 0.
        """
        cameras = range(self._num_cameras)
        streams = [row * self._num_cameras + camera for row in episodes for camera in cameras]
        embeddings = self._streams.embed(codes.reshape(-1, codes.shape[-1]), streams)
        return embeddings.astype(np.float16).reshape(*codes.shape[:-1], -1)


def embed_episode(encoder: FrameEncoder, codes: Codes) -> NDArray[np.float16]:
    """Return the embeddings [t c e] of an episode's t frames of c cameras.

    Args:
        encoder: the encoder.
        codes: [t c n] the frames, each compressed to n elements by `FrameEncoder.codes`.
    """
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
