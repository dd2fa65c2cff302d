"""Select the action for each time step from the action chunks that an agent proposes.

An action chunk is a sequence of actions [n a]: n time steps, a numbers per action. The first action
(row 0) is for the time of the observation, `observed_s`. Row `i` is for `observed_s + i * period`.
A slow policy answers after the times of its first rows. These rows are skipped, and the later rows
are used at their own times.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..episode import Proposal

# A row is used at the time step whose time is within half a period of the row's time.
_HALF = 0.5


class Chunks:
    """Buffer of the action chunks of an episode, from which the loop takes the next action.

    A chunk of one row is used only at the first time step after its arrival. If it were used twice,
    its joint increment would be added twice.
    """

    def __init__(self, period_s: float, decay: float | None) -> None:
        """Create an empty buffer.

        Args:
            period_s: time between two time steps, s.
            decay: decay of the weights with which overlapping chunks are averaged. All chunks that
                have a row for the time step count, with the weights exp(-decay * k); k = 0 is the
                oldest chunk. This is temporal ensembling, Zhao et al. 2023 (ACT, arXiv 2304.13705,
                section 4.3). None: only the newest chunk is used.

        Raises:
            ValueError: `decay` is negative or not finite.
        """
        if decay is not None and not 0 <= decay < math.inf:
            raise ValueError(f"decay must be finite and not negative, or None: {decay}")
        self._period_s, self._decay = period_s, decay
        self._chunks: list[Proposal] = []
        self._single: Proposal | None = None
        self._newest_s: float | None = None

    @property
    def newest_s(self) -> float | None:
        """Return the observation time of the newest action chunk, s; None before the first one."""
        return self._newest_s

    def add(self, proposal: Proposal) -> None:
        """Add the action chunk of a new proposal."""
        self._newest_s = proposal.observed_s
        if len(proposal.actions) == 1:
            self._single, self._chunks = proposal, []
            return
        if self._decay is None:
            self._chunks = []
        self._chunks.append(proposal)

    def action(self, stamp_s: float) -> NDArray[np.float32] | None:
        """Return the action [a] for the time step that began at `stamp_s`.

        None is returned if no chunk has a row for this time.
        """
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
