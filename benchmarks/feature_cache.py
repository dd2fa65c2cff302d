"""Measure the time of a hit in the feature cache, against encoding the frame again.

    OMP_NUM_THREADS=1 python -m benchmarks.feature_cache

Frames are encoded one at a time, as in an environment, and in a batch. The table also has the time
of a miss, which encodes the frame, hashes it, and writes the embedding. The exit code is 1 if a hit
is slower than encoding.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from toto_robot import load_encoder
from toto_robot.encoders.cache import FeatureCache

NAME = "toto-nano"
SIZES = ((128, 128), (480, 640))  # height and width of the images, pixels
BATCHES = (1, 8)
REPEATS = 9


def main() -> None:
    """Print the times of a hit, a miss and the encoding; exit with 1 if a hit is slower."""
    encoder = load_encoder(NAME)
    rng = np.random.default_rng(0)
    print(f"{NAME}, layer {encoder.layer}, pool {encoder.pool} ({encoder.dim} float32)")
    print(f"{'image':<12}{'batch':>6}{'encode ms':>11}{'miss ms':>9}{'hit ms':>9}{'ratio':>8}")
    worst = float("inf")
    for height, width in SIZES:
        for batch in BATCHES:
            shape = (REPEATS + 1, batch, height, width, 3)
            images = rng.integers(0, 256, shape, dtype=np.uint8)
            with tempfile.TemporaryDirectory() as folder:
                cache = FeatureCache(Path(folder), encoder, max_bytes=1 << 26)
                encode, miss, hit = (_ms(call, images) for call in (encoder.__call__, cache, cache))
                if (cache.misses, cache.hits) != (images[..., 0, 0, 0].size,) * 2:
                    sys.exit(f"expected one miss and one hit per frame, got {cache.misses} misses")
            worst = min(worst, encode / hit)
            size = f"{width}x{height}"
            print(
                f"{size:<12}{batch:>6}{encode:>11.2f}{miss:>9.2f}{hit:>9.3f}{encode / hit:>7.0f}x"
            )
    print(f"a hit is at least {worst:.0f} times as fast as encoding")
    if worst <= 1:
        sys.exit("FAIL: a hit is slower than encoding")


def _ms(call: Callable[[np.ndarray], object], images: np.ndarray) -> float:
    """Return the median time of a call, ms. The first call is a warm-up and does not count."""
    times = []
    for batch in images:
        start = time.perf_counter()
        call(batch)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) * 1e3


if __name__ == "__main__":
    main()
