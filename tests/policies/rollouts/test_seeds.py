import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.rollouts import seeds
from policies.rollouts.seeds import check_run, evaluation_seeds, training_seed, validation_seeds


def test_the_three_ranges_do_not_overlap():
    ranges = (seeds.TRAINING_SEEDS, seeds.VALIDATION_SEEDS, seeds.EVALUATION_SEEDS)
    assert all(one.stop <= two.start for one, two in itertools.pairwise(ranges))


def test_training_seeds_of_runs_follow_each_other_and_fill_the_range():
    last = seeds.EPISODES_PER_RUN - 1
    assert training_seed(0, 0) == seeds.TRAINING_SEEDS[0]
    assert training_seed(seeds.NUM_RUN_SEEDS - 1, last) == seeds.TRAINING_SEEDS[-1]
    for run in range(1, seeds.NUM_RUN_SEEDS):
        assert training_seed(run - 1, last) + 1 == training_seed(run, 0)


@given(st.integers(0, seeds.NUM_RUN_SEEDS - 1), st.integers(1, seeds.EPISODES_PER_RUN - 1))
def test_each_training_episode_of_a_run_has_the_next_seed(run, episode):
    assert training_seed(run, episode) == training_seed(run, episode - 1) + 1


def test_held_out_seeds_are_in_their_ranges():
    assert set(validation_seeds(30)) <= set(seeds.VALIDATION_SEEDS)
    assert set(evaluation_seeds(200)) <= set(seeds.EVALUATION_SEEDS)
    assert len(set(evaluation_seeds(200))) == 200


@pytest.mark.parametrize("numbers", [(0, 0, 0, 0), (99, 10_000, 1_000_000, 1_000_000)])
def test_a_run_that_fills_its_ranges_is_accepted(numbers):
    check_run(*numbers)


@pytest.mark.parametrize(
    "numbers", [(-1, 1, 1, 1), (100, 1, 1, 1), (0, 10_001, 1, 1), (0, 1, 1, 1_000_001)]
)
def test_a_run_that_would_leave_its_ranges_is_refused(numbers):
    with pytest.raises(ValueError, match="must be in"):
        check_run(*numbers)
