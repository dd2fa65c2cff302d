"""The plugins of LeRobot, as far as they run without LeRobot; `make compat` runs them with it."""

import importlib.util
import tomllib
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.experts import EXPERTS

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").glob("*/pyproject.toml"))
KINDS = ("lerobot_policy_", "lerobot_env_", "lerobot_robot_")


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_lerobot_finds_a_plugin_by_the_name_of_its_distribution(path):
    """LeRobot imports distributions whose raw name has its prefix, underscores included."""
    project = tomllib.loads(path.read_text())["project"]
    name = project["name"]
    assert name.startswith(KINDS)
    assert name == path.parent.name
    assert (path.parent / name / "__init__.py").is_file()
    library = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == library["version"]
    ours, theirs = project["dependencies"]
    assert ours.startswith("toto-robot")
    assert ours.endswith(f"=={library['version']}")
    assert theirs.startswith("lerobot>=")


@pytest.fixture(scope="module")
def wrapped():
    """The class that the plugin's environments consist of; its file needs no LeRobot."""
    path = ROOT / "plugins/lerobot_env_toto/lerobot_env_toto/environment.py"
    spec = importlib.util.spec_from_file_location("lerobot_env_toto_environment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(**options):
        env = gymnasium.make("envs:toto/FrankaPick-v0", disable_env_checker=True, **options)
        return module.LeRobotObservation(env, "FrankaPick-v0")

    return make


def test_an_environment_has_what_lerobot_reads(wrapped):
    env = wrapped(cameras=("hand", "front"), image_size=32, render_mode="rgb_array")
    observation, info = env.reset(seed=3, options={"lerobot_new_rollout": True})
    assert set(observation) == {"agent_pos", "pixels"}
    assert set(observation["pixels"]) == {"hand", "front"}
    assert env.observation_space.contains(observation)
    own, _ = env.env.reset(seed=3)
    np.testing.assert_array_equal(observation["agent_pos"], own["proprio"])
    np.testing.assert_array_equal(observation["pixels"]["front"], own["image_front"])
    assert info["is_success"] is False
    assert env.get_wrapper_attr("_max_episode_steps") == 80
    assert env.get_wrapper_attr("task_description") == "pick up the cube"
    assert type(env.metadata["render_fps"]) is int  # PyAV refuses a float
    env.close()


def test_success_ends_an_episode_and_is_in_the_final_info(wrapped):
    """With the autoreset of LeRobot, SAME_STEP, where the expert acts."""
    make = partial(wrapped, cameras=(), privileged=True)
    envs = SyncVectorEnv([make], autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=[0], options={"lerobot_new_rollout": True})
    env, expert = envs.envs[0], EXPERTS["toto/FrankaPick-v0"]()
    for _ in range(60):
        action = expert.act(env.unwrapped._observe())
        *_, terminated, truncated, info = envs.step(action[None])
        if terminated[0]:
            break
    assert terminated[0]
    assert not truncated[0]
    assert info["final_info"]["is_success"].tolist() == [True]
    assert info["is_success"].tolist() == [False]  # of the next episode
    envs.close()
