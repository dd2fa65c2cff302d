import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto_robot.surprise import calibrate, frame_scores, heat_map


def usual(seed, rollouts, frames=5):
    return np.random.default_rng(seed).normal(size=(rollouts, frames, 2))


@given(st.integers(0, 50), st.sampled_from([0.05, 0.2]))
def test_few_of_the_usual_frames_are_outside(seed, level):
    bounds = calibrate(usual(seed, 400), level)
    fresh = usual(seed + 1000, 2000)
    shares = [
        bounds.outside(fresh[:, index], np.full(2000, index + 1)).mean() for index in range(5)
    ]
    assert np.mean(shares) < level + 0.02
    assert np.mean(shares) > level / 4


def test_high_and_low_scores_are_outside_and_the_last_index_holds_on():
    bounds = calibrate(usual(0, 200), 0.1)
    shown = np.array([1, 5, 99, 2])
    scores = np.array([[9.0, 0.0], [0.0, -9.0], [-9.0, 0.0], [0.0, 0.0]])
    assert bounds.outside(scores, shown).tolist() == [True, True, True, False]


def test_first_frames_may_be_let_be():
    bounds = calibrate(usual(0, 200), 0.1, first=2)
    scores = np.full((3, 2), 9.0)
    assert bounds.outside(scores, np.array([1, 2, 3])).tolist() == [False, False, True]


def test_too_few_rollouts_for_the_level_are_refused():
    with pytest.raises(ValueError, match="at least 399 rollouts, got 20"):
        calibrate(usual(0, 20), 0.01)
    assert calibrate(usual(0, 399), 0.01).num_rollouts == 399


def test_what_covers_a_part_shows_in_the_worst_cell():
    costs = torch.ones(2, 256)
    map_of_second = heat_map(costs)[1]
    map_of_second[4:8, 8:12] = 5.0  # one cell of the 4 x 4
    scores = frame_scores(costs)
    np.testing.assert_allclose(scores[0], [1.0, 1.0])
    np.testing.assert_allclose(scores[1], [1.0 + 4.0 / 16, 5.0])
