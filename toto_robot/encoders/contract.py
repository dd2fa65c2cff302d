"""The methods that all encoders have, as protocols, and helper functions that use only them.

    embeddings = encoder(frames)                     # uint8 [b h w 3] -> float32 [b e]
    codes = encoder.compress(frames)                 # compact form for saving frames: [b n]
    embeddings = encoder.embed(codes)                # as above; rounded if codes are not tokens
    streams = encoder.open_streams(num_streams)      # encode episodes frame by frame

The *codes* of a frame are the n values with which data sets save it. For an `Encoder` (Toto), they
are token ids. A vision transformer, a Toto over patches and an exported graph have no token ids;
their codes are the embedding itself in float16. A `StreamedEncoder` uses an `Encoder` and has the
same codes, but its embeddings depend on earlier frames of the episode. Code that saves, embeds or
compares frames works with all these encoders if it uses only the methods of this module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models import CausalModel

__all__ = [
    "BATCH",
    "NO_PAST",
    "CodeFormat",
    "FrameEmbedder",
    "FrameEncoder",
    "FrameStreams",
    "HashedWeights",
    "IndependentFrames",
    "StreamableEncoder",
    "as_float16_codes",
    "check_embeddings",
    "compress_each",
    "compress_in_batches",
    "from_float16_codes",
    "refuse_gradients",
    "require_embedder",
    "require_no_past",
]

BATCH = 32  # frames that are encoded at once: 32 x 480 x 640 pixels need about 0.25 GB
NO_PAST = "none"  # `FrameEncoder.past` if an embedding depends on one frame only

Codes = NDArray[Any]  # uint16 ids or float16 embeddings, [*b n]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeFormat:
    """The format of a frame's codes, which are saved in a demonstration store (folder of episodes).

    Attributes:
        size: number n of codes per frame.
        fingerprint: hash of everything that determines the codes: of the tokenizer's weights if the
            codes are tokens, or of the whole encoder if they are the embedding. Codes with equal
            fingerprints are interchangeable.
    """

    size: int
    fingerprint: str


@runtime_checkable
class FrameEmbedder(Protocol):
    """The methods of an encoder that an environment wrapper needs if it does not use a stream.

    Attributes:
        dim: number e of values in an embedding.
    """

    dim: int

    def __call__(self, frames: Any, /) -> Any:
        """Return the embeddings float32 [b e] of uint8 RGB frames [b h w 3].

        There are b frames, given as a numpy array or a tensor; an embedding has e values.
        """
        ...


@runtime_checkable
class FrameStreams(Protocol):
    """Streams that embed the frames of several episodes; each stream is for one episode."""

    def embed(self, codes: Codes, streams: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings [k e] of the newest frames of k streams.

        `codes` [k n] contains the n codes of each frame, and `streams` the indices of the k
        streams. An embedding has e values. The other streams do not change.
        """
        ...


@runtime_checkable
class FrameEncoder(FrameEmbedder, Protocol):
    """A frozen encoder of camera frames.

    Attributes:
        pool: name of the method that combines the features of all tokens to one embedding.
        image_size: side of the square to which frames are resized, pixels.
        weights_hash: sha256 of all weights, independent of layer and pool.
        past: text that describes the earlier frames on which an embedding depends; `NO_PAST`: it
            depends on one frame only.
    """

    pool: str
    image_size: int
    weights_hash: str
    past: str

    @property
    def layer(self) -> int | tuple[int, ...]:
        """Number of the layer whose features are pooled, or of several; 0 is the input."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash; if it is equal for two encoders, their embeddings are interchangeable."""
        ...

    @property
    def codes(self) -> CodeFormat:
        """The format of the codes that `compress` returns."""
        ...

    def compress(self, frames: Any) -> Codes:
        """Return the codes [b n] of b uint8 RGB frames [b h w 3], n codes per frame.

        Raises:
            ValueError: the frames are invalid, or values do not fit into 16 bits.
        """
        ...

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] of frames from their codes [b n], without earlier frames.

        Raises:
            ValueError: the codes are not possible outputs of `compress`.
        """
        ...

    def open_streams(self, num_streams: int) -> FrameStreams:
        """Return streams for `num_streams` episodes, each before the first frame of an episode.

        If the encoder's embeddings depend on one frame only, its streams ignore earlier frames.
        """
        ...


@runtime_checkable
class StreamableEncoder(Protocol):
    """The methods and attributes of a Toto that a stream needs."""

    @property
    def transformer(self) -> CausalModel:
        """The causal model, which predicts tokens and provides their features."""
        ...

    @property
    def pooling(self) -> Callable[[Tensor], Tensor]:
        """The function that combines token features [b n d] to embeddings [b e]."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers whose features are pooled; 0 is the token embedding."""
        ...

    @property
    def repeat_frame(self) -> bool:
        """True if the encoder reads each frame twice, which a stream does not support."""
        ...

    @property
    def frame_interval_s(self) -> float | None:
        """Time between two frames of the training videos, seconds; None if it is unknown."""
        ...

    def tokenize(self, frames: Any) -> Tensor:
        """Return the tokens int64 [b n] of b uint8 RGB frames [b h w 3], n tokens per frame."""
        ...

    def check_tokens(self, ids: object) -> Tensor:
        """Check tokens [b n], and return them as int64 on the encoder's device.

        Raises:
            ValueError: the ids cannot be output of the tokenizer.
        """
        ...


