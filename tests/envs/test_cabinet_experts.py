import gymnasium
import numpy as np
import pytest

from envs.expert_check import run_episode
from envs.experts import EXPERTS
from envs.experts.franka_cabinet import FrankaCabinetExpert

NAMES = ("toto/FrankaCabinet-v0", "toto/KukaCabinet-v0")


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    env = gymnasium.make(f"envs:{request.param}", cameras=(), privileged=True)
    yield env, EXPERTS[request.param]()
    env.close()


def test_expert_opens_the_drawer_from_any_start(pair):
    env, expert = pair
    steps = [run_episode(env, expert.act, seed) for seed in range(4)]
    assert None not in steps
    assert np.median(steps) <= 40


def test_expert_recovers_from_a_kick(pair):
    env, expert = pair
    steps = [run_episode(env, expert.act, seed, kick_steps=2) for seed in range(100, 104)]
    assert sum(taken is not None for taken in steps) >= 3


def test_expert_follows_a_cabinet_that_is_moved(pair):
    env, expert = pair
    steps = [run_episode(env, expert.act, seed, push_m=0.03) for seed in range(200, 202)]
    assert None not in steps


def test_expert_has_no_memory_and_stays_within_the_actions(pair):
    env, expert = pair
    observation, _ = env.reset(seed=1)
    for _ in range(20):
        action = expert.act(observation)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        last = observation
        observation, *_ = env.step(action)
    fresh = type(expert)()
    np.testing.assert_array_equal(expert.act(last), fresh.act({"state": last["state"]}))


def test_expert_holds_the_drawer_open(pair):
    env, expert = pair
    observation, _ = env.reset(seed=2)
    for _ in range(50):
        observation, _, _, _, info = env.step(action := expert.act(observation))
    assert info["success"]
    assert np.abs(action[:7]).max() < 0.05
    opening = env.get_wrapper_attr("state_names").index("opening")
    assert 0.32 < observation["state"][opening] < 0.38


def test_expert_grasps_again_what_slipped():
    env = gymnasium.make("envs:toto/FrankaCabinet-v0", cameras=(), privileged=True)
    expert = FrankaCabinetExpert()
    opening = env.get_wrapper_attr("state_names").index("opening")
    observation, _ = env.reset(seed=0)
    num_open, success = 0, False
    for _ in range(80):
        action = expert.act(observation)
        if num_open < 4 and observation["state"][opening] > 0.15:
            action[:7], action[7] = [0, 0.9, 0, 0.9, 0, 0, 0], 1.0
            num_open += 1
        observation, _, _, _, info = env.step(action)
        success = info["success"]
    env.close()
    assert num_open == 4
    assert success


@pytest.mark.parametrize("name", NAMES)
def test_expert_needs_the_privileged_state(name):
    with pytest.raises(ValueError, match="privileged=True"):
        EXPERTS[name]().act({"proprio": np.zeros(3, np.float32)})
