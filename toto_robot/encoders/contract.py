"""The contract of all encoders, and the little that is built on it alone.

    embeddings = encoder(frames)                     # uint8 [b h w 3] -> float32 [b e]
    codes = encoder.compress(frames)                 # what a store keeps of a frame: [b n]
    embeddings = encoder.embed(codes)                # the same embeddings, to the bit for tokens
    streams = encoder.open_streams(num_streams)      # frames of several episodes, as they come

`Encoder` (a Toto) keeps a frame as the ids of its tokens; a vision transformer, a Toto over patches
and an exported graph have no ids and keep the embedding itself, in float16. `StreamedEncoder` is an
`Encoder` whose embeddings depend on the earlier frames of the episode. Code that stores, embeds or
compares needs nothing else of an encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..models import CausalModel

__all__ = [
    "NO_PAST",
    "CodeFormat",
    "FrameEmbedder",
    "FrameEncoder",
    "FrameStreams",
    "IndependentFrames",
    "StreamableEncoder",
    "as_float16_codes",
    "compress_each",
    "from_float16_codes",
    "refuse_gradients",
]

NO_PAST = "none"  # `FrameEncoder.past` where each frame is embedded by itself

Codes = NDArray[Any]  # uint16 ids or float16 embeddings, [*b n]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeFormat:
    """What a store keeps of a frame.

    Attributes:
        size: numbers n of a frame.
        fingerprint: hash of all that makes them: the tokenizer's weights, or the whole encoder
            where the embedding itself is kept. Codes of equal fingerprints are interchangeable.
    """

    size: int
    fingerprint: str


@runtime_checkable
class FrameEmbedder(Protocol):
    """What a wrapper without a stream needs: a width and a call.

    Attributes:
        dim: width e of the embedding.
    """

    dim: int

    def __call__(self, frames: Any, /) -> Any:
        """Return the embeddings float32 [b e] of uint8 RGB frames [b h w 3], array or tensor."""
        ...


@runtime_checkable
class FrameStreams(Protocol):
    """Embed the frames of several episodes as they come, each stream with a past of its own."""

    def embed(self, codes: Codes, streams: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings [k e] of the newest frames [k n] of k different streams."""
        ...


@runtime_checkable
class FrameEncoder(FrameEmbedder, Protocol):
    """A frozen encoder of camera frames.

    Attributes:
        layer: the layer that is pooled.
        pool: how its tokens become one embedding.
        image_size: side that frames are resized to, pixels.
        weights_hash: sha256 of all its weights, whatever the layer and the pool.
        past: which earlier frames an embedding depends on: `NO_PAST`, or the stream's settings.
    """

    layer: int
    pool: str
    image_size: int
    weights_hash: str
    past: str

    @property
    def fingerprint(self) -> str:
        """Hash that two encoders share if their embeddings are interchangeable."""
        ...

    @property
    def codes(self) -> CodeFormat:
        """What `compress` returns."""
        ...

    def compress(self, frames: Any) -> Codes:
        """Return what a store keeps of uint8 RGB frames [b h w 3]: [b n].

        Raises:
            ValueError: wrong frames, or values that do not fit into 16 bits.
        """
        ...

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] of compressed frames [b n], each by itself.

        Raises:
            ValueError: codes that `compress` cannot have made.
        """
        ...

    def open_streams(self, num_streams: int) -> FrameStreams:
        """Begin episodes: with no past, or where each frame is embedded by itself, without one."""
        ...


@runtime_checkable
class StreamableEncoder(Protocol):
    """What a stream needs of a Toto."""

    @property
    def transformer(self) -> CausalModel:
        """The causal model."""
        ...

    @property
    def pooling(self) -> Callable[[Tensor], Tensor]:
        """The pool."""
        ...

    @property
    def layer(self) -> int:
        """The layer that is pooled."""
        ...

    @property
    def repeat_frame(self) -> bool:
        """Whether a frame is fed twice, which a stream cannot do."""
        ...

    @property
    def frame_interval_s(self) -> float | None:
        """Seconds between the frames of the training videos; None if unknown."""
        ...

    def tokenize(self, frames: Any) -> Tensor:
        """Return the tokens int64 [b n] of uint8 RGB frames [b h w 3]."""
        ...

    def check_tokens(self, ids: object) -> Tensor:
        """Return tokens [b n] as int64 on the encoder's device, or raise ValueError."""
        ...


class IndependentFrames:
    """The streams of an encoder that embeds each frame by itself."""

    def __init__(self, encoder: FrameEncoder) -> None:
        self._encoder = encoder

    def embed(self, codes: Codes, streams: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings [k e] of the newest frames [k n] of k different streams."""
        del streams
        return self._encoder.embed(codes)


def compress_each(encoder: FrameEncoder, frames: Sequence[NDArray[np.uint8]]) -> Codes:
    """Return the codes [b n] of frames [h w 3], compressed in one call for each size among them."""
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, frame in enumerate(frames):
        rows_of.setdefault(frame.shape, []).append(row)
    codes: Codes | None = None
    for rows in rows_of.values():
        some = encoder.compress(np.stack([frames[row] for row in rows]))
        if codes is None:
            codes = np.empty((len(frames), some.shape[1]), some.dtype)
        codes[rows] = some
    if codes is None:
        raise ValueError("no frames to compress")
    return codes


def as_float16_codes(embeddings: NDArray[np.floating[Any]], pool: str) -> NDArray[np.float16]:
    """Return embeddings [b e] as what a store keeps where there are no tokens.

    Raises:
        ValueError: an embedding does not fit into float16.
    """
    with np.errstate(over="ignore"):
        codes = embeddings.astype(np.float16)
    if not np.isfinite(codes).all():
        raise ValueError(f"embeddings of pool {pool!r} do not fit into float16")
    return codes


def from_float16_codes(codes: Codes) -> NDArray[np.float32]:
    """Return the embeddings [b e] that were kept by `as_float16_codes`.

    Stores of version 0.1 hold the same 16 bits under the name of uint16.

    Raises:
        ValueError: codes of another type.
    """
    if codes.dtype not in (np.float16, np.uint16):
        raise ValueError(f"kept embeddings are float16, got {codes.dtype}")
    return np.ascontiguousarray(codes).view(np.float16).astype(np.float32)


def refuse_gradients(requires_grad: bool) -> None:
    """Raise where a frozen encoder is asked for gradients, and say what has some.

    Raises:
        ValueError: gradients are asked for.
    """
    if requires_grad:
        raise ValueError(
            "the encoder is frozen: no gradient passes through it. To train a read-out, open "
            "it with pool='attention' and optimise encoder.pooling.parameters(); to fine-tune "
            "the model itself, use encoder.transformer"
        )
