"""Compute four scores of camera frames, which show anomalies, from the outputs of a stream.

The surprisal of a token is its negative log-probability in nats. It is high for unlikely tokens.

surprise   Mean surprisal of the frame's tokens. The transformer predicts the probabilities from all
           earlier tokens. High if much changes at once, or if the scene is unfamiliar.
oddity     Mean surprisal of the frame's tokens. The probabilities are the frequencies of tokens at
           the same position of the image in normal rollouts. High if the light is off, colours are
           wrong, or the camera was moved.
lasting    At each position, the minimum of the surprisal of `oddity` over the newest 5 frames. The
           minima are averaged over the 1/8 of the positions where they are highest. High if
           something unusual stays in place while the arm moves, such as a hand, a cloth, or dirt on
           the lens.
still      Share of tokens that equal the token at the same position of the frame before. If all
           are equal, it is the number of consecutive frames without a change. High if the image is
           frozen. NaN for the first frame of an episode.

`conformal` calibrates thresholds for the scores, and `monitor` applies the thresholds. The scores
give advice and are not a safety function.
"""

import math
from collections import deque

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from ..encoders.encoder import Encoder

__all__ = ["SCORES", "FrameScorer", "heat_map", "place_costs", "rollout_costs"]

SCORES = ("surprise", "oddity", "lasting", "still")

_AT_ONCE = 8  # rollouts that are computed together in one stream
_LASTING_FRAMES = 5
_LASTING_SHARE = 1 / 8  # of the positions in an image


class FrameScorer:
    """An object that computes the scores of the newest frames of several environments.

    It stores a few earlier frames, which some scores need.

    Args:
        place_costs: surprisal, nats, of each of v codes at each of n positions, from the function
            `place_costs`.
    """

    def __init__(self, place_costs: Float[Tensor, "n v"]) -> None:
        self._place_costs = place_costs
        self._last_ids: Tensor | None = None
        self._repeats = np.zeros(0)
        self._recent: deque[Tensor] = deque(maxlen=_LASTING_FRAMES)

    def score(
        self,
        ids: Int64[Tensor, "b n"],
        costs: Float[Tensor, "b n"],
        frames_shown: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Return the scores [b s] of the newest frames of b environments, in the order of `SCORES`.

        Args:
            ids: tokens of the frames.
            costs: surprisal of the tokens, nats.
            frames_shown: [b] number of frames so far in each episode; 1 for the first frame.

        Raises:
            ValueError: the first call is not with the first frames of episodes.
        """
        ids = ids.cpu()
        places = torch.arange(ids.shape[1])
        odd = self._place_costs[places, ids]  # b n
        begins = torch.from_numpy(np.asarray(frames_shown) == 1)
        if self._last_ids is None:
            if not begins.all():
                raise ValueError(
                    "the first call must be with each episode's first frame, got frame numbers "
                    f"{np.asarray(frames_shown).tolist()}; reset the stream"
                )
            self._last_ids, self._repeats = ids, np.zeros(len(ids))
        for past in self._recent:
            past[begins] = odd[begins]
        self._recent.append(odd.clone())
        least = torch.stack(list(self._recent)).amin(dim=0)
        num_worst = max(1, round(least.shape[1] * _LASTING_SHARE))
        lasting = least.topk(num_worst, dim=1).values.mean(dim=1)
        same = (ids == self._last_ids).double().mean(dim=1).numpy()
        self._repeats = np.where((same == 1) & ~begins.numpy(), self._repeats + 1, 0.0)
        still = np.where(begins.numpy(), np.nan, np.where(same == 1, self._repeats, same))
        self._last_ids = ids.clone()
        columns = [costs.double().mean(dim=1).cpu(), odd.double().mean(dim=1), lasting.double()]
        return np.stack([*(column.numpy() for column in columns), still], axis=1)


def heat_map(costs: Float[Tensor, "b n"]) -> Float[Tensor, "b h w"]:
    """Return the values [b n] of n tokens as maps [b h w], each value at its token's position."""
    side = math.isqrt(costs.shape[1])
    return costs.unflatten(1, (side, side))


def place_costs(counts: NDArray[np.int32]) -> Float[Tensor, "n v"]:
    """Return the surprisal [n v], nats, of each of v codes at each of n positions.

    It is computed from the number of occurrences `counts` [n v]. So that codes that did not occur
    also have a probability, the code's frequency in the whole image is added to the counts as one
    further observation. For this frequency, half an occurrence is added to each code.
    """
    anywhere = counts.sum(axis=0) + 0.5
    prior = (anywhere / anywhere.sum()).astype(np.float32)
    seen = counts.sum(axis=1, keepdims=True)
    return torch.from_numpy(-np.log((counts + prior) / (seen + 1).astype(np.float32)))


def rollout_costs(
    encoder: Encoder,
    tokens: NDArray[np.integer],
    context: int | None = None,
    mode: str = "rolling",
    frame_skip: int = 1,
) -> NDArray[np.float32]:
    """Return the surprisal [r t n], nats, of tokens [r t n], computed by a stream.

    There are r rollouts of t frames with n tokens. `context`, `mode` and `frame_skip` are the
    settings of the stream.
    """
    costs = np.empty(tokens.shape, dtype=np.float32)
    for start in range(0, len(tokens), _AT_ONCE):
        group = tokens[start : start + _AT_ONCE].astype(np.int64)
        stream = encoder.stream(
            len(group), context, mode=mode, frame_skip=frame_skip, surprise=True
        )
        for index in range(tokens.shape[1]):
            stream.step_tokens(torch.from_numpy(group[:, index]))
            costs[start : start + _AT_ONCE, index] = stream.surprise.float().cpu().numpy()
    return costs
