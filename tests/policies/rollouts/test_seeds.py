import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.rollouts import seeds
from policies.rollouts.seeds import check_run, evaluation_seeds, training_seed, validation_seeds


def test_the_three_ranges_do_not_overlap():
    ranges = (seeds.TRAINING_SEEDS, seeds.VALIDATION_SEEDS, seeds.EVALUATION_SEEDS)
    assert all(one.stop <= two.start for one, two in itertools.pairwise(ranges))


@given(
    st.tuples(st.integers(0, seeds.NUM_RUN_SEEDS - 1), st.integers(0, seeds.EPISODES_PER_RUN - 1)),
    st.tuples(st.integers(0, seeds.NUM_RUN_SEEDS - 1), st.integers(0, seeds.EPISODES_PER_RUN - 1)),
)
def test_no_two_training_episodes_of_any_runs_share_a_seed(one, two):
    assert training_seed(*one) in seeds.TRAINING_SEEDS
    assert (training_seed(*one) == training_seed(*two)) == (one == two)


def test_held_out_seeds_are_in_their_ranges():
    assert set(validation_seeds(30)) <= set(seeds.VALIDATION_SEEDS)
    assert set(evaluation_seeds(200)) <= set(seeds.EVALUATION_SEEDS)
    assert len(set(evaluation_seeds(200))) == 200


@pytest.mark.parametrize(
    "numbers", [(-1, 1, 1, 1), (100, 1, 1, 1), (0, 10_001, 1, 1), (0, 1, 1, 1_000_001)]
)
def test_a_run_that_would_leave_its_ranges_is_refused(numbers):
    with pytest.raises(ValueError, match="must be in"):
        check_run(*numbers)
