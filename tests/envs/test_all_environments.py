"""What holds for every environment in every protocol."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation

from envs import ENVIRONMENTS
from envs.catalogue import PROTOCOLS
from envs.vector import make_vec

ALL = pytest.mark.parametrize(
    ("name", "protocol"), [(name, protocol) for name in ENVIRONMENTS for protocol in PROTOCOLS]
)


def make(name, protocol, **options):
    return gymnasium.make(
        f"envs:{name}", protocol=protocol, image_size=16, privileged=True, **options
    )


@ALL
def test_gymnasiums_checker_finds_nothing(name, protocol):
    env = make(name, protocol, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


@ALL
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version:UserWarning")
def test_checker_finds_nothing_in_the_flattened_form(name, protocol):
    env = FlattenObservation(make(name, protocol))
    assert isinstance(env.observation_space, gymnasium.spaces.Box)
    check_env(env, skip_render_check=True)
    env.close()


@ALL
def test_same_seed_is_the_same_episode(name, protocol):
    env = make(name, protocol)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (6, *env.action_space.shape)).astype(np.float32)
    runs = []
    for _ in range(2):
        observations = [env.reset(seed=11)[0]]
        rewards = []
        for action in actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        runs.append((observations, rewards))
        env.reset(seed=12)
    assert runs[0][1] == runs[1][1]
    for one, other in zip(runs[0][0], runs[1][0], strict=True):
        for key, values in one.items():
            np.testing.assert_array_equal(values, other[key])
    env.close()


# A worker takes seconds to begin: one of the environments stands for all of them in a quick run.
QUICK = "toto/FrankaCabinet-v0"


@pytest.mark.parametrize(
    "name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ENVIRONMENTS]
)
def test_same_seed_is_the_same_episode_in_a_worker(name):
    env = make(name, "robot")
    workers = make_vec(f"envs:{name}", 1, 1, image_size=16, privileged=True)
    here, _ = env.reset(seed=3)
    there, _ = workers.reset(seed=[3])
    rng = np.random.default_rng(0)
    for _ in range(4):
        for key, values in here.items():
            np.testing.assert_array_equal(values, there[key][0])
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        here, *_ = env.step(action)
        there, *_ = workers.step(action[None])
    workers.close()
    env.close()
