"""Measure how well the surprise monitor finds camera faults, and how often it cries wolf.

    python -m benchmarks.surprise

Rollouts of the noisy expert, front camera. Bounds come from some of them; others are in order, and
others have a fault that begins at a known frame and stays. AUROC is of single frames, of how far
they are out of bounds, faulty against usual ones at the same frame index. An alarm is three
unusual frames in a row; at 10 Hz an hour has 36,000 frames.
"""

from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from envs.experts import EXPERTS
from toto_robot import load_encoder
from toto_robot.encoder import Encoder
from toto_robot.surprise import SurpriseBounds, calibrate, frame_scores

ENV = "toto/FrankaPick-v0"
FIRST_SEED = 6_500_000
NUM_FRAMES, FAULT_AT = 28, 12
CALIBRATION, USUAL, FAULTY = 80, 40, 16
LEVEL = 0.05
RUN_LENGTH = 3
RATE_HZ = 10

Frames = NDArray[np.uint8]


def _black(frames: Frames) -> Frames:
    return np.zeros_like(frames)


def _frozen(frames: Frames) -> Frames:
    return np.repeat(frames[:1], len(frames), axis=0)


def _occluded(frames: Frames) -> Frames:
    covered = frames.copy()
    covered[:, 40:80, 44:84] = (90, 80, 70)
    return covered


def _moved(frames: Frames) -> Frames:
    return np.roll(frames, (9, -12), axis=(1, 2))


def _recoloured(frames: Frames) -> Frames:
    return np.ascontiguousarray(frames[..., ::-1])


def _dimmed(frames: Frames) -> Frames:
    return (frames * 0.45).astype(np.uint8)


FAULTS: dict[str, Callable[[Frames], Frames]] = {
    "black": _black,
    "frozen": _frozen,
    "occluded": _occluded,
    "moved": _moved,
    "recoloured": _recoloured,
    "dimmed": _dimmed,
}


def main() -> None:
    """Print one table."""
    encoder = load_encoder("toto-nano")
    videos = np.stack([_rollout(FIRST_SEED + index) for index in tqdm(range(CALIBRATION + USUAL))])
    scores = _scores(encoder, videos)
    bounds = calibrate(scores[:CALIBRATION], LEVEL, first=1)
    usual = scores[CALIBRATION:]
    outside = _outside(bounds, usual)
    hours = outside.size / RATE_HZ / 3600
    alarms = sum(_num_alarms(row) for row in outside)
    print(
        f"{ENV}, front camera, toto-nano, {CALIBRATION} rollouts for the bounds, level {LEVEL}\n"
        f"usual frames outside: {outside.mean():.1%} of {outside.size}; "
        f"alarms: {alarms} in {hours * 60:.1f} min = {alarms / hours:.0f} an hour\n"
    )
    print(f"{'fault':<12}{'AUROC':>8}{'frames outside':>16}{'rollouts with an alarm':>24}")
    ordinary = _excess(bounds, usual)[:, FAULT_AT:]
    for name, fault in FAULTS.items():
        broken = videos[CALIBRATION : CALIBRATION + FAULTY].copy()
        for video in broken:
            video[FAULT_AT:] = fault(video[FAULT_AT:])
        faulty = _scores(encoder, broken)
        found = _outside(bounds, faulty)[:, FAULT_AT:]
        auroc = _auroc(_excess(bounds, faulty)[:, FAULT_AT:].ravel(), ordinary.ravel())
        warned = sum(_num_alarms(row) > 0 for row in found)
        print(f"{name:<12}{auroc:>8.3f}{found.mean():>16.1%}{f'{warned}/{FAULTY}':>24}")


def _rollout(seed: int) -> Frames:
    env = gymnasium.make(f"envs:{ENV}", cameras=("front",), privileged=True)
    expert, rng = EXPERTS[ENV](), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    frames = [observation["image_front"]]
    while len(frames) < NUM_FRAMES:
        action = expert.act(observation) + 0.2 * rng.normal(size=8)
        observation, *_ = env.step(np.clip(action, -1, 1).astype(np.float32))
        frames.append(observation["image_front"])
    env.close()
    return np.stack(frames)


def _scores(encoder: Encoder, videos: Frames) -> NDArray[np.float64]:
    """Give the scores [r t s] of videos [r t h w 3]."""
    scores = []
    for group in np.array_split(videos, max(1, len(videos) // 8)):
        stream = encoder.stream(len(group), mode="staggered", surprise=True)
        rows = []
        for step in range(group.shape[1]):
            stream.step(torch.from_numpy(np.ascontiguousarray(group[:, step])))
            rows.append(frame_scores(stream.surprise))
        scores.append(np.stack(rows, axis=1))
    return np.concatenate(scores)


def _outside(bounds: SurpriseBounds, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    shown = np.arange(1, scores.shape[1] + 1)
    return np.stack([bounds.outside(video, shown) for video in scores])


def _excess(bounds: SurpriseBounds, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give how far each frame is out of bounds, in widths of the bounds; negative within."""
    with np.errstate(invalid="ignore"):
        width = bounds.upper - bounds.lower
        above, below = (scores - bounds.upper) / width, (bounds.lower - scores) / width
    return np.maximum(above, below).max(axis=2)


def _auroc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Give the chance that a positive scores higher than a negative, ties by half."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    upto = np.searchsorted(order, positive, side="right")
    return float((below + upto).mean() / 2 / len(negative))


def _num_alarms(outside: NDArray[np.bool_]) -> int:
    """Count the runs of at least so many frames outside."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], outside.astype(int), [0]])))
    return int(np.sum(edges[1::2] - edges[::2] >= RUN_LENGTH))


if __name__ == "__main__":
    main()
