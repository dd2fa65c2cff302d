"""Measure the command `toto_robot.encode` against its encoder alone, in images per second.

    OMP_NUM_THREADS=1 python -m benchmarks.encode_files [IMAGES, 320] [REPEATS, 5]

The command finds, reads and decodes the JPEG files of a folder, computes embeddings, and writes
embeddings, names and times. The baseline is the encoder alone, with decoded frames from memory in
the same batches. The two run alternately.
"""

import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.encode import EncodeConfig, encode

HEIGHT, WIDTH = 480, 640


def main() -> None:
    """Print the speed of both in images per second, and their ratio."""
    count, repeats = (int(word) for word in (*sys.argv[1:], *("320", "5")[len(sys.argv) - 1 :]))
    config = from_dict(EncodeConfig, compose("encode", ["device=cpu"])[0])
    encoder = config.encoder.build(torch.device("cpu"))
    assert encoder is not None
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 12, 16, 3)).astype(np.uint8)
    frames = np.stack([cv2.resize(one, (WIDTH, HEIGHT), interpolation=2) for one in coarse])
    times: dict[str, list[float]] = {"encoder alone": [], "command": []}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        for number, frame in enumerate(frames):
            cv2.imwrite(str(images / f"{number:06d}.jpg"), frame)
        config = dataclasses.replace(config, images=images)
        for repeat in range(repeats):
            begin = time.perf_counter()
            for at in range(0, count, config.batch_size):
                encoder(frames[at : at + config.batch_size])
            middle = time.perf_counter()
            encode(config, Path(folder) / f"{repeat}.npy")
            times["encoder alone"].append(middle - begin)
            times["command"].append(time.perf_counter() - middle)
    for name, spent in times.items():
        print(f"{name:<16}{count / statistics.median(spent):>8.1f} images/s")
    ratios = [one / two for one, two in zip(*times.values(), strict=True)]
    print(f"{'ratio':<16}{statistics.median(ratios):>8.2f}")


if __name__ == "__main__":
    main()
