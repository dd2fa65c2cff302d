"""The vector environment on Isaac Gym's stand-in: what a user types, from the id to the success."""

import gymnasium
import numpy as np
import pytest

from envs.experts import EXPERTS
from tests.envs.simulation.fake_worker import fake_python

PICK = "toto/FrankaPick-v0"


def make_vec(name, num_envs, folder, **options):
    return gymnasium.make_vec(
        f"envs:{name}",
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        backend="isaacgym",
        worker_python=fake_python(folder),
        **options,
    )


def test_spaces_and_starts_are_those_of_mujoco(tmp_path):
    options = {"image_size": 24, "privileged": True}
    envs = make_vec(PICK, 2, tmp_path, **options)
    one = gymnasium.make(f"envs:{PICK}", disable_env_checker=True, **options)
    assert envs.single_observation_space == one.observation_space
    assert envs.single_action_space == one.action_space
    observations, _ = envs.reset(seed=[3, 4])
    observation, _ = one.reset(seed=4)
    for key in ("proprio", "state"):
        np.testing.assert_allclose(observations[key][1], observation[key], atol=1e-6)
    for _ in range(3):
        observations, *_ = envs.step(np.zeros(envs.action_space.shape, np.float32))
    assert observations["image_hand"].shape == (2, 24, 24, 3)
    assert observations["image_hand"].std() > 5
    envs.close()
    one.close()


def test_images_of_a_new_episode_show_its_start(tmp_path):
    """Isaac Gym shows a reset only after a time step; the environment shows it at once."""
    envs = make_vec(PICK, 2, tmp_path, image_size=24, num_steps=4, autoreset_mode="SameStep")
    envs.reset(seed=[0, 1])
    moving = np.ones(envs.action_space.shape, np.float32)
    for _ in range(4):
        observations, _, _, truncated, infos = envs.step(moving)
    assert truncated.all()
    last = np.stack([one["image_front"] for one in infos["final_obs"]])
    assert np.abs(observations["image_front"].astype(int) - last).max() > 60
    again, *_ = envs.step(np.zeros_like(moving))
    near = np.abs(observations["image_front"].astype(int) - again["image_front"]).mean()
    assert near < np.abs(last.astype(int) - again["image_front"]).mean() / 2
    envs.close()


def expert_successes(name, num_envs, folder, **options):
    envs = make_vec(name, num_envs, folder, cameras=(), privileged=True, **options)
    experts = [EXPERTS[name]() for _ in range(num_envs)]
    observations, _ = envs.reset(seed=list(range(50, 50 + num_envs)))
    for _ in range(80):
        actions = np.stack(
            [
                expert.act({key: values[row] for key, values in observations.items()})
                for row, expert in enumerate(experts)
            ]
        )
        observations, _, _, _, infos = envs.step(actions)
    envs.close()
    return int(infos["success"].sum())


def test_expert_picks_the_cube_from_our_files(tmp_path):
    assert expert_successes(PICK, 2, tmp_path) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERTS)
def test_every_expert_succeeds_with_our_files(name, tmp_path):
    """With the physics of the stand-in, the exported files behave as our own model."""
    assert expert_successes(name, 8, tmp_path) == 8


def test_protocol_pixmc_runs_with_its_constants(tmp_path):
    """PixMC: nine increments, 34 elements of state, 60 Hz, and two fingers without coupling."""
    envs = make_vec(PICK, 2, tmp_path, protocol="pixmc", cameras=(), privileged=True)
    assert envs.single_action_space.shape == (9,)
    assert envs.single_observation_space["state"].shape == (34,)
    envs.reset(seed=0)
    fingers = ("finger_joint1", "finger_joint2")
    before = envs.simulator.joints(fingers)[0]
    closing = np.zeros((2, 9), np.float32)
    closing[0, -1], closing[1, -2] = -1.0, -1.0  # one finger of each world
    for _ in range(30):
        envs.step(closing)
    closed = before - envs.simulator.joints(fingers)[0]
    np.testing.assert_allclose(closed, np.eye(2)[::-1] * before, atol=3e-3)
    envs.close()