class IndependentFrames:
    """Streams of an encoder whose embeddings depend on one frame only."""

    def __init__(self, encoder: FrameEncoder) -> None:
        self._encoder = encoder

    def embed(self, codes: Codes, streams: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings [k e] of the newest frames of k streams.

        `codes` [k n] contains the n codes of each frame, and `streams` the indices of the k
        streams. An embedding has e values. The other streams do not change.
        """
        del streams
        return self._encoder.embed(codes)


def compress_each(encoder: FrameEncoder, frames: Sequence[NDArray[np.uint8] | Tensor]) -> Codes:
    """Return the codes [b n] of b frames [h w 3], which may have different sizes.

    Frames of equal size are encoded in one call; they are all arrays or all tensors. Tensors stay
    on their device.

    Raises:
        ValueError: there are no frames.
    """
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, frame in enumerate(frames):
        rows_of.setdefault(tuple(frame.shape), []).append(row)
    codes: Codes | None = None
    for rows in rows_of.values():
        same: list[Any] = [frames[row] for row in rows]
        stack = torch.stack if isinstance(same[0], Tensor) else np.stack
        some = encoder.compress(stack(same))
        if codes is None:
            codes = np.empty((len(frames), some.shape[1]), some.dtype)
        codes[rows] = some
    if codes is None:
        raise ValueError("no frames to compress")
    return codes


def compress_in_batches(encoder: FrameEncoder, frames: NDArray[np.uint8]) -> Codes:
    """Return the codes [b n] of b frames [b h w 3], such as an episode, `BATCH` frames at once."""
    parts = range(0, len(frames), BATCH)
    return np.concatenate([encoder.compress(frames[first : first + BATCH]) for first in parts])


def as_float16_codes(embeddings: NDArray[np.floating[Any]], pool: str) -> NDArray[np.float16]:
    """Convert embeddings [b e] to float16, the form in which they are saved.

    Raises:
        ValueError: a value is outside the range of float16.
    """
    with np.errstate(over="ignore"):
        codes = embeddings.astype(np.float16)
    if not np.isfinite(codes).all():
        raise ValueError(f"embeddings of pool {pool!r} do not fit into float16")
    return codes


def from_float16_codes(codes: Codes) -> NDArray[np.float32]:
    """Return the embeddings [b e] from their saved form, the result of `as_float16_codes`.

    Files of version 0.1 contain the same bits as an array of uint16, which is also accepted.

    Raises:
        ValueError: the codes have another dtype.
    """
    if codes.dtype not in (np.float16, np.uint16):
        raise ValueError(f"stored embeddings must be float16, got {codes.dtype}")
    return np.ascontiguousarray(codes).view(np.float16).astype(np.float32)


class HashedWeights(nn.Module):
    """A module whose hash of the weights follows `load_state_dict`."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights, as `torch.nn.Module` does, and compute their hash."""
        found = super().load_state_dict(state_dict, strict, assign)
        self._hash_weights()
        return found

    def _hash_weights(self) -> None:
        raise NotImplementedError


def require_embedder(encoder: object) -> None:
    """Raise an error if an object is no `FrameEmbedder`, for example an encoder without `dim`.

    Raises:
        TypeError: the object has no `dim` of at least 1, or cannot be called.
    """
    dim = getattr(encoder, "dim", None)
    if not (callable(encoder) and isinstance(dim, Integral) and int(dim) >= 1):
        raise TypeError(
            f"{type(encoder).__name__} is no encoder: an encoder has `dim`, the number of values "
            f"of an embedding (here {dim!r}), and a call that returns the embeddings float32 "
            "[b dim] of uint8 RGB frames [b h w 3]"
        )


def check_embeddings(embeddings: Any, encoder: FrameEmbedder, num_frames: int) -> None:
    """Raise an error if the result of a call of an encoder does not have the shape [b e].

    Args:
        embeddings: what the encoder returned.
        encoder: the encoder.
        num_frames: number b of frames that were encoded.

    Raises:
        ValueError: the result is no array or tensor, or has another shape.
    """
    shape = getattr(embeddings, "shape", None)
    if shape is None or tuple(shape) != (num_frames, encoder.dim):
        found = type(embeddings).__name__ if shape is None else f"shape {list(shape)}"
        raise ValueError(
            f"{type(encoder).__name__} returned {found} for {num_frames} frames; embeddings are an "
            f"array or a tensor [b dim], here [{num_frames}, {encoder.dim}]"
        )


def require_no_past(encoder: object, instead: str) -> None:
    """Raise an error if embeddings depend on earlier frames, which the caller does not pass.

    Args:
        encoder: the encoder.
        instead: what the caller accepts instead, for the message.

    Raises:
        ValueError: embeddings depend on earlier frames.
    """
    if (past := getattr(encoder, "past", NO_PAST)) != NO_PAST:
        raise ValueError(f"{type(encoder).__name__} uses earlier frames ({past}): give {instead}")


def refuse_gradients(requires_grad: bool) -> None:
    """Raise an error if gradients of a frozen encoder are requested.

    Raises:
        ValueError: gradients are requested; the message names the parts that can have gradients.
    """
    if requires_grad:
        raise ValueError(
            "the encoder is frozen: no gradient passes through it. To train a read-out, open "
            "it with pool='attention' and optimise encoder.pooling.parameters(); to fine-tune "
            "the model itself, use encoder.transformer"
        )
