"""A Toto encoder whose embedding of a frame depends on the earlier frames of its episode.

encoder = StreamedEncoder(load_toto("toto-nano"), StreamConfig(context=4))
streams = encoder.open_streams(2)
embeddings = streams.embed(encoder.compress(frames), [0, 1])        # next frames of both episodes
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .contract import CodeFormat, Codes
from .encoder import Encoder
from .streaming import EncoderStream, StreamConfig

__all__ = ["StreamedEncoder", "surprise_stream"]


class StreamedEncoder:
    """A Toto encoder whose embeddings depend on earlier frames of the episode.

    Attributes:
        encoder: the encoder of single frames.
        dim: number e of values in an embedding.
        layer: number of the layer whose features are pooled; 0 is the embedding of the input.
        pool: name of the pool, such as `mean`.
        image_size: side of the square to which frames are resized, pixels.
        past: text that describes the earlier frames on which an embedding depends.
        weights_hash: sha256 of all weights.
        fingerprint: sha256 of weights, layer, pool and stream settings. If it is equal for two
            encoders, their embeddings are interchangeable.
    """

    def __init__(self, encoder: Encoder, stream: StreamConfig) -> None:
        self.encoder, self._stream = encoder, stream
        opened = stream.open(encoder, 1)
        # resolved settings; the camera's rate is not one of them: it does not change embeddings
        self.past = f"{opened.mode}, {opened.context} frames, every {opened.frame_skip}"
        self.dim, self.layer, self.pool = encoder.dim, encoder.layer, encoder.pool
        self.image_size = encoder.image_size
        self.weights_hash = encoder.weights_hash
        identity = f"{encoder.fingerprint} {self.past}"
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    @property
    def codes(self) -> CodeFormat:
        """The format of the codes that `compress` returns, which are token ids."""
        return self.encoder.codes

    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Return the embeddings [b e] of frames [b h w 3]; each frame begins an episode."""
        ids = self.encoder.tokenize(frames)
        return self._stream.open(self.encoder, len(ids)).step_tokens(ids)

    def compress(self, frames: np.ndarray | Tensor) -> Codes:
        """Return the token ids uint16 [b n] of b frames [b h w 3], n tokens per frame."""
        return self.encoder.compress(frames)

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] of token ids [b n]; each frame begins an episode."""
        return self.open_streams(len(codes)).embed(codes, range(len(codes)))

    def open_streams(self, num_streams: int) -> "StreamedFrames":
        """Return `num_streams` streams, each at the beginning of an episode."""
        return StreamedFrames(self._stream.open(self.encoder, num_streams))


class StreamedFrames:
    """A set of streams of a `StreamedEncoder`, one for each episode."""

    def __init__(self, stream: EncoderStream) -> None:
        self._stream = stream

    @torch.no_grad()
    def embed(self, codes: Codes, streams: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings [k e] of the newest frames of k streams.

        `codes` [k n] contains the n codes of each frame, and `streams` the indices of the k
        streams. An embedding has e values. The other streams do not change.
        """
        ids = torch.from_numpy(codes.astype(np.int64))
        embeddings: Any = self._stream.step_tokens(ids, None, streams).cpu().numpy()
        return embeddings


def surprise_stream(encoder: object, num_streams: int) -> EncoderStream:
    """Return a stream that also computes surprisal, the negative log-probability of each token.

    Raises:
        ValueError: the encoder is not a Toto, reads frames twice (`repeat_frame`), or is a
            `StreamedEncoder`.
    """
    if not isinstance(encoder, Encoder) or encoder.repeat_frame:
        raise ValueError(
            "surprise needs a Toto encoder without repeat_frame and without a stream of its own, "
            f"got {type(encoder).__name__}"
        )
    return encoder.stream(num_streams, surprise=True)
