"""Probes in closed form, held against fitting them one by one."""

import numpy as np
import pytest

from toto_robot.probing.ridge import (
    HARDLY,
    ProbeEvaluation,
    difference,
    fit_ridge,
    principal_directions,
    rotate,
)

PENALTIES = (1e-5, 1e-1, 1e1)


def test_closed_form_is_what_refitting_each_fold_gives():
    rng = np.random.default_rng(1)
    inputs, fold = rng.normal(size=(60, 5)) + 3, np.arange(60) % 4
    target = inputs @ rng.normal(size=(5, 2)) + rng.normal(size=(60, 2)) * (1, 5) + 7
    weigh = np.array([1.0, 0.1])

    def fit(rows, penalty):
        x, y = inputs[rows], target[rows]
        centred = x - x.mean(0)
        gram = centred.T @ centred
        gram += penalty * np.trace(gram) / 5 * np.eye(5)
        slope = np.linalg.solve(gram, centred.T @ (y - y.mean(0)))
        return lambda new: (new - x.mean(0)) @ slope + y.mean(0)

    expected, chosen = np.zeros_like(target), []
    for k in range(4):
        errors = []
        for penalty in PENALTIES:
            error = 0.0
            for other in set(range(4)) - {k}:
                told = fit((fold != k) & (fold != other), penalty)(inputs[fold == other])
                error += np.square(told - target[fold == other]).sum(0) @ weigh
            errors.append(error)
        chosen.append(PENALTIES[int(np.argmin(errors))])
        expected[fold == k] = fit(fold != k, chosen[-1])(inputs[fold == k])
    ridge = fit_ridge(inputs, target, fold, PENALTIES, weigh)
    assert ridge.penalties == chosen
    np.testing.assert_allclose(ridge.predictions, expected, rtol=1e-9)


def test_without_inputs_it_tells_the_mean_of_the_other_folds():
    target, fold = np.array([[1.0], [2.0], [6.0]]), np.arange(3)
    told = fit_ridge(np.zeros((3, 0)), target, fold, PENALTIES, np.ones(1)).predictions
    np.testing.assert_allclose(told, [[4.0], [3.5], [1.5]])


def test_rotation_keeps_what_a_linear_probe_sees():
    rng = np.random.default_rng(2)
    low_rank = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 40))
    rotated, kept = rotate(low_rank, 10)
    assert rotated.shape == (50, 6)
    assert kept == pytest.approx(1)
    np.testing.assert_allclose(rotated @ rotated.T, low_rank @ low_rank.T, atol=1e-8)
    assert rotate(low_rank, 3)[1] < 1


def test_without_a_penalty_it_is_least_squares():
    rng = np.random.default_rng(5)
    inputs, fold = rng.normal(size=(40, 4)), np.arange(40) % 4
    target = inputs @ rng.normal(size=(4, 2)) + rng.normal(size=(40, 2)) + 3
    told = fit_ridge(inputs, target, fold, (1e-13,), np.ones(2)).predictions
    for k in range(4):
        rows = np.c_[inputs, np.ones(40)]
        slope = np.linalg.lstsq(rows[fold != k], target[fold != k], rcond=None)[0]
        np.testing.assert_allclose(told[fold == k], rows[fold == k] @ slope, rtol=1e-8)


@pytest.mark.parametrize("noise", [0, 1e-9, 1e-7])
def test_rows_that_are_nearly_equal_have_a_solution(noise):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1, 300)) + 1e3 + noise * rng.normal(size=(30, 300))
    target, fold = rng.normal(size=(30, 2)), np.arange(30) % 5
    told = fit_ridge(inputs, target, fold, (1e-4, 1e-2, 1.0), np.ones(2)).predictions
    assert np.abs(told).max() < 10


def test_companions_keep_their_own_penalty():
    rng = np.random.default_rng(3)
    noise, joints, fold = rng.normal(size=(60, 20)), rng.normal(size=(60, 2)), np.arange(60) % 3
    target = joints @ rng.normal(size=(2, 1))
    both = np.concatenate([noise, joints], axis=1)
    told = fit_ridge(both, target, fold, (1e6,), np.ones(1), companions=2).predictions
    alone = fit_ridge(joints, target, fold, (HARDLY,), np.ones(1)).predictions
    np.testing.assert_allclose(told, alone, atol=1e-3)
    crushed = fit_ridge(both, target, fold, (1e6,), np.ones(1)).predictions
    assert np.abs(crushed - target).mean() > 10 * np.abs(told - target).mean()


