"""Measure the time of label propagation, against the products of all pairs of patches.

    OMP_NUM_THREADS=1 python -m benchmarks.davis [side ...]

The straightforward method multiplies the features of the new frame with those of each memory frame,
masks the pairs outside the radius, and takes the largest similarities with `torch.topk`. Both
methods follow two squares in a generated video, with the features of toto-nano at images of 256 and
512 pixels (32 x 32 and 64 x 64 patches). The time of the features does not count. The exit code is
1 if a mask differs, or if the time is more than half of that of the straightforward method.
"""

import math
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.timing import cpu_clock
from toto_robot import load_encoder
from toto_robot.doctor import processor
from toto_robot.recognition.label_propagation import LabelMemory, PropagationConfig
from toto_robot.recognition.patch_features import open_patches

SIZES = (256, 512)
LAYER = 4
MEMORY_FRAMES = 20
TIMED = {256: 8, 512: 2}  # number of frames after the memory is full; others: 2
ROWS = 512  # patches whose similarities are in memory at the same time, straightforward method
LIMIT = 0.5


def main() -> None:
    """Print times and ratios; exit with 1 if the propagation is too slow, or masks differ."""
    clock, failed = cpu_clock(), False
    sizes = [int(word) for word in sys.argv[1:]] or SIZES
    print(f"{MEMORY_FRAMES} frames and the first one in memory, {processor()}")
    print(f"{'patches':<10}{'first frame':<14}{'all pairs s':>12}{'here s':>8}{'ratio':>7}  masks")
    for size in sizes:
        source = open_patches(load_encoder("toto-nano"), size, None)
        timed = TIMED.get(size, 2)
        video, mask = _video(MEMORY_FRAMES + 1 + timed)
        features = [normalize(source.features(one, (LAYER,))[0], dim=-1) for one in video]
        labels = _labels(mask, source.side)
        for first in (None, 0.2):
            config = PropagationConfig(
                memory_frames=MEMORY_FRAMES, top_k=10, radius=0.2, first_frame_radius=first,
                temperature=0.05,
            )  # fmt: skip
            memory, found = LabelMemory(config, features[0], labels), [labels]
            outside = [_outside(source.side, share) for share in (first, config.radius)]
            seconds, equal = [0.0, 0.0], True
            for number in range(1, len(video)):
                start = clock()
                found.append(memory.propagate(features[number]))
                between = clock()
                if number <= MEMORY_FRAMES:
                    continue
                last = slice(number - MEMORY_FRAMES, number)
                keys, values = features[:1] + features[last], found[:1] + found[last]
                slow = _all_pairs(config, features[number], keys, values, outside)
                seconds = [seconds[0] + clock() - between, seconds[1] + between - start]
                equal &= torch.equal(slow.argmax(1), found[-1].argmax(1))
            ratio = seconds[1] / seconds[0]
            failed |= not equal or ratio > LIMIT
            name = "whole" if first is None else f"radius {first}"
            times = "".join(
                f"{one / timed:>{width}.2f}" for one, width in zip(seconds, (12, 8), strict=True)
            )
            state = "equal" if equal else "DIFFERENT"
            print(f"{f'{source.side}x{source.side}':<10}{name:<14}{times}{ratio:>7.2f}  {state}")
    if failed:
        sys.exit(f"FAIL: masks differ, or the ratio is above {LIMIT}")


def _all_pairs(
    config: PropagationConfig,
    features: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    outside: list[Tensor | None],
) -> Tensor:
    """Return the labels of a frame [n c], by the similarities of all pairs of patches."""
    results = []
    for start in range(0, len(features), ROWS):
        rows = slice(start, start + ROWS)
        scores = []
        for number, key in enumerate(keys):
            product = features[rows] @ key.T
            beyond = outside[min(number, 1)]
            scores.append(product if beyond is None else product + beyond[rows])
        found = torch.cat(scores, dim=1).topk(config.top_k, dim=1)
        weights = (found.values / config.temperature).softmax(dim=1)
        results.append((weights[..., None] * torch.cat(values)[found.indices]).sum(dim=1))
    return torch.cat(results)


def _outside(side: int, share: float | None) -> Tensor | None:
    """Return [n n]: 0 for pairs of patches within the radius, minus infinity for others."""
    if share is None:
        return None
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    beyond = torch.zeros(side**2, side**2)
    beyond[torch.cdist(places, places) >= share * side] = -math.inf
    return beyond


def _video(frames: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return frames [t h w 3] of two moving squares on noise, and the mask of the first one.

    The frames have camera noise too: similarities of equal patches would be equal, and the largest
    of equal similarities are arbitrary.
    """
    rng = np.random.default_rng(0)
    video = np.tile(rng.integers(60, 160, (240, 240, 3), np.uint8), (frames, 1, 1, 1))
    mask = np.zeros((240, 240), np.uint8)
    for t in range(frames):
        for k, colour in enumerate(((230, 40, 40), (40, 60, 230))):
            box = slice(30 + 110 * k, 90 + 110 * k), slice(20 + 3 * t, 90 + 3 * t)
            video[t][box] = colour
            if t == 0:
                mask[box] = k + 1
    video += rng.integers(0, 20, video.shape, np.uint8)
    return video, mask


def _labels(mask: NDArray[np.uint8], side: int) -> Tensor:
    """Return the labels of the patches [n 3], one for each patch."""
    rows = (np.arange(side) + 0.5) * len(mask) / side
    small = mask[rows.astype(int)][:, rows.astype(int)].ravel()
    return torch.nn.functional.one_hot(torch.from_numpy(small).long(), 3).float()


if __name__ == "__main__":
    main()
