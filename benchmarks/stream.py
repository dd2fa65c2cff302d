"""Measure the encoding of a camera frame with cached earlier frames (a camera stream).

    OMP_NUM_THREADS=1 python -m benchmarks.stream
    OMP_NUM_THREADS=1 python -m benchmarks.stream --steps 10000 --plot stream.png

The first command compares a step of the stream with two baselines: encoding the frame alone, and
encoding the whole window of 16 frames again. It prints ratios for the paper's base size with 6 of
12 blocks. Weights are random, because the speed does not depend on them. The second command runs
toto-nano for many steps, to check that time and memory stay constant.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from toto_robot import load_encoder
from toto_robot.encoders.memories import FrameMemory
from toto_robot.models import TotoConfig

# The paper's base size (Table 1), as in toto_robot/configs/model/base.yaml.
BASE = TotoConfig(
    codes=8192,
    dim=768,
    layers=12,
    heads=12,
    mlp_hidden=3072,
    tie_embeddings=True,
    tokens_per_frame=256,
    frames=16,
    rope_base=10000.0,
    norm_eps=1e-5,
)
LAYER = 6
REPEATS = 5


def main() -> None:
    """Compare one step with its baselines, or run many steps with `--steps`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=0, help="number of steps of toto-nano")
    parser.add_argument("--plot", type=Path, default=Path("stream.png"))
    arguments = parser.parse_args()
    with torch.inference_mode():
        if arguments.steps:
            run_long(arguments.steps, arguments.plot)
        else:
            compare()


def compare() -> None:
    """Print the wall time and the CPU time of one step and of its two baselines, ms."""
    model = BASE.build().eval()
    frame = torch.randint(0, BASE.codes, (1, BASE.tokens_per_frame))
    start = torch.full((1, 1), BASE.start_video)
    window = torch.cat([start, frame.repeat(1, BASE.frames)], dim=1)
    alone = torch.cat([start, frame], dim=1)
    memory = FrameMemory(model, 1, BASE.frames, (LAYER,))
    memory.place(np.array([10 * BASE.frames]), np.array([True]), slice(0, 1))
    rows = {
        "stream step, full window": lambda: model.features(frame, (LAYER,), memory),
        "the frame alone": lambda: model.features(alone, (LAYER,)),
        "the whole window again": lambda: model.features(window, (LAYER,)),
    }
    print(f"toto-base, {LAYER} of {BASE.layers} blocks, {torch.get_num_threads()} thread(s)")
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for repeat in range(REPEATS):  # alternately, so that other load on the machine affects all
        for name, call in rows.items():
            for _ in range(1 if "window again" in name else REPEATS):
                costs[name].append(_cost(call))
        if not repeat:
            costs = {name: [] for name in rows}  # the first calls are warm-up
    walls, cpus = (
        {name: statistics.median(pair[i] for pair in pairs) for name, pairs in costs.items()}
        for i in range(2)
    )
    print(f"{'what':<28}{'wall ms':>9}{'cpu ms':>9}{'stream / it, wall':>19}{'cpu':>7}")
    first = next(iter(rows))
    for name in rows:
        ratios = walls[first] / walls[name], cpus[first] / cpus[name]
        print(f"{name:<28}{walls[name]:>9.0f}{cpus[name]:>9.0f}{ratios[0]:>19.4f}{ratios[1]:>7.4f}")


def run_long(num_steps: int, plot: Path) -> None:
    """Encode a stream of random tokens, and plot time and memory against the step."""
    encoder = load_encoder("toto-nano")
    stream = encoder.stream(1)
    generator = torch.Generator().manual_seed(0)
    times, megabytes = [], []
    for _ in range(num_steps):
        ids = torch.randint(0, 8192, (1, encoder.tokens_per_frame), generator=generator)
        start = time.process_time()
        stream.step_tokens(ids)
        times.append((time.process_time() - start) * 1e3)
        megabytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    _draw(times, megabytes, plot)
    full = stream.context
    quarter = (num_steps - full) // 4
    early, late = times[full : full + quarter], times[-quarter:]
    ratio = statistics.median(late) / statistics.median(early)
    grown = megabytes[-1] - megabytes[2 * full]
    print(
        f"toto-nano, {num_steps} steps: median {statistics.median(late):.2f} ms of CPU in the last "
        f"quarter, {ratio:.3f} times the first's; memory grew by {grown:.1f} MiB after "
        f"step {2 * full}; plot: {plot}"
    )


def _draw(times: list[float], megabytes: list[float], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 4))
    above.plot(times, ".", markersize=1)
    above.set_ylabel("CPU ms per step")
    above.set_ylim(0, 2 * statistics.median(times))
    below.plot(megabytes)
    below.set_ylabel("peak memory, MiB")
    below.set_ylim(0, None)
    below.set_xlabel("camera frames")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _cost(call: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the CPU time of a call, ms."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


if __name__ == "__main__":
    main()
