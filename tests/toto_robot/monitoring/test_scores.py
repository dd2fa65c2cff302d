"""Surprise: what is promised of usual rollouts, what is found, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from toto_robot import Encoder
from toto_robot.models import TotoConfig
from toto_robot.monitoring.conformal import MonitorSpec, calibrate, load_bounds, save_bounds
from toto_robot.monitoring.monitor import CameraMonitor, calibrate_monitor
from toto_robot.monitoring.scores import SCORES, FrameScorer, heat_map, place_costs, rollout_costs
from toto_robot.tokenizers import LightConfig

PLACES, CODES = 16, 16


def make_encoder(seed):
    torch.manual_seed(seed)
    tokenizer = LightConfig(
        image_size=32, levels=(4, 4), widths=(4, 4), blocks=(1, 1),
        decoder_widths=(4, 4, 4), decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    transformer = TotoConfig(
        codes=CODES, dim=8, layers=2, heads=1, mlp_hidden=8, tie_embeddings=True,
        tokens_per_frame=PLACES, frames=4, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    return Encoder(tokenizer, transformer, layer=1, pool="mean")


ENCODER = make_encoder(0)
WATCHED = MonitorSpec(
    weights_hash=ENCODER.weights_hash, camera="front", rate_hz=10.0, context=3, mode="rolling",
    frame_skip=1,
)  # fmt: skip


def rollouts(seed, count, frames=12):
    """Tokens [r t n]: each place shows one of three codes of its own, and seldom changes it."""
    rng = np.random.default_rng(seed)
    tokens = np.arange(PLACES) // 2 * 2 + rng.integers(0, 3, (count, frames, PLACES))
    stays = rng.random(tokens.shape) < 0.7
    for index in range(1, frames):
        tokens[:, index] = np.where(stays[:, index], tokens[:, index - 1], tokens[:, index])
    return tokens % CODES


def made_up_costs(seed, tokens):
    """Costs [r t n] that are as high as is usual in some rollouts, and as is not in others."""
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, rng.uniform(0.8, 1.2, (len(tokens), 1, 1)), tokens.shape).astype("f4")


def calibrated(seed=0, count=120, **levels):
    tokens = rollouts(seed, count)
    return calibrate(tokens, made_up_costs(seed, tokens), WATCHED, CODES, **levels)


def anomaly_scores(bounds, tokens, costs):
    scorer = FrameScorer(place_costs(bounds.counts))
    rows = []
    for index in range(tokens.shape[1]):
        shown = np.full(len(tokens), index + 1)
        scores = scorer.score(
            torch.from_numpy(tokens[:, index]), torch.from_numpy(costs[:, index]), shown
        )
        rows.append(np.abs(bounds.deviations(scores, shown)).max(axis=1))
    return np.stack(rows, axis=1)


def test_the_promised_share_of_usual_frames_and_rollouts_is_outside():
    outside, alarms = [], []
    for seed in range(8):
        bounds = calibrated(seed, 80, level=0.1, alarm_level=0.2, patience=2)
        tokens = rollouts(seed + 100, 100)
        strange = anomaly_scores(bounds, tokens, made_up_costs(seed + 100, tokens))
        shown = np.arange(1, tokens.shape[1] + 1)
        outside += [bounds.outside(row, shown) for row in strange]
        above = strange > bounds.alarm_limit
        alarms += list((above[:, 1:] & above[:, :-1]).any(axis=1))
    # conformal limits from 40 rollouts: at most the level, and less by 1 / 41 at most
    assert 0.1 - 1 / 41 - 0.01 < np.mean(outside) < 0.1 + 0.01
    assert np.mean(outside, axis=0).max() < 0.1 + 0.03  # at every index, not only on average
    assert 0.2 - 1 / 41 - 0.04 < np.mean(alarms) < 0.2 + 0.04


def test_new_rollouts_seem_as_usual_as_those_fitted_on():
    tokens = rollouts(0, 40, frames=3)
    tokens[:20:2] = 15 - tokens[:20:2]  # so that every other rollout has few like itself
    bounds = calibrate(tokens, made_up_costs(0, tokens), WATCHED, CODES)
    fresh = rollouts(1, 400, frames=3)
    fresh[::2] = 15 - fresh[::2]
    scorer = FrameScorer(place_costs(bounds.counts))
    shown = np.ones(400, dtype=int)
    scores = scorer.score(torch.from_numpy(fresh[:, 0]), torch.ones(400, PLACES), shown)
    oddity = bounds.deviations(scores, shown)[:, SCORES.index("oddity")]
    assert abs(oddity.mean()) < 0.2  # 1.6 if the rollouts fitted on counted themselves


def look_at(bounds, tokens, encoder=ENCODER):
    """Reports on the tokens [t n] of one rollout."""
    monitor = CameraMonitor(encoder, bounds, camera="front", rate_hz=10.0)
    stream = monitor.watched_stream(1)
    reports = []
    for ids in torch.from_numpy(tokens)[:, None]:
        stream.step_tokens(ids)
        reports.append(monitor.report(ids, stream))
    return reports


@pytest.fixture(scope="module")
def bounds():
    tokens = rollouts(0, 80)
    costs = rollout_costs(ENCODER, tokens, context=3)
    return calibrate(tokens, costs, WATCHED, CODES, patience=2)


@pytest.fixture(scope="module")
def rollout():
    return rollouts(999, 1)[0]


def test_a_usual_rollout_has_no_alarm(bounds, rollout):
    assert not any(report.alarm[0] for report in look_at(bounds, rollout))


def test_a_frozen_picture_is_found_by_its_stillness(bounds, rollout):
    rollout = rollout.copy()
    rollout[6:] = rollout[5]
    reports = look_at(bounds, rollout)
    assert not any(report.alarm[0] for report in reports[:7])
    assert reports[-1].alarm[0]
    assert reports[-1].reason() == "still high"
    np.testing.assert_allclose([report.scores[0, 3] for report in reports[6:]], range(1, 7))


def test_something_before_the_lens_is_found_by_what_lasts(bounds, rollout):
    rollout = rollout.copy()
    rollout[6:, :3] = 13  # a code that is usual elsewhere
    reports = look_at(bounds, rollout)
    assert not any(report.alarm[0] for report in reports[:6])
    assert all(report.alarm[0] for report in reports[8:])
    lasting = SCORES.index("lasting")
    assert reports[-1].deviations[0, lasting] > bounds.alarm_limit


def test_odd_places_that_move_do_not_last():
    scorer = FrameScorer(place_costs(np.eye(PLACES, dtype=np.int32) * 100))
    usual = torch.arange(PLACES)[None]
    for index in range(8):
        moving = usual.clone()
        moving[0, index] = (index + 1) % CODES
        scores = scorer.score(moving, torch.ones(1, PLACES), np.array([index + 1]))
    staying = FrameScorer(place_costs(np.eye(PLACES, dtype=np.int32) * 100))
    for index in range(8):
        stays = usual.clone()
        stays[0, 3] = 4
        lasts = staying.score(stays, torch.ones(1, PLACES), np.array([index + 1]))
    oddity, lasting = SCORES.index("oddity"), SCORES.index("lasting")
    assert scores[0, oddity] == pytest.approx(lasts[0, oddity])
    assert lasts[0, lasting] > scores[0, lasting] + 1


def test_environments_do_not_disturb_each_other_and_resets_forget(bounds):
    one, other = rollouts(5, 2)
    both = CameraMonitor(ENCODER, bounds, camera="front", rate_hz=10.0)
    stream = both.watched_stream(2)
    begins = 4  # the second environment begins anew
    sequence = np.concatenate([other[:begins], other[: len(other) - begins]])
    alone = look_at(bounds, one)
    anew = look_at(bounds, other)
    for index in range(len(one)):
        ids = torch.from_numpy(np.stack([one[index], sequence[index]]))
        stream.step_tokens(ids, np.array([False, index == begins]))
        report = both.report(ids, stream)
        np.testing.assert_allclose(report.scores[0], alone[index].scores[0], atol=1e-5)
        if index >= begins:
            np.testing.assert_allclose(report.scores[1], anew[index - begins].scores[0], atol=1e-5)


def test_an_alarm_needs_patience_and_ends(bounds, rollout):
    rollout = rollout.copy()
    rollout[4] = rollout[7:9] = 15 - np.arange(PLACES)
    reports = look_at(bounds.with_levels(0.05, 0.05, 2), rollout)
    strange = [report.anomaly_scores[0] > bounds.alarm_limit for report in reports]
    assert strange[4]
    assert strange[7]
    alarms = [bool(report.alarm[0]) for report in reports]
    assert alarms == [i > 0 and strange[i] and strange[i - 1] for i in range(len(strange))]
    assert alarms[8]
    assert not alarms[4]


def test_frames_after_the_last_index_are_held_against_it():
    bounds = calibrated()
    scores = np.zeros((2, len(SCORES)))
    late = bounds.deviations(scores, np.array([12, 500]))
    np.testing.assert_array_equal(late[0], late[1])
    limits = bounds.outside(bounds.frame_limits[[-1, -1]] + 1e-9, np.array([12, 500]))
    assert limits.all()


def test_a_score_that_is_no_number_is_strange(bounds):
    scores = np.full((2, len(SCORES)), np.nan)
    broken = bounds.deviations(scores, np.array([1, 2]))
    assert np.isinf(broken).sum(axis=1).tolist() == [3, 4]  # the first frame has no stillness
    assert bounds.outside(np.abs(broken).max(axis=1), np.array([1, 2])).all()


def test_what_a_robot_logs_is_plain(bounds, rollout):
    entries = look_at(bounds, rollout)[3].entries()
    assert list(entries) == ["alarm", "outside", "strangeness", "reason", *SCORES]
    assert {type(value) for value in entries.values()} == {bool, float, str}


def test_calibration_survives_its_file(tmp_path, bounds):
    path = tmp_path / "front.safetensors"
    save_bounds(path, bounds)
    loaded = load_bounds(path)
    for name in bounds.__slots__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(bounds, name))
    stricter = bounds.with_levels(0.5, 0.03, 2)
    save_bounds(path, stricter)
    assert load_bounds(path).alarm_limit == stricter.alarm_limit > bounds.alarm_limit


def test_a_damaged_or_missing_file_is_named(tmp_path, bounds):
    path = tmp_path / "front.safetensors"
    with pytest.raises(FileNotFoundError, match="front"):
        load_bounds(path)
    save_bounds(path, bounds)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"front\.safetensors holds no readable bounds"):
        load_bounds(path)


@pytest.mark.parametrize(
    ("encoder", "camera", "rate_hz", "match"),
    [
        (make_encoder(1), "front", 10.0, r"weights_hash is .{,90}; calibrate the monitor again$"),
        (ENCODER, "hand", 10.0, "camera is 'hand', the bounds need 'front'"),
        (ENCODER, "front", 30.0, "rate_hz is 30.0"),
    ],
)
def test_another_encoder_camera_or_rate_is_refused(bounds, encoder, camera, rate_hz, match):
    with pytest.raises(ValueError, match=match):
        CameraMonitor(encoder, bounds, camera=camera, rate_hz=rate_hz)


@pytest.mark.parametrize(
    ("context", "changes", "message"),
    [
        (4, {}, "context is 4, the bounds need 3"),
        (4, {"mode": "staggered"}, "mode is 'staggered', the bounds need 'rolling'"),
        (3, {"frame_skip": 2}, "frame_skip is 2, the bounds need 1"),
    ],
)
def test_another_stream_is_refused(bounds, rollout, context, changes, message):
    monitor = CameraMonitor(ENCODER, bounds, camera="front", rate_hz=10.0)
    stream = ENCODER.stream(1, context, surprise=True, **changes)
    ids = torch.from_numpy(rollout[:1])
    stream.step_tokens(ids)
    with pytest.raises(ValueError, match=message):
        monitor.report(ids, stream)


def test_an_episode_is_watched_from_its_beginning(bounds, rollout):
    monitor = CameraMonitor(ENCODER, bounds, camera="front", rate_hz=10.0)
    stream = monitor.watched_stream(1)
    ids = torch.from_numpy(rollout[:1])
    stream.step_tokens(ids)
    stream.step_tokens(ids)
    with pytest.raises(ValueError, match=r"first frame, got frame numbers \[2\]"):
        monitor.report(ids, stream)
    stream.step_tokens(ids, np.array([True]))
    assert not monitor.report(ids, stream).alarm[0]


def test_another_layer_or_pool_is_the_same_to_the_monitor(bounds, rollout):
    deeper = Encoder(ENCODER.tokenizer, ENCODER.transformer, layer=2, pool="last")
    reports, others = look_at(bounds, rollout), look_at(bounds, rollout, deeper)
    np.testing.assert_allclose(others[5].scores, reports[5].scores, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"level": 0.01}, "level 0.01 needs at least 99 rollouts .* got 60"),
        ({"alarm_level": 0.001}, "alarm_level 0.001 needs at least 999"),
        ({"alarm_level": 1.0}, "alarm_level must be in"),
        ({"patience": 0}, "patience must be in"),
        ({"patience": 13}, r"patience must be in \[1, 12\]"),
    ],
)
def test_impossible_levels_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        calibrated(**change)


def test_the_fewest_rollouts_for_a_level_will_do():
    bounds = calibrated(count=38, level=0.05, alarm_level=0.05)
    assert bounds.alarm_limit == bounds.anomaly_scores.max()
    np.testing.assert_array_equal(bounds.frame_limits, bounds.anomaly_scores.max(axis=0))
    with pytest.raises(ValueError, match="at least 19"):
        calibrated(count=36, level=0.05, alarm_level=0.05)


def test_one_call_calibrates_a_camera():
    tokens = rollouts(0, 38)
    bounds = calibrate_monitor(ENCODER, tokens, camera="front", rate_hz=10.0, context=3)
    assert bounds.spec == WATCHED
    by_hand = calibrate(tokens, rollout_costs(ENCODER, tokens, 3), WATCHED, CODES)
    np.testing.assert_array_equal(bounds.anomaly_scores, by_hand.anomaly_scores)
    assert bounds.alarm_limit == by_hand.alarm_limit


def test_rollouts_of_wrong_shape_are_refused():
    tokens = rollouts(0, 40)
    with pytest.raises(ValueError, match="must both be"):
        calibrate(tokens, np.zeros((40, 12, 3), "f4"), WATCHED, CODES)
    with pytest.raises(ValueError, match="at least 2 frames"):
        calibrate(tokens[:, :1], np.zeros((40, 1, PLACES), "f4"), WATCHED, CODES)


def test_heat_is_where_it_is_in_the_picture():
    costs = torch.ones(2, 256)
    costs[1, 16 * 5 + 9] = 7.0
    assert heat_map(costs)[1, 5, 9] == 7.0
    assert heat_map(costs).sum() == 2 * 256 + 6


def test_watched_is_compared_field_by_field():
    assert replace(WATCHED, mode="staggered") != WATCHED
