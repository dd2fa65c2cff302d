"""The interface of all encoders, and helpers that need only this interface.

    embeddings = encoder(frames)                     # uint8 [b h w 3] -> float32 [b e]
    codes = encoder.compress(frames)                 # the stored form of a frame: [b n]
    embeddings = encoder.embed(codes)                # the same; bit-identical if codes are tokens
    streams = encoder.open_streams(num_streams)      # frames of several episodes, in temporal order

An `Encoder` (Toto) stores a frame as token ids. A vision transformer, a Toto over patches and an
exported graph have no token ids; they store the embedding itself in float16. `StreamedEncoder` is
an `Encoder` whose embeddings depend on earlier frames of the episode. Code that stores, embeds or
compares frames needs only this interface.
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

NO_PAST = "none"  # `FrameEncoder.past` of an encoder that embeds each frame by itself

Codes = NDArray[Any]  # uint16 ids or float16 embeddings, [*b n]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeFormat:
    """The format of a frame in a demonstration store (the folder of encoded episodes).

    Attributes:
        size: number n of values per frame.
        fingerprint: hash of everything that determines the values: the tokenizer's weights, or the
            whole encoder if the embedding itself is stored. Codes with equal fingerprints are
            interchangeable.
    """

    size: int
    fingerprint: str


@runtime_checkable
class FrameEmbedder(Protocol):
    """The interface that a wrapper without a stream needs.

    Attributes:
        dim: width e of the embedding.
    """

    dim: int

    def __call__(self, frames: Any, /) -> Any:
        """Return the embeddings float32 [b e] of uint8 RGB frames [b h w 3], array or tensor."""
        ...


@runtime_checkable
class FrameStreams(Protocol):
    """Streams that embed the frames of several episodes, each stream with its own cache."""

    def embed(self, codes: Codes, streams: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings [k e] of the newest frames [k n] of k different streams."""
        ...


@runtime_checkable
class FrameEncoder(FrameEmbedder, Protocol):
    """A frozen encoder of camera frames.

    Attributes:
        layer: the layer that is pooled.
        pool: how the layer's tokens are combined into one embedding.
        image_size: side that frames are resized to, pixels.
        weights_hash: sha256 of all weights, independent of layer and pool.
        past: text that says which earlier frames an embedding depends on; `NO_PAST`: none.
    """

    layer: int
    pool: str
    image_size: int
    weights_hash: str
    past: str

    @property
    def fingerprint(self) -> str:
        """Hash that is equal for encoders with interchangeable embeddings."""
        ...

    @property
    def codes(self) -> CodeFormat:
        """The format of what `compress` returns."""
        ...

    def compress(self, frames: Any) -> Codes:
        """Return uint8 RGB frames [b h w 3] in their stored form [b n].

        Raises:
            ValueError: the frames are invalid, or values do not fit into 16 bits.
        """
        ...

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] of compressed frames [b n], each by itself.

        Raises:
            ValueError: the codes are not possible outputs of `compress`.
        """
        ...

    def open_streams(self, num_streams: int) -> FrameStreams:
        """Return streams at the beginning of their episodes.

        If the encoder embeds each frame by itself, its streams ignore earlier frames.
        """
        ...


@runtime_checkable
class StreamableEncoder(Protocol):
    """The interface of a Toto that a stream needs."""

    @property
    def transformer(self) -> CausalModel:
        """The causal model."""
        ...

    @property
    def pooling(self) -> Callable[[Tensor], Tensor]:
        """The pooling function."""
        ...

    @property
    def layer(self) -> int:
        """The layer that is pooled."""
        ...

    @property
    def repeat_frame(self) -> bool:
        """Whether the encoder reads each frame twice, which a stream does not support."""
        ...

    @property
    def frame_interval_s(self) -> float | None:
        """Seconds between the frames of the training videos; None if unknown."""
        ...

    def tokenize(self, frames: Any) -> Tensor:
        """Return the tokens int64 [b n] of uint8 RGB frames [b h w 3]."""
        ...

    def check_tokens(self, ids: object) -> Tensor:
        """Return tokens [b n] as int64 on the encoder's device.

        Raises:
            ValueError: the ids cannot be output of the tokenizer.
        """
        ...


class IndependentFrames:
    """Streams of an encoder that embeds each frame by itself."""

    def __init__(self, encoder: FrameEncoder) -> None:
        self._encoder = encoder

    def embed(self, codes: Codes, streams: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings [k e] of the newest frames [k n] of k different streams."""
        del streams
        return self._encoder.embed(codes)


def compress_each(encoder: FrameEncoder, frames: Sequence[NDArray[np.uint8]]) -> Codes:
    """Return the codes [b n] of frames [h w 3]; frames of equal size are compressed in one call.

    Raises:
        ValueError: there are no frames.
    """
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
    """Return embeddings [b e] in the form in which they are stored, float16.

    Raises:
        ValueError: a value is outside the range of float16.
    """
    with np.errstate(over="ignore"):
        codes = embeddings.astype(np.float16)
    if not np.isfinite(codes).all():
        raise ValueError(f"embeddings of pool {pool!r} do not fit into float16")
    return codes


def from_float16_codes(codes: Codes) -> NDArray[np.float32]:
    """Return the embeddings [b e] that `as_float16_codes` stored.

    Stores of version 0.1 hold the same 16 bits with the dtype uint16.

    Raises:
        ValueError: the codes have another dtype.
    """
    if codes.dtype not in (np.float16, np.uint16):
        raise ValueError(f"stored embeddings must be float16, got {codes.dtype}")
    return np.ascontiguousarray(codes).view(np.float16).astype(np.float32)


def refuse_gradients(requires_grad: bool) -> None:
    """Raise if gradients are requested of a frozen encoder.

    Raises:
        ValueError: gradients are requested; the message names the parts that have them.
    """
    if requires_grad:
        raise ValueError(
            "the encoder is frozen: no gradient passes through it. To train a read-out, open "
            "it with pool='attention' and optimise encoder.pooling.parameters(); to fine-tune "
            "the model itself, use encoder.transformer"
        )