def test_differences_are_paired_and_resample_whole_episodes():
    rng = np.random.default_rng(4)
    episode = np.repeat(np.arange(30), 4)
    level = rng.normal(size=(30, 1))[episode]  # of an episode: the rows of one are no new evidence
    joints, seen = rng.normal(size=(120, 1)), rng.normal(size=(120, 1))
    target = 2 * joints + 2 * seen + 0.5 * level
    evaluation = ProbeEvaluation(
        target, episode, is_label=False, folds=5, resamples=400, penalties=PENALTIES, seed=0
    )
    for number in range(30):
        assert len(set(evaluation.folds[episode == number])) == 1
    alone = evaluation.score(joints)
    gain = difference(evaluation.score(np.c_[seen, joints], 1), alone)
    assert 0 < gain["low"] < gain["score"] < gain["high"]
    assert gain["high"] - gain["low"] < alone.high - alone.low
    nothing = difference(evaluation.score(np.c_[rng.normal(size=(120, 1)), joints], 1), alone)
    assert nothing["low"] < 0.01
    same = evaluation.score(joints)
    assert difference(same, alone) == {"score": 0.0, "low": 0.0, "high": 0.0}


def test_targets_that_are_one_an_episode_are_scored_where_resamples_differ():
    episode = np.repeat(np.arange(4), 3)
    target = episode[:, None].astype(float)  # a resample of one episode alone says nothing
    evaluation = ProbeEvaluation(
        target, episode, is_label=False, folds=4, resamples=500, penalties=(1e-3,), seed=0
    )
    score = evaluation.score(target + 1e-3 * np.arange(12)[:, None] % 3)
    assert 0 < len(score.draws) < 500
    assert np.isfinite(score.draws).all()
    assert score.score > 0.9
    with pytest.raises(ValueError, match="two different targets"):
        ProbeEvaluation(
            target * 0, episode, is_label=False, folds=4, resamples=9, penalties=(1.0,), seed=0
        )


def test_inputs_that_never_change_tell_nothing_and_keep_all():
    rotated, kept = rotate(np.zeros((6, 40)), 3)
    assert rotated.shape == (6, 0)
    assert kept == 1


def test_it_forgives_fewer_rows_than_columns():
    rng = np.random.default_rng(6)
    rotated, kept = rotate(rng.normal(size=(10, 40)), 512)
    assert rotated.shape[1] <= 10
    assert kept == pytest.approx(1)


def test_probes_can_be_tested_on_other_inputs_of_the_same_rows():
    rng = np.random.default_rng(7)
    inputs, episode = rng.normal(size=(60, 3)), np.arange(60) // 6
    target = inputs @ rng.normal(size=(3, 2))
    evaluation = ProbeEvaluation(
        target, episode, is_label=False, folds=3, resamples=100, penalties=PENALTIES, seed=0
    )
    same, again = evaluation.score(inputs), evaluation.score(inputs, shown=inputs)
    assert again.score == same.score > 0.99
    moved = evaluation.score(inputs, shown=inputs + 1)
    assert moved.penalties == same.penalties  # the other inputs take no part in the fit
    assert moved.score < 0.5
    ridge = fit_ridge(inputs, target, evaluation.folds, (1e-9,), np.ones(2), shown=2 * inputs)
    offset = fit_ridge(0 * inputs, target, evaluation.folds, (1.0,), np.ones(2)).predictions
    assert np.abs(ridge.predictions - 2 * target).max() < np.abs(offset).max() * 0.1


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
def test_principal_directions_span_those_of_a_singular_value_decomposition(
    shape: tuple[int, int],
) -> None:
    rows = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 5, shape[1])
    rows -= rows.mean(0)
    found = principal_directions(rows, 7)
    wanted = np.linalg.svd(rows, full_matrices=False)[2][:7].T
    np.testing.assert_allclose(found.T @ found, np.eye(7), atol=1e-9)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-9)


def test_principal_directions_are_no_more_than_the_rank() -> None:
    rows = np.outer(np.array([1.0, -1.0, 2.0, -2.0]), np.arange(6.0))
    assert principal_directions(rows, 5).shape == (6, 1)
