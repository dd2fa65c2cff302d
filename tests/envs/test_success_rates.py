import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.success_rates import (
    describe_rate,
    detectable_rates,
    fisher_exact,
    paired_power,
    pairs_needed,
    sign_test,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (12, 16, 0.5050, 0.8982),  # the paper's own robot experiment, MVP
        (10, 16, 0.3864, 0.8152),  # and Toto: no difference
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_gives_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_rate_and_mirrors(numbers):
    successes, trials = numbers
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low))


def test_without_trials_nothing_is_known():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_more_successes_than_trials_are_refused():
    with pytest.raises(ValueError, match=r"in \[0, 3\], got 4"):
        wilson_interval(4, 3)


def test_a_rate_is_told_with_its_interval():
    assert describe_rate(41, 50) == "41/50 = 82.0% (69.2% to 90.2%, Wilson 95 %)"


def test_fishers_exact_test_gives_known_values() -> None:
    # R's fisher.test on the tea tasting (3, 1; 1, 3), and on 12/16 against 10/16
    assert fisher_exact(3, 4, 1, 4) == pytest.approx(0.4857143, abs=1e-7)
    assert fisher_exact(12, 16, 10, 16) == pytest.approx(0.7042511, abs=1e-7)
    assert fisher_exact(0, 10, 10, 10) == pytest.approx(2 / 184756)
    assert fisher_exact(5, 5, 7, 7) == 1.0
    assert fisher_exact(0, 0, 3, 7) == 1.0
    with pytest.raises(ValueError, match=r"\[0, 4\]"):
        fisher_exact(5, 4, 1, 4)


def test_the_sign_test_gives_known_values() -> None:
    assert sign_test(0, 0) == sign_test(4, 4) == 1.0
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(0, 6) == pytest.approx(2 / 64)  # the fewest pairs that can show anything
    assert sign_test(8, 1) == sign_test(1, 8) == pytest.approx(2 * 10 / 512)
    with pytest.raises(ValueError, match="negative"):
        sign_test(-1, 2)


def test_power_is_what_drawn_evaluations_find() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((4000, 16)) < 0.2, rng.random((4000, 16)) < 0.75
    found = [
        sign_test(only_first, only_second) <= 0.05 and only_second > only_first
        for only_first, only_second in zip(
            (first & ~second).sum(axis=1).tolist(),
            (second & ~first).sum(axis=1).tolist(),
            strict=True,
        )
    ]
    assert paired_power(0.2, 0.75, 16) == pytest.approx(np.mean(found), abs=0.03)
    assert paired_power(0.5, 0.5, 16) < 0.025  # only those that err in this direction
    assert paired_power(0.0, 1.0, 5) == 0.0
    assert paired_power(0.0, 1.0, 6) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="worse <= better"):
        paired_power(0.8, 0.2, 16)


def test_few_trials_tell_large_differences_alone() -> None:
    assert detectable_rates(0.75, 16) == (0.20, None)
    assert detectable_rates(0.75, 5) == (None, None)
    low, high = detectable_rates(0.5, 50)
    assert paired_power(low, 0.5, 50) >= 0.8 > paired_power(low + 0.01, 0.5, 50)
    assert paired_power(0.5, high, 50) >= 0.8 > paired_power(0.5, high - 0.01, 50)
    pairs = pairs_needed(0.63, 0.75)
    assert 200 < pairs < 300
    assert pairs_needed(0.74, 0.75) is None
