"""Which eyes a policy has: a trained encoder, an untrained one, a vision transformer, or none.

The untrained one has the same architecture and so the same cost; the blind policy sees its joints
only. What the trained one is worth shows beside these two, and beside the eyes that others use.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toto_robot import Encoder, StreamConfig, load_encoder
from toto_robot.checkpoint import weights_hash
from toto_robot.encoders.streaming import EncoderStream
from toto_robot.encoders.vit import VitEncoder

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

    def build(self, device: torch.device) -> Encoder:
        """Load it."""
        encoder = load_encoder(
            self.name_or_path,
            layer=self.layer,
            pool=self.pool,
            device=device,
            repeat_frame=self.repeat_frame,
        )
        if self.stream is None:
            return encoder
        # policies use no more of an encoder than `StreamedEyes` has
        return cast(Encoder, StreamedEyes(encoder, self.stream))


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

    def build(self, device: torch.device) -> Encoder:
        """Draw it."""
        trained = load_encoder(self.name_or_path, layer=self.layer, pool=self.pool)
        return trained.untrained(self.seed).to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoVision:
    """Proprioception alone; no picture is drawn."""

    kind: ClassVar[str] = "none"

    def build(self, device: torch.device) -> None:
        """Give nothing."""


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

    def build(self, device: torch.device) -> Encoder:
        """Load it."""
        if self.format is None:
            encoder = load_encoder(
                self.name_or_path, layer=self.layer, pool=self.pool, device=device
            )
        else:
            encoder = load_encoder(
                self.name_or_path,
                layer=self.layer,
                pool=self.pool,
                device=device,
                format=self.format,
                heads=self.heads,
                image_size=self.image_size,
                statistics=self.statistics,
            )
        # policies use no more of an encoder than `VitEyes` has
        return cast(Encoder, VitEyes(cast(VitEncoder, encoder)))


VisionConfig = TotoVision | RandomVision | VitVision | NoVision


class VitEyes:
    """A vision transformer where an `Encoder` is expected: what it keeps of a frame is no token.

    It has no tokens, so in their place stands the embedding itself, in float16: the 16 bits of each
    number, as an id. A store then holds embeddings, of this layer and pool alone, which is 2 dim
    bytes a frame, and can be read by no other eyes.

    Attributes:
        dim: width of the embedding.
        layer: the layer that is pooled.
        pool: the pool.
        weights_hash: of all its weights.
        fingerprint: of weights, layer and pool.
        tokens_per_frame: ids that are kept of a frame: `dim`.
    """

    def __init__(self, encoder: VitEncoder) -> None:
        self._encoder = encoder
        self.dim = self.tokens_per_frame = encoder.dim
        self.layer, self.pool = encoder.layer, encoder.pool
        self.weights_hash, self.fingerprint = encoder.weights_hash, encoder.fingerprint

    @torch.no_grad()
    def tokenize(self, frames: NDArray[np.uint8]) -> Tensor:
        """Give the bits of the embeddings of frames [b h w 3]: int64 [b e], below 65536.

        Raises:
            ValueError: an embedding does not fit into float16.
        """
        embeddings = self._encoder(frames).half()
        if not torch.isfinite(embeddings).all():
            raise ValueError(f"embeddings of pool {self.pool!r} do not fit into float16")
        return embeddings.view(torch.int16).long() & 0xFFFF

    def from_tokens(self, ids: Tensor) -> Tensor:
        """Give the embeddings [b e] back, exactly as they were kept."""
        return ids.to(torch.int16).view(torch.float16).float()


class StreamedEyes:
    """An encoder whose embedding of a frame depends on those before it in the episode.

    It shows what `Encoder` shows, and is looked through by `begin_viewing`.

    Attributes:
        dim: width of the embedding.
        layer: the layer that is pooled.
        pool: the pool.
        past: the stream's settings, in words.
        tokenizer: the encoder's.
        tokens_per_frame: tokens of one frame.
        weights_hash: of all its weights.
        fingerprint: of weights, layer, pool and past.
    """

    def __init__(self, encoder: Encoder, stream: StreamConfig) -> None:
        self._encoder, self._stream = encoder, stream
        opened = self.open(1)
        # neither the default of the context nor the camera's rate makes other embeddings
        self.past = f"{opened.mode}, {opened.context} frames, every {opened.frame_skip}"
        self.dim, self.layer, self.pool = encoder.dim, encoder.layer, encoder.pool
        self.tokenizer, self.tokens_per_frame = encoder.tokenizer, encoder.tokens_per_frame
        self.weights_hash = encoder.weights_hash
        identity = f"{encoder.fingerprint} {self.past}"
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def tokenize(self, frames: NDArray[np.uint8]) -> Tensor:
        """Give the tokens of frames [b h w 3], int64 [b n]."""
        return self._encoder.tokenize(frames)

    def open(self, num_cameras: int) -> EncoderStream:
        """Begin a stream of so many cameras."""
        return self._stream.open(self._encoder, num_cameras)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderStamp:
    """What identifies an encoder: with equal fingerprints, embeddings are interchangeable.

    Attributes:
        weights_hash: of all its weights.
        layer: the layer that is pooled.
        pool: the pool.
        past: what it sees beside the newest frame: `none`, or the stream's settings.
        fingerprint: of all these.
        dim: width of an embedding.
    """

    weights_hash: str
    layer: int
    pool: str
    past: str
    fingerprint: str
    dim: int


def stamp(encoder: Encoder | None) -> EncoderStamp | None:
    """Give an encoder's stamp; None for none."""
    if encoder is None:
        return None
    return EncoderStamp(
        weights_hash=encoder.weights_hash,
        layer=encoder.layer,
        pool=encoder.pool,
        past=encoder.past if isinstance(encoder, StreamedEyes) else "none",
        fingerprint=encoder.fingerprint,
        dim=embedding_width(encoder),
    )


