"""Run an encoder that was exported to ONNX, with the same methods as all encoders.

    encoder = ExportedEncoder("export")        # the folder that python -m toto_robot.export wrote
    env = TotoObservation(env, encoder)        # used like any other encoder

This module needs onnxruntime. It uses `OnnxEncoder`, which can also be used alone, on a computer
without torch and without this package.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..tokenizers.tokenizer import check_frames
from .contract import (
    NO_PAST,
    CodeFormat,
    Codes,
    IndependentFrames,
    as_float16_codes,
    from_float16_codes,
)
from .onnx_runtime import OnnxEncoder

__all__ = ["ExportedEncoder"]


class ExportedEncoder:
    """An encoder of single frames that was exported to ONNX.

    The ONNX graph has a fixed image size and batch size. A call may have any number of frames. They
    are divided into batches of the fixed size, and the last batch is padded.

    Attributes:
        dim: number e of values in an embedding.
        layer: number of the layer whose features are pooled; 0 is the embedding of the input.
        pool: name of the pool, such as `mean`.
        image_size: height of the graph's images, pixels.
        past: always `NO_PAST`, because an embedding depends on one frame only.
        weights_hash: sha256 of all weights of the exported encoder.
        fingerprint: hash that is equal for exported encoders with interchangeable embeddings. It
            differs from that of the original encoder, because the last bits of embeddings differ.
    """

    past = NO_PAST

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        """Load the ONNX graph.

        Args:
            folder: folder that `toto_robot.export` wrote.
            threads: number of CPU threads; None: the default of onnxruntime.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
        """
        self._graph = OnnxEncoder(folder, threads)
        metadata = self._graph.metadata
        layer = metadata["layer"]  # a number, or a list of numbers
        self.layer: int | tuple[int, ...] = tuple(layer) if isinstance(layer, list) else layer
        self.dim, self.pool = self._graph.dim, str(metadata["pool"])
        self.image_size, self._batch = int(metadata["height"]), int(metadata["num_envs"])
        self.weights_hash = str(metadata["weights_hash"])
        self.fingerprint = hashlib.sha256(f"{metadata['fingerprint']} onnx".encode()).hexdigest()

    def __call__(self, frames: np.ndarray | Tensor) -> NDArray[np.float32]:
        """Return the embeddings [b e] of uint8 RGB frames [b h w 3].

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: the frames are invalid, or their size is not that of the graph's images.
            RuntimeError: this process was forked after the graph was loaded.
        """
        images = check_frames(frames).cpu().numpy()
        parts = [np.zeros((0, self.dim), np.float32)]
        for first in range(0, len(images), self._batch):
            part = images[first : first + self._batch]
            filled = np.pad(part, [(0, self._batch - len(part)), (0, 0), (0, 0), (0, 0)])
            parts.append(self._graph(filled)[: len(part)])
        return np.concatenate(parts)

    @property
    def codes(self) -> CodeFormat:
        """The format of the codes that `compress` returns, which are the embedding."""
        return CodeFormat(size=self.dim, fingerprint=self.fingerprint)

    def compress(self, frames: np.ndarray | Tensor) -> NDArray[np.float16]:
        """Return the embeddings [b e] of frames [b h w 3] as float16, to save them."""
        return as_float16_codes(self(frames), self.pool)

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] that `compress` returned, as float32."""
        return from_float16_codes(codes)

    def open_streams(self, num_streams: int) -> IndependentFrames:
        """Return streams that ignore earlier frames; for earlier frames use `OnnxStream`."""
        del num_streams
        return IndependentFrames(self)
