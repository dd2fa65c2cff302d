import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.arms.franka import FRANKA_PANDA as ARM
from envs.catalogue import variant
from envs.tasks.task import num_hold_steps, state_names

TASK = variant("toto/FrankaPick-v0").task


def state(cube=(0.5, 0.0, 0.4225), tips=((0.5, 0.04, 0.6), (0.5, -0.04, 0.6))):
    return {
        "cube_position": np.array(cube),
        "fingertips_to_cube": np.array(cube) - np.array(tips),
    }


@given(st.integers(0, 2**32))
def test_start_is_within_its_ranges(seed):
    start = TASK.sample_start(ARM, np.random.default_rng(seed))
    assert np.abs(start.arm_rad - TASK.start_arm_rad).max() <= TASK.arm_noise_rad
    x, y, z, *quaternion = start.box_poses["cube"]
    assert abs(x - 0.5) <= 0.1
    assert abs(y) <= 0.2
    assert z == pytest.approx(0.4225)
    assert np.linalg.norm(quaternion) == pytest.approx(1.0)
    assert start.hand == [0.04]


@pytest.mark.parametrize(
    ("height_m", "there"), [(0.69, False), (0.701, True), (0.8, True), (0.899, True), (0.91, False)]
)
def test_goal_is_within_ten_centimetres_of_the_height(height_m, there):
    assert bool(TASK.at_goal(state(cube=(0.5, 0.0, height_m)))) is there


@pytest.mark.parametrize(("rate_hz", "steps"), [(10, 2), (12, 2), (60, 10), (1, 1)])
def test_goal_is_held_for_a_sixth_of_a_second(rate_hz, steps):
    assert num_hold_steps(TASK, rate_hz) == steps


def test_cube_on_the_floor_has_failed():
    assert not TASK.failed(state())
    assert TASK.failed(state(cube=(0.9, 0.0, 0.0225)))


def test_rewards_at_states_computed_by_hand():
    far = TASK.rewards(state(), np.zeros(8))
    distance = math.hypot(0.04, 0.6 - 0.4225)
    assert far["reach"] == pytest.approx(2 * 0.08 / (0.04 + distance))
    assert far["lift"] == far["height"] == far["goal"] == far["action"] == 0.0
    cube = (0.5, 0.0, 0.78)
    held = TASK.rewards(
        state(cube=cube, tips=((0.5, 0.0225, 0.78), (0.5, -0.0225, 0.78))), np.full(8, 0.5)
    )
    assert held["reach"] == pytest.approx(2 * 0.08 / (0.04 + 0.0225))
    assert held["lift"] == held["goal"] == 2.0
    assert held["height"] == pytest.approx(1.28 / (0.04 + 0.02))
    assert held["action"] == pytest.approx(-0.01 * 8 * 0.25)


def test_many_worlds_at_once_give_what_each_gives():
    states = [state(), state(cube=(0.4, 0.1, 0.75)), state(cube=(0.9, 0.0, 0.02))]
    stacked = {name: np.stack([one[name] for one in states]) for name in states[0]}
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 8))
    together = TASK.rewards(stacked, actions)
    for index, one in enumerate(states):
        for name, term in TASK.rewards(one, actions[index]).items():
            assert together[name][index] == pytest.approx(term)
        assert TASK.at_goal(stacked)[index] == TASK.at_goal(one)
        assert TASK.failed(stacked)[index] == TASK.failed(one)


def test_state_that_is_not_measured_is_named():
    wrong = replace(TASK, state=("cube_position", "cube_temperature"))
    with pytest.raises(ValueError, match=r"cube_temperature.*cube_quaternion"):
        state_names(wrong, ARM)
