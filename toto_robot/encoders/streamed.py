"""A Toto encoder whose embedding of a frame depends on the earlier frames of its episode.

encoder = StreamedEncoder(load_toto("toto-nano"), StreamConfig(context=4))
streams = encoder.open_streams(2)
embeddings = streams.embed(encoder.compress(frames), [0, 1])        # the next frame of both
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
    """A `FrameEncoder` whose embeddings depend on earlier frames.

    Attributes:
        dim: width e of the embedding.
        layer: the layer that is pooled.
        pool: name of the pool, such as `mean`.
        image_size: side that frames are resized to, pixels.
        past: text with the settings of the stream.
        weights_hash: sha256 of all weights.
        fingerprint: sha256 of weights, layer, pool and stream settings.
    """

    def __init__(self, encoder: Encoder, stream: StreamConfig) -> None:
        self._encoder, self._stream = encoder, stream
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
        """The format of what `compress` returns: the token ids of the tokenizer."""
        return self._encoder.codes

    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Return the embeddings [b e] of frames [b h w 3], each as the first of an episode."""
        ids = self._encoder.tokenize(frames)
        return self._stream.open(self._encoder, len(ids)).step_tokens(ids)

    def compress(self, frames: np.ndarray | Tensor) -> Codes:
        """Return the token ids uint16 [b n] of frames [b h w 3]."""
        return self._encoder.compress(frames)

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] of compressed frames, each as the first of an episode."""
        return self.open_streams(len(codes)).embed(codes, range(len(codes)))

    def open_streams(self, num_streams: int) -> "StreamedFrames":
        """Return `num_streams` streams, each at the beginning of an episode."""
        return StreamedFrames(self._stream.open(self._encoder, num_streams))


class StreamedFrames:
    """Several streams of a `StreamedEncoder`."""

    def __init__(self, stream: EncoderStream) -> None:
        self._stream = stream

    @torch.no_grad()
    def embed(self, codes: Codes, streams: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings [k e] of the newest frames [k n] of k different streams."""
        ids = torch.from_numpy(codes.astype(np.int64))
        embeddings: Any = self._stream.step_tokens(ids, None, streams).cpu().numpy()
        return embeddings


def surprise_stream(encoder: object, num_streams: int) -> EncoderStream:
    """Return a stream that also computes the surprisal of each frame.

    Raises:
        ValueError: the encoder is not a Toto, repeats frames, or uses earlier frames itself.
    """
    if not isinstance(encoder, Encoder) or encoder.repeat_frame:
        raise ValueError(
            "surprise needs a Toto encoder without repeat_frame and without a stream of its own, "
            f"got {type(encoder).__name__}"
        )
    return encoder.stream(num_streams, surprise=True)
