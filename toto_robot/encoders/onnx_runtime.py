"""Run an exported encoder with numpy and onnxruntime alone: for a computer without torch.

    encoder = OnnxEncoder("export")            # the folder that python -m toto_robot.export wrote
    embedding = encoder(frames)                # uint8 [b h w 3] -> float32 [b e]
    stream = OnnxStream("export")
    embedding = stream.step(frames, reset)     # with a past; reset: bool [b], or None

The folder holds a copy of this file, which imports nothing of the package: put the folder on the
path there, and `from onnx_runtime import OnnxEncoder`.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = ["OnnxEncoder", "OnnxStream"]

CARD, FRAME, STREAM = "export.json", "frame.onnx", "stream.onnx"


class OnnxEncoder:
    """Embed each frame by itself.

    Attributes:
        card: what `export.json` says of shapes and of the encoder.
        dim: width e of the embedding.
        tokens: int64 [b n], the tokens of the last frames.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        """Open the graph.

        Args:
            folder: where the export is.
            threads: of onnxruntime; None for its own choice.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
        """
        self.card = _read_card(Path(folder))
        self._session, self._process = _open(Path(folder) / FRAME, threads), os.getpid()
        self.dim: int = self.card["dim"]
        self.tokens: NDArray[np.int64] = np.zeros((0, self.card["tokens_per_frame"]), np.int64)

    def __call__(self, frames: np.ndarray) -> NDArray[np.float32]:
        """Embed frames of the size and number that the graph was made for.

        Raises:
            ValueError: other frames; the message says which are right.
        """
        _check_frames(self.card, frames)
        _check_process(self._process)
        embedding, self.tokens = _run(self._session, {"frames": np.ascontiguousarray(frames)})
        return embedding


class OnnxStream:
    """Embed the frames of several environments in step, each with a past of its own.

    The graph is given keys and values of the past and returns those of the newest frame; they are
    kept here, each in the place of the oldest. What is seen is what `EncoderStream` sees in the
    mode `rolling`.

    Attributes:
        card: what `export.json` says.
        dim: width e of the embedding.
        tokens: int64 [b n], the tokens of the last frames.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        """Open the graph, and begin with an empty past.

        Args:
            folder: where the export is.
            threads: of onnxruntime; None for its own choice.

        Raises:
            FileNotFoundError: a file is missing, or the export has no stream.
        """
        card = self.card = _read_card(Path(folder))
        self._session, self._process = _open(Path(folder) / STREAM, threads), os.getpid()
        self.dim: int = card["dim"]
        self._frame: int = card["tokens_per_frame"]
        self._num_slots: int = card["context"] - 1
        self._skip: int = card["frame_skip"]
        batch, past = card["num_envs"], self._num_slots * self._frame
        shape = (card["layer"], batch, card["heads"], past, card["head_width"])
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._shown = np.zeros(batch, np.int64)
        self.tokens: NDArray[np.int64] = np.zeros((batch, self._frame), np.int64)

    def step(self, frames: np.ndarray, reset: np.ndarray | None = None) -> NDArray[np.float32]:
        """Embed the newest frame of every environment, float32 [b e].

        Args:
            frames: uint8 RGB [b h w 3], of the graph's size.
            reset: bool [b]: whose frame is the first of an episode; None for nobody's.

        Raises:
            ValueError: other frames or another mask; the message says which are right.
        """
        _check_frames(self.card, frames)
        _check_process(self._process)
        batch = len(self._shown)
        if reset is None:
            reset = np.zeros(batch, np.bool_)
        if reset.shape != (batch,) or reset.dtype != np.bool_:
            raise ValueError(f"reset must be bool [{batch}], got {reset.dtype} {reset.shape}")
        self._shown[reset] = 0
        past = -(-self._shown // self._skip)  # frames that have been remembered
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
        """Return cosines and sines [b t k] of rotary positions, computed in float64."""
        width = self.card["head_width"]
        rates = self.card["rope_base"] ** (-np.arange(0, width, 2) / width)
        positions = start[:, None] + np.arange(length)
        angles = positions[:, :, None] * np.concatenate([rates, rates])
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is no export of toto_robot")
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
    if (
        os.getpid() != opened_in
    ):  # a session's threads do not survive a fork: it would wait for ever
        raise RuntimeError(
            "the encoder was opened in another process, of which this one is a fork; open it in "
            'this process, or start the processes with context="spawn" '
            '(start_method="spawn" for SubprocVecEnv)'
        )


def _check_frames(card: dict[str, Any], frames: np.ndarray) -> None:
    shape = (card["num_envs"], card["height"], card["width"], 3)
    if frames.dtype != np.uint8 or frames.shape != shape:
        raise ValueError(
            f"frames must be uint8 RGB {shape}, what the graph was exported for, got "
            f"{frames.dtype} {frames.shape}"
        )
