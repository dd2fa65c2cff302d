"""Choose the action of a tick from the proposals of an agent, by their timestamps.

Row `i` of a proposal is for the time `observed_s + i * period`. Rows whose time has passed are
skipped: a slow policy loses the beginning of its chunk, and the other rows keep their times.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..episode import Proposal

# A row is used by the tick whose time differs from the row's by less than half a period.
_HALF = 0.5


class Chunks:
    """The proposals of an episode; overlapping action chunks are averaged.

    A proposal of one row is used only for the first tick after it arrives: an increment must not be
    added twice.

    With `decay`, all chunks with a row for the tick are averaged with the weights exp(-decay * k),
    k = 0 for the oldest: temporal ensembling, Zhao et al. 2023 (ACT, arXiv 2304.13705, section
    4.3). Without it, only the newest chunk is used.
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
        """Return the timestamp of the observation of the newest proposal, or None."""
        return self._newest_s

    def add(self, proposal: Proposal) -> None:
        """Add a proposal."""
        self._newest_s = proposal.observed_s
        if len(proposal.actions) == 1:
            self._single, self._chunks = proposal, []
            return
        if self._decay is None:
            self._chunks = []
        self._chunks.append(proposal)

    def action(self, stamp_s: float) -> NDArray[np.float32] | None:
        """Return the action [a] for the tick that began at `stamp_s`; None without one."""
        single, self._single = self._single, None
        if single is not None:
            return single.actions[0]
        rows = [(chunk, self._row(chunk, stamp_s)) for chunk in self._chunks]
        current = [(chunk, row) for chunk, row in rows if row < len(chunk.actions)]
        self._chunks = [chunk for chunk, _ in current]
        if not current:
            return None
        if self._decay is None or len(current) == 1:
            chunk, row = current[-1]
            return chunk.actions[row]
        weights = np.exp(-self._decay * np.arange(len(current)))
        actions = np.stack([chunk.actions[row] for chunk, row in current])
        return (weights / weights.sum() @ actions).astype(np.float32)

    def _row(self, chunk: Proposal, stamp_s: float) -> int:
        return max(0, math.floor((stamp_s - chunk.observed_s) / self._period_s + _HALF))
