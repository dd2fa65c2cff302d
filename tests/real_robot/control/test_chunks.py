"""Which row of which chunk is for now."""

import numpy as np
import pytest

from real_robot.control.chunks import Chunks
from real_robot.episode import Proposal

PERIOD_S = 0.1


def chunk(first, length, observed_s):
    """A chunk of one number, counting up from `first`."""
    rows = np.arange(first, first + length, dtype=np.float32)[:, None]
    return Proposal(actions=rows, observed_s=observed_s)


def test_a_single_action_is_used_once() -> None:
    chunks = Chunks(PERIOD_S, None)
    assert chunks.action(0.0) is None
    chunks.add(chunk(5, 1, 0.0))
    assert chunks.action(0.1) == 5  # late, and still the only one there is
    assert chunks.action(0.2) is None
    assert chunks.newest_s == 0.0


def test_rows_that_are_past_are_left_out() -> None:
    chunks = Chunks(PERIOD_S, None)
    chunks.add(chunk(0, 4, 1.0))
    assert [float(chunks.action(1.0 + late)[0]) for late in (0.0, 0.104, 0.18, 0.26, 0.34)] == [
        0,
        1,
        2,
        3,
        3,
    ]
    assert chunks.action(1.4) is None


def test_the_newest_chunk_counts_alone_without_a_decay() -> None:
    chunks = Chunks(PERIOD_S, None)
    chunks.add(chunk(0, 8, 0.0))
    chunks.add(chunk(100, 8, 0.2))
    assert chunks.action(0.3) == 101


def test_overlapping_chunks_are_averaged_with_weights_that_decay() -> None:
    chunks = Chunks(PERIOD_S, 0.5)
    chunks.add(chunk(0, 4, 0.0))
    chunks.add(chunk(100, 4, 0.1))
    chunks.add(chunk(200, 4, 0.2))
    weights = np.exp([0.0, -0.5, -1.0])
    expected = weights @ [2.0, 101.0, 200.0] / weights.sum()
    assert chunks.action(0.2)[0] == pytest.approx(expected, rel=1e-6)
    weights = np.exp([0.0, -0.5])  # the first has no row for this time any more
    assert chunks.action(0.4)[0] == pytest.approx(weights @ [103, 202] / weights.sum(), rel=1e-6)


@pytest.mark.parametrize("decay", [-1.0, np.inf, np.nan])
def test_a_decay_that_is_none_is_refused(decay) -> None:
    with pytest.raises(ValueError, match="decay"):
        Chunks(PERIOD_S, decay)
