"""Run an exported encoder with only numpy and onnxruntime, on a computer without torch.

    encoder = OnnxEncoder("export")            # the folder that python -m toto_robot.export wrote
    embedding = encoder(frames)                # uint8 [b h w 3] -> float32 [b e]
    stream = OnnxStream("export")
    embedding = stream.step(frames, reset)     # uses earlier frames; reset: bool [b] or None

The export writes a copy of this file, which imports nothing from the package, into its folder. To
use the copy, add the folder to the Python path and write `from onnx_runtime import OnnxEncoder`.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = ["OnnxEncoder", "OnnxStream"]

METADATA, FRAME, STREAM = "export.json", "frame.onnx", "stream.onnx"


class OnnxEncoder:
    """An exported encoder whose embeddings depend on one frame only.

    Attributes:
        metadata: content of `export.json`, the shapes and properties of the encoder.
        dim: number e of values in an embedding.
        tokens: int64 [b n], the tokens of the frames of the newest call.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        """Load the ONNX graph.

        Args:
            folder: folder of the export.
            threads: number of threads; None: the default of onnxruntime.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
        """
        self.metadata = _read_metadata(Path(folder))
        self._session, self._process = _open(Path(folder) / FRAME, threads), os.getpid()
        self.dim: int = self.metadata["dim"]
        self.tokens: NDArray[np.int64] = np.zeros((0, self.metadata["tokens_per_frame"]), np.int64)

    def __call__(self, frames: np.ndarray) -> NDArray[np.float32]:
        """Return the embeddings [b e] of frames uint8 [b h w 3].

        Number b and size h x w of the frames are those of the exported graph.

        Raises:
            ValueError: the frames have another size or number; the message has the right shape.
            RuntimeError: this process was forked after the graph was loaded.
        """
        _check_frames(self.metadata, frames)
        _check_process(self._process)
        embedding, self.tokens = _run(self._session, {"frames": np.ascontiguousarray(frames)})
        return embedding


class OnnxStream:
    """An exported stream, whose embeddings also depend on earlier frames of the episode.

    It processes several environments together. The ONNX graph receives the attention keys and
    values of earlier frames, and returns those of the newest frame. This object then replaces the
    keys and values of the oldest frame by those of the newest frame. The features equal those of
    `EncoderStream` in the mode `rolling`.

    Attributes:
        metadata: content of `export.json`.
        dim: number e of values in an embedding.
        tokens: int64 [b n], the tokens of the frames of the newest call.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        """Load the ONNX graph, and start without earlier frames.

        Args:
            folder: folder of the export.
            threads: number of threads; None: the default of onnxruntime.

        Raises:
            FileNotFoundError: a file is missing, or no stream was exported.
        """
        metadata = self.metadata = _read_metadata(Path(folder))
        if metadata["context"] is None:
            raise FileNotFoundError(f"no stream was exported to {folder}: export it with a context")
        self._session, self._process = _open(Path(folder) / STREAM, threads), os.getpid()
        self.dim: int = metadata["dim"]
        self._frame: int = metadata["tokens_per_frame"]
        self._num_slots: int = metadata["context"] - 1
        self._skip: int = metadata["frame_skip"]
        batch, past = metadata["num_envs"], self._num_slots * self._frame
        layer = metadata["layer"]  # a number, or a list of numbers
        depth = max(layer) if isinstance(layer, list) else layer
        shape = (depth, batch, metadata["heads"], past, metadata["head_width"])
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._shown = np.zeros(batch, np.int64)
        self.tokens: NDArray[np.int64] = np.zeros((batch, self._frame), np.int64)

    def step(self, frames: np.ndarray, reset: np.ndarray | None = None) -> NDArray[np.float32]:
        """Return the embeddings [b e] of the newest frame of every environment.

        Args:
            frames: uint8 RGB [b h w 3], in the number and size of the exported graph.
            reset: bool [b], true if the frame is the first of an episode; None: no episode begins.

        Raises:
            ValueError: `frames` or `reset` has a wrong shape or dtype; the message has the right
                shape and dtype.
            RuntimeError: this process was forked after the graph was loaded.
        """
        _check_frames(self.metadata, frames)
        _check_process(self._process)
        batch = len(self._shown)
        if reset is None:
            reset = np.zeros(batch, np.bool_)
        if reset.shape != (batch,) or reset.dtype != np.bool_:
            raise ValueError(f"reset must be bool [{batch}], got {reset.dtype} {reset.shape}")
        self._shown[reset] = 0
        past = -(-self._shown // self._skip)  # frames that have been kept
        filled = np.minimum(past, self._num_slots)
        hidden = np.arange(self._num_slots) >= filled[:, None]
        bias = np.where(hidden, np.float32(-np.inf), np.float32(0)).repeat(self._frame, axis=1)
        cos, sin = self._angles(1 + past * self._frame, self._frame)
        start_cos, start_sin = self._angles((past - filled) * self._frame, 1)
        embedding, self.tokens, keys, values = _run(
            self._session,
            {
                "frames": np.ascontiguousarray(frames),
                "keys": self._keys,
                "values": self._values,
                "past_bias": bias,
                "cos": cos,
                "sin": sin,
                "start_cos": start_cos,
                "start_sin": start_sin,
            },
        )
        for env in np.flatnonzero(self._shown % self._skip == 0):
            first = int(past[env] % self._num_slots) * self._frame
            self._keys[:, env, :, first : first + self._frame] = keys[:, env]
            self._values[:, env, :, first : first + self._frame] = values[:, env]
        self._shown += 1
        return embedding

    def _angles(
        self, start: NDArray[np.int64], length: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the cosines and sines [b t k] of rotary positions, computed in float64.

        The positions are `start` and the t - 1 positions after it; k is the width of a head.
        """
        width = self.metadata["head_width"]
        rates = self.metadata["rope_base"] ** (-np.arange(0, width, 2) / width)
        positions = start[:, None] + np.arange(length)
        angles = positions[:, :, None] * np.concatenate([rates, rates])
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is not an export of toto_robot")
    return json.loads(path.read_text())


def _open(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: export it with python -m toto_robot.export")
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(
    session: onnxruntime.InferenceSession, inputs: dict[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    return [np.asarray(output) for output in session.run(None, inputs)]


def _check_process(opened_in: int) -> None:
    if os.getpid() != opened_in:  # a session's threads do not survive a fork: it would hang
        raise RuntimeError(
            "the encoder was loaded before this process was forked; load it in "
            'this process, or start the processes with context="spawn" '
            '(start_method="spawn" for SubprocVecEnv)'
        )


def _check_frames(metadata: dict[str, Any], frames: np.ndarray) -> None:
    shape = (metadata["num_envs"], metadata["height"], metadata["width"], 3)
    if frames.dtype != np.uint8 or frames.shape != shape:
        raise ValueError(
            f"frames must be uint8 RGB {shape}, as the graph was exported, got {frames.dtype} "
            f"{frames.shape}"
        )
