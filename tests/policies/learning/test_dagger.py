import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.learning.dagger import DaggerConfig, ExponentialBeta, IndicatorBeta, LinearBeta

SCHEDULES = st.one_of(
    st.just(IndicatorBeta()),
    st.builds(ExponentialBeta, decay=st.floats(0, 0.99)),
    st.builds(LinearBeta, rounds=st.integers(1, 20)),
)


@given(SCHEDULES)
def test_beta_begins_with_the_expert_and_never_grows(schedule):
    betas = [schedule(round) for round in range(30)]
    assert betas[0] == 1.0
    assert all(0 <= later <= earlier for earlier, later in itertools.pairwise(betas))


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        (IndicatorBeta(), [1, 0, 0, 0]),
        (ExponentialBeta(decay=0.5), [1, 0.5, 0.25, 0.125]),
        (LinearBeta(rounds=2), [1, 0.5, 0, 0]),
    ],
)
def test_schedules_give_what_they_say(schedule, betas):
    assert [schedule(round) for round in range(4)] == betas


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="decay must be in"):
        ExponentialBeta(decay=1.0)
    with pytest.raises(ValueError, match="rounds must be"):
        LinearBeta(rounds=0)
    with pytest.raises(ValueError, match="episodes at least 1"):
        DaggerConfig(rounds=1, episodes=0, beta=IndicatorBeta(), mixing="step")
