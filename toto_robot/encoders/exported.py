"""An exported graph behind the contract of all encoders.

    encoder = ExportedEncoder("export")        # the folder that python -m toto_robot.export wrote
    env = TotoObservation(env, encoder)        # wherever an encoder is expected

It needs onnxruntime. `OnnxEncoder`, which it is built on, needs neither torch nor this package.
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
    """Embed each frame by itself with an exported graph; any number of frames in a call.

    The graph is made for one image size and one number of images; a call is cut into such parts,
    and the last one is filled up.

    Attributes:
        dim: width e of the embedding.
        layer: the layer that is pooled.
        pool: the pool.
        image_size: height of the images that the graph takes, pixels.
        past: `NO_PAST`: each frame is embedded by itself.
        weights_hash: sha256 of all weights of the exported encoder.
        fingerprint: of the exported encoder and of being exported: the last bits differ.
    """

    past = NO_PAST

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        """Open the graph.

        Args:
            folder: where the export is.
            threads: of onnxruntime; None for its own choice.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
        """
        self._graph = OnnxEncoder(folder, threads)
        card = self._graph.card
        self.dim, self.layer, self.pool = self._graph.dim, int(card["layer"]), str(card["pool"])
        self.image_size, self._batch = int(card["height"]), int(card["num_envs"])
        self.weights_hash = str(card["weights_hash"])
        self.fingerprint = hashlib.sha256(f"{card['fingerprint']} onnx".encode()).hexdigest()

    def __call__(self, frames: np.ndarray | Tensor) -> NDArray[np.float32]:
        """Return the embeddings [b e] of uint8 RGB frames [b h w 3].

        Raises:
            ValueError: frames of another size; the message says which is right.
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
        """What `compress` returns: the embedding itself; the graph cannot begin with tokens."""
        return CodeFormat(size=self.dim, fingerprint=self.fingerprint)

    def compress(self, frames: np.ndarray | Tensor) -> NDArray[np.float16]:
        """Return the embeddings of frames [b h w 3] as a store keeps them: [b e]."""
        return as_float16_codes(self(frames), self.pool)

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] exactly as they were kept."""
        return from_float16_codes(codes)

    def open_streams(self, num_streams: int) -> IndependentFrames:
        """Return streams without a past; `OnnxStream` has one."""
        del num_streams
        return IndependentFrames(self)
