"""Intervals over training seeds: hand-made cases, and how often they contain the true value."""

import numpy as np
import pytest
from scipy import stats

from policies.studies.statistics import (
    band,
    difference,
    episode_variance,
    seeds_needed,
    success_rate,
)
from toto_robot.analyses.seeds import area_under, over_seeds


def test_the_interval_is_a_t_interval():
    found = over_seeds([0.5, 0.7, 0.6])
    # mean 0.6, standard error 0.1 / sqrt(3), t(0.975, 2) = 4.3027
    assert found.mean == pytest.approx(0.6)
    assert found.high - found.mean == pytest.approx(4.302652729911275 * 0.1 / 3**0.5)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_equal_rates_by_chance_do_not_give_an_interval_of_width_zero():
    outcomes = [np.array([1.0, 0.0, 1.0, 0.0])] * 3
    found = success_rate(outcomes)
    assert found.mean == 0.5
    assert found.low < 0.3
    assert found.high > 0.7
    assert success_rate([np.ones(50)] * 3).low < 1.0


def test_a_difference_is_paired_over_episodes():
    ours, others = np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])
    found = difference([ours] * 3, [others] * 3)
    assert found.mean == 0.25
    # three seeds with the same single unlike pair: variance of (0, 0, 1, 0), over 4 x 3 episodes
    reach = 4.302652729911275 * (0.25 / 4 / 3) ** 0.5
    assert found.high == pytest.approx(0.25 + reach)
    with pytest.raises(ValueError, match="equal numbers"):
        difference([ours] * 3, [others] * 2)


def test_one_seed_has_the_interval_of_its_episodes_alone():
    outcomes = np.array([1.0] * 30 + [0.0] * 20)
    found = success_rate([outcomes])
    reach = 1.959963984540054 * (0.24 * 50 / 49 / 50) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.6 - reach, 0.6 + reach))


def test_the_area_is_the_mean_height():
    assert area_under([0, 10], [0.0, 1.0], 0, 10) == pytest.approx(0.5)
    assert area_under([0, 10], [0.0, 1.0], 5, 10) == pytest.approx(0.75)
    assert area_under([0, 5, 10], [0.0, 1.0, 1.0], 0, 10) == pytest.approx(0.75)
    assert area_under([2, 4], [0.5, 0.9], 3, 3) == pytest.approx(0.7)


def test_the_seeds_needed_are_those_of_a_paired_t_test():
    # effect 0.5: 34 pairs have a power of 0.8 at 5 %, two-sided (tables of Cohen 1988, d = 0.5)
    differences = [0.5 - 1.0, 0.5 + 1.0, 0.5]
    assert np.std(differences, ddof=1) == pytest.approx(1.0)
    assert seeds_needed(differences) == 34
    assert seeds_needed([0.1, 0.1]) is None
    assert seeds_needed([0.001, -0.5, 0.5]) is None


def test_the_band_is_that_of_a_bootstrap_over_seeds():
    curves = np.array([[0.0, 0.2], [0.2, 0.6], [0.4, 1.0]])
    low, high = band(curves)
    assert (low >= curves.min(axis=0) - 1e-9).all()
    assert (high <= curves.max(axis=0) + 1e-9).all()
    assert (low < curves.mean(axis=0)).all()
    assert (high > curves.mean(axis=0)).all()
    one_low, one_high = band(curves[:1])
    assert (one_low == one_high).all()


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_the_intervals_contain_the_true_difference_in_95_percent_of_studies(seeds, spread):
    """Simulate studies whose true rates are known.

    The scenes of a study are the same for both rows and for all training seeds. In half of them,
    the difficulty of the scene decides; in the others, chance does. A training seed has an effect
    of its own on each row. The true difference is that in the scenes of the study. A bootstrap over
    seeds is simulated beside it, and contains the truth too rarely.
    """
    rng = np.random.default_rng(0)
    studies, episodes = 1500, 50
    levels = rng.normal([[0.45], [0.6]], spread, (2, 2000)).clip(0.02, 0.98)  # many training seeds
    hits = bootstrapped = 0
    for _ in range(studies):
        level = rng.normal([[0.45], [0.6]], spread, (2, seeds)).clip(0.02, 0.98)
        difficulty = rng.random(episodes)
        decides = rng.random(episodes) < 0.5
        noise = rng.random((2, seeds, episodes))
        outcomes = np.where(decides, difficulty, noise) < level[..., None]
        found = difference(list(outcomes[1].astype(float)), list(outcomes[0].astype(float)))
        solved = (difficulty[:, None] < levels[:, None]).mean(-1)
        rates = np.where(decides, solved, levels.mean(-1)[:, None]).mean(-1)
        truth = rates[1] - rates[0]
        hits += found.low <= truth <= found.high
        per_seed = (outcomes[1].mean(-1) - outcomes[0].mean(-1))[
            rng.integers(0, seeds, (200, seeds))
        ]
        low, high = np.quantile(per_seed.mean(-1), [0.025, 0.975])
        bootstrapped += low <= truth <= high
    # four standard errors of a proportion below 95 %
    assert hits / studies > 0.95 - 4 * (0.95 * 0.05 / studies) ** 0.5
    assert bootstrapped / studies < 0.9


def test_the_coverage_is_not_bought_by_endless_intervals():
    """With five seeds, an interval is little longer than the plain t interval over seeds."""
    rng = np.random.default_rng(1)
    rates = rng.normal(0.5, 0.1, (200, 5)).clip(0, 1)
    outcomes = (rng.random((200, 5, 50)) < rates[..., None]).astype(float)
    ours, plain = [], []
    for one in outcomes:
        found = success_rate(list(one))
        ours.append(found.high - found.low)
        low, high = stats.ttest_1samp(one.mean(-1), 0.5).confidence_interval(0.95)
        plain.append(high - low)
    assert np.mean(ours) < 1.15 * np.mean(plain)
    assert episode_variance(list(outcomes[0])) > 0
