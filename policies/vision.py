"""Vision encoders for policies: a trained one, an untrained one, a vision transformer, or none.

The untrained encoder has the same architecture and so the same cost; a policy without vision has
proprioception only. They are the controls of every claim about the trained one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from toto_robot import FrameEncoder, StreamConfig, load_encoder
from toto_robot.encoders.contract import NO_PAST, Codes
from toto_robot.encoders.loading import load_toto
from toto_robot.encoders.streamed import StreamedEncoder
from toto_robot.encoders.vit_files import load_vit

# Frames encoded in one call, which bounds the memory; the same whenever an episode is embedded.
_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TotoVision:
    """A trained encoder.

    Attributes:
        name_or_path: a shipped name or a checkpoint folder.
        layer: which layer; None: the checkpoint's own choice.
        pool: how its tokens become one embedding; None: the checkpoint's own choice.
        repeat_frame: whether each frame is fed twice, so that its tokens see all of it.
        stream: how each camera's past is kept; None: each frame by itself.
    """

    kind: ClassVar[str] = "toto"
    name_or_path: str
    layer: int | None
    pool: str | None
    repeat_frame: bool
    stream: StreamConfig | None

    def build(self, device: torch.device) -> FrameEncoder:
        """Load the encoder."""
        if self.stream is None and not self.repeat_frame:
            return load_encoder(self.name_or_path, self.layer, self.pool, device)
        encoder = load_toto(
            self.name_or_path, self.layer, self.pool, device, repeat_frame=self.repeat_frame
        )
        return encoder if self.stream is None else StreamedEncoder(encoder, self.stream)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomVision:
    """The same architecture with random weights, tokenizer and transformer.

    Attributes:
        name_or_path: whose architecture.
        layer: as for `TotoVision`.
        pool: as for `TotoVision`.
        seed: of the weights.
    """

    kind: ClassVar[str] = "random"
    name_or_path: str
    layer: int | None
    pool: str | None
    seed: int

    def build(self, device: torch.device) -> FrameEncoder:
        """Build the architecture with random weights."""
        trained = load_encoder(self.name_or_path, self.layer, self.pool)
        return trained.untrained(self.seed).to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoVision:
    """Proprioception alone; no picture is drawn."""

    kind: ClassVar[str] = "none"

    def build(self, device: torch.device) -> None:
        """Return nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VitVision:
    """A vision transformer: a published file (MAE, MVP, DINOv2 and others), or one of our own.

    Attributes:
        name_or_path: the file; of our own: a shipped name or a checkpoint folder.
        format: the file's family, one of `encoders.vit_files.FORMATS`; None: one of our own.
        layer: which layer; None: the last.
        pool: how its tokens become one embedding; None: as the family does it.
        heads: attention heads; None: those of the published model of this width.
        image_size: side that frames are resized to, pixels; None: the one trained with.
        statistics: of the pictures, `imagenet` or `half`; None: the family's.
    """

    kind: ClassVar[str] = "vit"
    name_or_path: str
    format: str | None
    layer: int | None
    pool: str | None
    heads: int | None
    image_size: int | None
    statistics: str | None

    def build(self, device: torch.device) -> FrameEncoder:
        """Load the encoder."""
        if self.format is None:
            return load_encoder(self.name_or_path, self.layer, self.pool, device)
        return load_vit(
            self.name_or_path,
            self.format,
            layer=self.layer,
            pool=self.pool,
            device=device,
            heads=self.heads,
            image_size=self.image_size,
            statistics=self.statistics,
        )


VisionConfig = TotoVision | RandomVision | VitVision | NoVision


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderStamp:
    """What identifies an encoder: with equal fingerprints, embeddings are interchangeable.

    Attributes:
        weights_hash: of all its weights.
        layer: the layer that is pooled.
        pool: the pool.
        past: which earlier frames it sees: `none`, or the stream's settings.
        fingerprint: of all these.
        dim: width of an embedding.
    """

    weights_hash: str
    layer: int
    pool: str
    past: str
    fingerprint: str
    dim: int


def stamp(encoder: FrameEncoder | None) -> EncoderStamp | None:
    """Return what identifies an encoder; None for none."""
    if encoder is None:
        return None
    return EncoderStamp(
        weights_hash=encoder.weights_hash,
        layer=encoder.layer,
        pool=encoder.pool,
        past=encoder.past,
        fingerprint=encoder.fingerprint,
        dim=encoder.dim,
    )


class ObservationEmbedder:
    """Embed the compressed frames of several episodes as they come, in step or not.

    An encoder with a past has one for each camera of each episode. Embeddings are rounded to
    float16 (relative error 0.0005), as they are stored, so that a student acts on the numbers that
    it was trained on.
    """

    def __init__(self, encoder: FrameEncoder, num_episodes: int, num_cameras: int) -> None:
        self._num_cameras = num_cameras
        self._streams = encoder.open_streams(num_episodes * num_cameras)

    def embed(self, codes: Codes, episodes: Sequence[int]) -> NDArray[np.float16]:
        """Return the embeddings [k c e] of the newest frames [k c n] of k episodes.

        Args:
            codes: of the frames.
            episodes: whose they are, counted from 0.
        """
        cameras = range(self._num_cameras)
        streams = [row * self._num_cameras + camera for row in episodes for camera in cameras]
        embeddings = self._streams.embed(codes.reshape(-1, codes.shape[-1]), streams)
        return embeddings.astype(np.float16).reshape(*codes.shape[:-1], -1)


def embed_episode(encoder: FrameEncoder, codes: Codes) -> NDArray[np.float16]:
    """Return the embeddings [t c e] of an episode's compressed frames [t c n]."""
    if encoder.past != NO_PAST:
        embedder = ObservationEmbedder(encoder, 1, codes.shape[1])
        return np.stack([embedder.embed(frames[None], [0])[0] for frames in codes])
    flat = codes.reshape(-1, codes.shape[-1])
    parts = [encoder.embed(flat[at : at + _BATCH]) for at in range(0, len(flat), _BATCH)]
    return np.concatenate(parts).astype(np.float16).reshape(*codes.shape[:2], -1)
