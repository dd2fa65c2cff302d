"""Notice when a camera shows something that the model did not expect: advice, never safety.

    stream = encoder.stream(num_envs=1, surprise=True)
    bounds = calibrate(scores, level=0.01)             # from rollouts that were in order
    stream.step(frames)
    alarm = bounds.outside(frame_scores(stream.surprise), stream.frames_shown)

The score is the negative log-likelihood of a frame's tokens given all frames before it, which the
stream gives anyway. Too high: something is in the way, the camera was moved, the light is out. Too
low: the picture is frozen. Bounds are taken per frame index, since the first frames of an episode
are always harder to predict, and two-sided, by split conformal prediction (Vovk et al. 2005): on
rollouts like those of the calibration at most `level` of the frames of each index are outside, on
average over calibrations. It says nothing of rollouts that differ from those.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

__all__ = ["SCORES", "SurpriseBounds", "calibrate", "frame_scores", "heat_map"]

# mean: of all tokens; worst: of the worst cell of a 4 x 4 grid, for what covers a part.
SCORES = ("mean", "worst")
_GRID = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurpriseBounds:
    """What is usual, for each frame index of an episode; the last holds from there on.

    Attributes:
        lower: [t s] least usual scores, nats; s as in `SCORES`.
        upper: [t s] greatest usual scores.
        level: share of usual frames that are outside, at most.
        num_rollouts: how many rollouts were calibrated on.
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    level: float
    num_rollouts: int

    def outside(
        self, scores: NDArray[np.float64], frames_shown: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Say which environments' newest frames are unusual [b].

        Args:
            scores: [b s], what `frame_scores` gives.
            frames_shown: [b], what the stream gives: frames of each episode so far.
        """
        index = np.clip(frames_shown - 1, 0, len(self.lower) - 1)
        unusual = (scores < self.lower[index]) | (scores > self.upper[index])
        return np.any(unusual, axis=1)


def frame_scores(costs: Float[Tensor, "b n"]) -> NDArray[np.float64]:
    """Give each frame's scores [b s], from the costs of its tokens in nats."""
    cells = adaptive_avg_pool2d(heat_map(costs)[:, None], _GRID).flatten(1)
    scores = torch.stack([costs.mean(dim=1), cells.amax(dim=1)], dim=1)
    return scores.double().cpu().numpy()


def heat_map(costs: Float[Tensor, "b n"]) -> Float[Tensor, "b h w"]:
    """Give the costs of a frame's tokens where they are in the picture, [b h w]."""
    side = math.isqrt(costs.shape[1])
    return costs.unflatten(1, (side, side))


def calibrate(scores: NDArray[np.float64], level: float, first: int = 0) -> SurpriseBounds:
    """Take bounds from rollouts in which nothing was wrong.

    Args:
        scores: [r t s], scores of r rollouts of t frames.
        level: share of usual frames that may be outside, over both sides and all scores.
        first: the first frame index that counts; before it nothing is unusual.

    Raises:
        ValueError: the rollouts are too few for the level; the message says how many it takes.
    """
    if scores.ndim != 3 or scores.shape[2] != len(SCORES):
        raise ValueError(
            f"scores must be [rollouts frames {len(SCORES)}], got {list(scores.shape)}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    num_rollouts, num_frames, num_scores = scores.shape
    side = level / (2 * num_scores)  # of either side of each score: together at most the level
    rank = math.ceil((num_rollouts + 1) * (1 - side))
    if rank > num_rollouts:
        needed = math.ceil(1 / side) - 1
        raise ValueError(f"a level of {level} takes at least {needed} rollouts, got {num_rollouts}")
    ordered = np.sort(scores, axis=0)
    lower, upper = ordered[num_rollouts - rank].copy(), ordered[rank - 1].copy()
    lower[: min(first, num_frames)], upper[: min(first, num_frames)] = -np.inf, np.inf
    return SurpriseBounds(lower=lower, upper=upper, level=level, num_rollouts=num_rollouts)
