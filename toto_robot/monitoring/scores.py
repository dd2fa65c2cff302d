"""Four scores that tell an unusual camera frame, from what the stream gives anyway.

surprise   what the frame's tokens cost on average given all before them, nats: the model's own
           negative log-likelihood. Much happens at once, or the world is another.
oddity     what they cost on average by how often each code was at its place of the picture in
           usual rollouts: the light is out, colours are wrong, the camera was moved.
lasting    the same, of the least in the last frames at each place, averaged over the costliest
           eighth of the places: something odd that stays where it is while the arm moves on, so a
           hand, a cloth or dirt before the lens.
still      the share of tokens that are those of the frame before; when all are, the number of such
           frames in a row: the picture is frozen.

`conformal` says what is usual of them, and `monitor` how they are used. Advice, never a safety
function.
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

_AT_ONCE = 8  # rollouts that share a stream while costs are computed
_LASTING_FRAMES = 5
_LASTING_SHARE = 1 / 8  # of the places of a picture


class FrameScorer:
    """The scores of the newest frames of several environments; keeps a few frames of the past."""

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
        """Return the scores [b s] of the newest frames; s as in `SCORES`.

        Args:
            ids: the frames' tokens.
            costs: what they cost the model, nats.
            frames_shown: [b] frames of each episode so far; the first forgets what was before.

        Raises:
            ValueError: an episode did not begin before it was first looked at.
        """
        ids = ids.cpu()
        places = torch.arange(ids.shape[1])
        odd = self._place_costs[places, ids]  # b n
        begins = torch.from_numpy(np.asarray(frames_shown) == 1)
        if self._last_ids is None:
            if not begins.all():
                raise ValueError(
                    "scores need each episode's first frame, first looked at after "
                    f"{np.asarray(frames_shown).tolist()} frames; reset the stream"
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
    """Return the costs of a frame's tokens where they are in the picture, [b h w]."""
    side = math.isqrt(costs.shape[1])
    return costs.unflatten(1, (side, side))


def place_costs(counts: NDArray[np.int32]) -> Float[Tensor, "n v"]:
    """Return what a code costs at a place of the picture, nats, from counts [n v].

    A code that was never there is as likely as in all of the picture, weighing one observation; one
    that never was anywhere counts half.
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
    """Return what a stream says that the tokens [r t n] of rollouts cost, nats [r t n]."""
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
