import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies.demonstrations.episodes import episodes, make_episode

ARRAYS = ("tokens", "proprio", "labels", "executed", "acted_by_expert")


@given(episodes(), st.sampled_from(ARRAYS))
def test_an_array_of_another_length_is_refused(episode, name):
    shorter = getattr(episode, name)[:-1]
    with pytest.raises(ValueError, match=r"observations|one shape|acted_by_expert|at least one"):
        dataclasses.replace(episode, **{name: shorter})


@given(episodes(), st.sampled_from(ARRAYS))
def test_an_array_of_another_type_is_refused(episode, name):
    other = getattr(episode, name).astype(np.float64)
    with pytest.raises(ValueError, match=f"{name} must be"):
        dataclasses.replace(episode, **{name: other})


def test_there_is_no_episode_without_action():
    episode = make_episode(steps=1)
    nothing = {
        name: getattr(episode, name)[:0] for name in ("labels", "executed", "acted_by_expert")
    }
    with pytest.raises(ValueError, match="at least one action"):
        dataclasses.replace(episode, **nothing)


@pytest.mark.parametrize("name", ["proprio", "labels", "executed"])
def test_what_is_not_finite_is_refused(name):
    episode = make_episode()
    array = getattr(episode, name).copy()
    array[0, 0] = np.nan
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        dataclasses.replace(episode, **{name: array})


def test_where_the_expert_acted_its_label_was_executed():
    episode = make_episode(steps=4)
    with pytest.raises(ValueError, match="executed must equal labels"):
        dataclasses.replace(
            episode, acted_by_expert=np.ones(4, bool), executed=episode.labels + np.float32(0.1)
        )
