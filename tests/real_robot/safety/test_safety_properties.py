"""Whatever is wished: nothing outside limits is sent, twice is once, and no NaN passes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real_robot.robot import Target
from real_robot.safety.layer import Ages, SafetyLayer, UnsafeStartError
from tests.real_robot.safety.safety_cases import (
    ARM,
    FRESH,
    HOME,
    Judge,
    random_config,
    random_limits,
    state_at,
)

BATCHES, EXAMPLES, TICKS = 16, 25, 25  # 10,000 decisions, each put to the layer twice

counted: dict[int, int] = {}


def wish_of(rng, last, limits):
    """Draw what a policy might say: near, far, absurd, at a limit, nothing, or straight on."""
    kind = rng.integers(6)
    if kind == 0:
        return last + rng.normal(0.0, 0.05, 7)
    if kind == 1:
        return rng.uniform(limits.lower_rad, limits.upper_rad)
    if kind == 2:
        return rng.uniform(-1.0, 1.0, 7) * 10.0 ** rng.uniform(-3, 300)
    if kind == 3:
        return np.where(rng.random(7) < 0.5, limits.lower_rad, limits.upper_rad)
    if kind == 4:
        return last.copy()
    return last + np.eye(7)[rng.integers(7)] * rng.choice([-1.0, 1.0])


def within(positions, limits, slack_rad):
    low, high = np.array(limits.lower_rad) - slack_rad, np.array(limits.upper_rad) + slack_rad
    return (low <= positions) & (positions <= high)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_nothing_outside_limits_is_ever_sent(batch) -> None:
    counted[batch] = 0

    @settings(max_examples=EXAMPLES)
    @given(st.integers(0, 2**32))
    def run(seed) -> None:
        if counted[batch] >= EXAMPLES * TICKS:
            return  # hypothesis may repeat an example
        rng = np.random.default_rng((batch, seed))
        limits, config = random_limits(rng), random_config(rng)
        layer, judge = SafetyLayer(config, limits, ARM), Judge(config, limits)
        now_s = rng.uniform(0.0, 1e5)
        last, velocities, measured = HOME, np.zeros(7), HOME
        layer.begin(state_at(HOME, now_s), start=HOME, now_s=now_s)
        last_s = now_s - config.motion.period_s
        requested, repeats = HOME, 0
        for tick in range(TICKS):
            if repeats == 0:  # a wish for several ticks reaches the walls
                requested, repeats = wish_of(rng, last, limits), int(rng.integers(1, 12))
            repeats -= 1
            state = state_at(measured, now_s)
            ages = Ages(action_s=rng.choice([0.0, 0.0, 0.0, 0.5]), cameras_s={"hand": 0.0})
            width_m = rng.choice([-1e3, 0.04, 1e3])
            decision = layer.command(
                Target(joint_positions_rad=requested, gripper_width_m=width_m), state, ages, now_s
            )
            sent = decision.target.joint_positions_rad
            where = f"seed {seed} tick {tick} {decision.verdict}"
            if np.abs(measured - last).max() > config.max_tracking_error_rad:
                assert decision.verdict == "stop", where
            if not within(measured, limits, config.max_overshoot_rad).all():
                assert decision.verdict == "stop", where
            if decision.verdict == "move":
                assert 0 <= decision.target.gripper_width_m <= 0.08
                assert (np.abs(requested - sent).max() > 0) <= bool(decision.interventions)
            again = layer.command(decision.target, state, ages, now_s)
            assert np.array_equal(again.target.joint_positions_rad, sent), where
            assert again.target.gripper_width_m == decision.target.gripper_width_m
            assert again.interventions == (), where
            assert again.verdict == decision.verdict
            velocities = judge.check(sent, last, velocities, now_s - last_s, where=where)
            # a late tick may have kept the driver from sending all of it
            share = rng.choice([1.0, 1.0, 1.0, 0.9, 0.2, 0.0])
            layer.note_partial_send(sent, share)
            last, last_s = last + share * (sent - last), now_s
            judge.check_place(last, where)
            # an arm that follows, lags behind, or is pushed, and may be measured where it cannot be
            measured = last + rng.choice([0.0, 0.02, 0.4]) * rng.normal(size=7)
            if rng.random() < 0.97:
                measured = np.clip(measured, limits.lower_rad, limits.upper_rad)
            now_s += config.motion.period_s * rng.choice([0.3, 0.9, 1.0, 1.0, 1.1, 4.0])
            counted[batch] += 1

    run()
    assert counted[batch] == EXAMPLES * TICKS


def test_that_makes_ten_thousand() -> None:
    assert BATCHES * EXAMPLES * TICKS == 10_000


@given(st.integers(0, 2**32), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_no_nan_passes_and_the_arm_comes_to_rest_within_limits(seed, poison) -> None:
    rng = np.random.default_rng(seed)
    limits, config = random_limits(rng), random_config(rng)
    layer, judge = SafetyLayer(config, limits, ARM), Judge(config, limits)
    layer.begin(state_at(HOME, 0.0), start=None, now_s=0.0)
    last, velocities, now_s = HOME, np.zeros(7), 0.0
    period_s, ended = config.motion.period_s, False
    way, when = rng.normal(size=7), rng.integers(1, 40)
    for tick in range(400):
        requested, width_m, state, ages = last + way, 0.04, state_at(last, now_s), FRESH
        if tick == when:
            place = rng.integers(5)
            if place == 0:
                requested = np.where(np.arange(7) == rng.integers(7), poison, requested)
            elif place == 1:
                width_m = poison
            elif place == 2:
                bad = np.where(np.arange(7) == rng.integers(7), poison, last)
                state = replace(state, joint_positions_rad=bad)
            elif place == 3:
                ages = Ages(action_s=poison, cameras_s={"hand": 0.0})
            else:
                state = replace(state, stamp_s=poison)
        decision = layer.command(
            Target(joint_positions_rad=requested, gripper_width_m=width_m), state, ages, now_s
        )
        sent = decision.target.joint_positions_rad
        velocities = judge.check(sent, last, velocities, period_s)
        assert decision.verdict == ("move" if tick < when else "stop")
        last, now_s, ended = sent, now_s + period_s, decision.ended
        if ended:
            break
    assert ended
    assert tick >= when
    assert not velocities.any()
    assert decision.causes


def test_where_an_episode_begins_is_within_limits() -> None:
    begun = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        limits, config = random_limits(rng), random_config(rng)
        layer = SafetyLayer(config, limits, ARM)
        pose = HOME + rng.normal(0.0, 0.3, 7)
        try:
            layer.begin(state_at(pose, 0.0), start=None, now_s=0.0)
        except UnsafeStartError:
            continue
        Judge(config, limits).check_place(pose)
        begun.append(seed)
    assert 10 < len(begun) < 90