def embedding_width(encoder: Encoder | None) -> int:
    """Give the width of an encoder's embeddings; 0 for none."""
    if encoder is None:
        return 0
    assert isinstance(encoder.dim, int)
    return encoder.dim


def tokenizer_hash(encoder: Encoder | None) -> str | None:
    """Give the hash of what makes stored tokens: the tokenizer's weights; None without an encoder.

    A vision transformer stores embeddings, so there it is the fingerprint.
    """
    if isinstance(encoder, VitEyes):
        return encoder.fingerprint
    return None if encoder is None else weights_hash(encoder.tokenizer)


def tokenize(encoder: Encoder, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint16]:
    """Tokenise frames [h w 3] in one call for each size among them; uint16 [b n].

    Raises:
        ValueError: the codebook has more codes than 16 bits can name.
    """
    tokens = np.empty((len(frames), encoder.tokens_per_frame), np.uint16)
    shapes = [frame.shape for frame in frames]
    for shape in dict.fromkeys(shapes):
        rows = [row for row, other in enumerate(shapes) if other == shape]
        ids = encoder.tokenize(np.stack([frames[row] for row in rows])).cpu().numpy()
        if ids.size and ids.max() > np.iinfo(np.uint16).max:
            raise ValueError("stored tokens have 16 bits, this tokenizer has more codes")
        tokens[rows] = ids
    return tokens


def embed(encoder: Encoder, tokens: NDArray[np.uint16]) -> NDArray[np.float16]:
    """Give the embeddings [*b e] of tokens [*b n], as they are stored.

    A student acts on these very numbers too, rounded to float16 (relative error 0.0005), so that
    it meets in the world what it was trained on.
    """
    flat = torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]).astype(np.int64))
    with torch.no_grad():
        embeddings = encoder.from_tokens(flat)
    return embeddings.to("cpu", torch.float16).numpy().reshape(*tokens.shape[:-1], -1)


class Viewing:
    """Embed the frames of several episodes as they come, in step or not.

    With `StreamedEyes` each camera of each episode has a past of its own.
    """

    def __init__(self, encoder: Encoder, num_episodes: int, num_cameras: int) -> None:
        self._encoder, self._num_cameras = encoder, num_cameras
        self._stream: EncoderStream | None = None
        if isinstance(encoder, StreamedEyes):
            self._stream = encoder.open(num_episodes * num_cameras)

    def look(self, tokens: NDArray[np.uint16], episodes: Sequence[int]) -> NDArray[np.float16]:
        """Give the embeddings [k c e] of the newest frames [k c n] of k episodes.

        Args:
            tokens: of the frames.
            episodes: whose they are, counted from 0.
        """
        if self._stream is None:
            return embed(self._encoder, tokens)
        num_cameras = self._num_cameras
        rows = [row * num_cameras + camera for row in episodes for camera in range(num_cameras)]
        flat = torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]).astype(np.int64))
        with torch.no_grad():
            embeddings = self._stream.step_tokens(flat, None, rows)
        return embeddings.to("cpu", torch.float16).numpy().reshape(*tokens.shape[:-1], -1)


def embed_episode(encoder: Encoder, tokens: NDArray[np.uint16]) -> NDArray[np.float16]:
    """Give the embeddings [t c e] of an episode's frames [t c n]."""
    if isinstance(encoder, StreamedEyes):
        viewing = Viewing(encoder, 1, tokens.shape[1])
        return np.stack([viewing.look(frames[None], [0])[0] for frames in tokens])
    flat = tokens.reshape(-1, tokens.shape[-1])
    parts = [embed(encoder, flat[first : first + _BATCH]) for first in range(0, len(flat), _BATCH)]
    return np.concatenate(parts).reshape(*tokens.shape[:2], -1)
