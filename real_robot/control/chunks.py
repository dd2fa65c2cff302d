"""Which action is for now, of the proposals that have come: by their time stamps.

Row `i` of a proposal is for the time `observed_s + i * period`. Rows whose time has passed are left
out, so a slow policy loses the beginning of its chunk and not the rhythm.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..episode import Proposal

# A tick that is late, or early, by less than half a period is still the row's own.
_HALF = 0.5


class Chunks:
    """Hold the proposals of an episode, and blend what they say about now.

    A proposal of one row is for the first tick after it comes, and for no other: an increment must
    not be added twice.

    With `decay` all chunks that reach to now are averaged, with weights exp(-decay * k), k = 0 for
    the oldest: temporal ensembling as in Zhao et al. 2023 (ACT, arXiv 2304.13705, section 4.3).
    Without it the newest chunk alone counts.
    """

    def __init__(self, period_s: float, decay: float | None) -> None:
        if decay is not None and not 0 <= decay < math.inf:
            raise ValueError(f"decay must be finite and not negative, or None: {decay}")
        self._period_s, self._decay = period_s, decay
        self._chunks: list[Proposal] = []
        self._single: Proposal | None = None
        self._newest_s: float | None = None

    @property
    def newest_s(self) -> float | None:
        """Return the stamp of the observation that the newest proposal answers, or None."""
        return self._newest_s

    def add(self, proposal: Proposal) -> None:
        """Take a proposal in."""
        self._newest_s = proposal.observed_s
        if len(proposal.actions) == 1:
            self._single, self._chunks = proposal, []
            return
        if self._decay is None:
            self._chunks = []
        self._chunks.append(proposal)

    def action(self, stamp_s: float) -> NDArray[np.float32] | None:
        """Return the action [a] for the tick that began at `stamp_s`; None when none is for it."""
        single, self._single = self._single, None
        if single is not None:
            return single.actions[0]
        rows = [(chunk, self._row(chunk, stamp_s)) for chunk in self._chunks]
        there = [(chunk, row) for chunk, row in rows if row < len(chunk.actions)]
        self._chunks = [chunk for chunk, _ in there]
        if not there:
            return None
        if self._decay is None or len(there) == 1:
            chunk, row = there[-1]
            return chunk.actions[row]
        weights = np.exp(-self._decay * np.arange(len(there)))
        actions = np.stack([chunk.actions[row] for chunk, row in there])
        return (weights / weights.sum() @ actions).astype(np.float32)

    def _row(self, chunk: Proposal, stamp_s: float) -> int:
        return max(0, math.floor((stamp_s - chunk.observed_s) / self._period_s + _HALF))
