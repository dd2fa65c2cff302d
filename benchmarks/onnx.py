"""Measure exported ONNX graphs against torch.

    OMP_NUM_THREADS=1 python -m benchmarks.onnx

There are two graphs of toto-nano: the embedding of a single frame, and the embedding of a frame
with 16 frames of cached context. Frames have 128 x 128 pixels. Both ONNX and torch use one thread,
and run alternately.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from toto_robot import load_encoder
from toto_robot.encoders.onnx_runtime import OnnxEncoder, OnnxStream
from toto_robot.export import export_onnx

CONTEXT = 16
REPEATS = 30


def main() -> None:
    """Print the times of ONNX and torch for both graphs, and their ratio."""
    logging.disable(logging.INFO)
    encoder = load_encoder("toto-nano")
    frames = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        export_onnx(encoder, folder, size=(128, 128), context=CONTEXT)
        streams = encoder.stream(1, CONTEXT), OnnxStream(folder, threads=1)
        for _ in range(CONTEXT):
            for stream in streams:
                stream.step(frames)
        single = OnnxEncoder(folder, threads=1)
        rows: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "frame": (lambda: encoder(frames), lambda: single(frames)),
            "stream step": (lambda: streams[0].step(frames), lambda: streams[1].step(frames)),
        }
        print(f"{'':14}{'torch, ms':>10}{'onnxruntime, ms':>17}{'times torch':>13}")
        for what, calls in rows.items():
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(REPEATS):
                for call, spent in zip(calls, seconds, strict=True):
                    start = time.process_time()
                    call()
                    spent.append(time.process_time() - start)
            one, other = (statistics.median(spent) * 1e3 for spent in seconds)
            print(f"{what:14}{one:10.1f}{other:17.1f}{other / one:13.2f}", flush=True)


if __name__ == "__main__":
    main()
