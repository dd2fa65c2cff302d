"""The batched environment is the single one, n times: to the bit on MuJoCo, in all autoreset modes.

Every comparison is with `ManipulationEnv` itself or with Gymnasium's `SyncVectorEnv` of it.
"""

import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.experts import EXPERTS
from envs.randomisation import GROUPS
from envs.sb3 import as_sb3
from envs.simulation import mujoco_batch
from envs.simulation.backends import BACKENDS
from envs.simulation.mujoco_backend import MujocoSimulator
from envs.simulation.mujoco_batch import MujocoBatch
from toto_robot import TotoVectorObservation

PICK = "toto/FrankaPick-v0"
SMALL = {"image_size": 24, "privileged": True}


def make_vec(name, num_envs, **options):
    mode = "vector_entry_point"
    return gymnasium.make_vec(
        f"envs:{name}", num_envs, vectorization_mode=mode, **{**SMALL, **options}
    )


def make(name, **options):
    return gymnasium.make(f"envs:{name}", disable_env_checker=True, **{**SMALL, **options})


def assert_same(one, other, where=""):
    """Assert equality to the bit, with equal structure, dtypes and shapes."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, tuple) or (isinstance(one, np.ndarray) and one.dtype.hasobject):
        for left, right in zip(one, other, strict=True):
            assert (left is None) == (right is None), where
            if left is not None:
                assert_same(left, right, where)
    else:
        np.testing.assert_array_equal(one, other, where, strict=isinstance(one, np.ndarray))


def row_of(observations, row):
    return {key: values[row] for key, values in observations.items()}


def follow_expert(name, num_envs, row, num_steps, **options):
    """Run the expert in all worlds; yield what world `row` and a single environment return."""
    envs, env = make_vec(name, num_envs, **options), make(name, **options)
    seeds = [70 + index for index in range(num_envs)]
    experts = [EXPERTS[name]() for _ in seeds]
    observations, _ = envs.reset(seed=seeds)
    observation, _ = env.reset(seed=seeds[row])
    assert_same(row_of(observations, row), observation)
    for _ in range(num_steps):
        actions = np.stack(
            [expert.act(row_of(observations, index)) for index, expert in enumerate(experts)]
        )
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        observation, *rest, info = env.step(actions[row])
        assert_same(row_of(observations, row), observation)
        assert (rewards[row], terminated[row], truncated[row]) == tuple(rest)
        assert infos["success"][row] == info["success"]
        terms = {key: infos["reward_terms"][key][row] for key in info["reward_terms"]}
        assert terms == info["reward_terms"]
        if rest[1] or rest[2]:
            break
    envs.close()
    env.close()
    return info["success"]


# Episodes


@pytest.mark.parametrize(("num_envs", "row"), [(1, 0), (3, 2)])
@pytest.mark.parametrize("name", EXPERTS)
def test_first_steps_of_every_task_are_those_of_a_single_environment(name, num_envs, row):
    follow_expert(name, num_envs, row, 6, randomise=tuple(GROUPS))


def test_whole_episode_with_everything_randomised_is_that_of_a_single_environment():
    follow_expert(PICK, 3, 1, 80, randomise=tuple(GROUPS))


def test_whole_episode_of_the_expert_is_that_of_a_single_environment_and_succeeds():
    assert follow_expert(PICK, 2, 1, 80)


def test_pixmc_with_contact_limit_and_shadows_is_that_of_sync_vector_env():
    compare_with_sync(AutoresetMode.NEXT_STEP, protocol="pixmc", shadows=True, samples=4)


# Autoreset


def compare_with_sync(mode, num_steps=4, total=10, **options):
    options = {"num_steps": num_steps, **options}
    ours = make_vec(PICK, 3, autoreset_mode=mode, **options)
    sync = SyncVectorEnv([lambda: make(PICK, **options)] * 3, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    assert_same(ours.reset(seed=[5, 9, 5]), sync.reset(seed=[5, 9, 5]))
    assert ours.np_random_seed == sync.np_random_seed == (5, 9, 5)
    mask = np.array([False, True, False])
    for vector in (ours, sync):  # so that the worlds end at different times
        vector.step(np.zeros(ours.action_space.shape, np.float32))
        vector.reset(options={"reset_mask": mask})
    for _ in range(total):
        actions = rng.uniform(-1, 1, ours.action_space.shape).astype(np.float32)
        results = [vector.step(actions) for vector in (ours, sync)]
        assert_same(*results)
        ended = results[0][2] | results[0][3]
        if mode == AutoresetMode.DISABLED and ended.any():
            resets = [
                vector.reset(seed=[1, 2, 3], options={"reset_mask": ended.copy()})
                for vector in (ours, sync)
            ]
            assert_same(*resets)
    assert ours.metadata["autoreset_mode"] == mode
    for vector in (ours, sync):
        vector.close()


@pytest.mark.parametrize("mode", AutoresetMode)
def test_results_in_every_autoreset_mode_are_those_of_sync_vector_env(mode):
    compare_with_sync(mode)


def test_randomised_worlds_that_reset_themselves_are_those_of_sync_vector_env():
    compare_with_sync(AutoresetMode.SAME_STEP, randomise=tuple(GROUPS))


def test_step_after_the_end_without_reset_is_an_error_that_names_the_worlds():
    envs = make_vec(PICK, 2, num_steps=1, cameras=(), autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    with pytest.raises(ValueError, match=r"\[0, 1\] have ended"):
        envs.step(envs.action_space.sample())
    envs.close()


def test_invalid_action_of_a_world_that_begins_anew_has_no_effect():
    envs = make_vec(PICK, 2, num_steps=1, cameras=())
    envs.reset(seed=0)
    envs.step(np.zeros(envs.action_space.shape))
    envs.step(np.full(envs.action_space.shape, np.nan))
    with pytest.raises(ValueError, match="finite"):
        envs.step(np.full(envs.action_space.shape, np.nan))
    envs.close()


# The front door


def test_spaces_and_metadata_are_those_of_the_single_environment():
    envs, env = make_vec(PICK, 3), make(PICK)
    assert envs.single_observation_space == env.observation_space
    assert envs.single_action_space == env.action_space
    assert envs.metadata["render_fps"] == env.metadata["render_fps"]
    assert envs.get_attr("interface") == (env.unwrapped.interface,) * 3
    observations, _ = envs.reset(seed=1)
    assert envs.observation_space.contains(observations)
    with pytest.raises(AttributeError, match="interface"):
        envs.get_attr("colour")
    envs.close()
    env.close()


def test_viewer_images_are_those_of_the_single_environment():
    envs, env = (
        maker(PICK, render_mode="rgb_array")
        for maker in (lambda *a, **k: make_vec(a[0], 2, **k), make)
    )
    envs.reset(seed=[3, 4])
    env.reset(seed=4)
    np.testing.assert_array_equal(envs.render()[1], env.render())
    envs.close()
    env.close()


def test_objects_of_some_worlds_can_be_displaced():
    envs = make_vec(PICK, 2, cameras=())
    before, _ = envs.reset(seed=[3, 4])
    envs.displace((0.05, 0.0, 0.0), rows=[1])
    zero = np.zeros(envs.action_space.shape)
    after = envs.step(zero)[0]
    names = envs.get_attr("state_names")[0]
    moved = (after["state"] - before["state"])[:, names.index("cube_position_x")]
    np.testing.assert_allclose(moved, [0.0, 0.05], atol=1e-3)
    envs.close()


def test_unknown_backend_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match=f"unknown backend 'bullet'; known: {', '.join(BACKENDS)}"):
        make_vec(PICK, 2, backend="bullet")


@pytest.mark.parametrize("num_envs", [0, -1, 2.0, "2"])
def test_number_of_worlds_that_is_no_number_is_an_error(num_envs):
    with pytest.raises(ValueError, match=f"at least one world is needed, got {num_envs!r}"):
        make_vec(PICK, num_envs)


@pytest.mark.parametrize("options", [{"worker_python": "x"}, {"backend_options": {"threads": 2}}])
def test_option_of_another_backend_is_an_error_that_names_the_known(options):
    with pytest.raises(
        ValueError, match=r"backend='mujoco' has no option .*; known: .*num_threads"
    ):
        make_vec(PICK, 2, **options)


def test_worlds_can_be_advanced_in_any_order():
    envs, observations = make_vec(PICK, 2), []
    for order in ([0, 1], [1, 0]):
        envs.reset(seed=3)
        rows = np.array(order)
        observations.append(envs.advance(np.zeros(envs.action_space.shape), rows)[0])
    assert (observations[0]["image_front"][0] != observations[0]["image_front"][1]).any()
    assert_same({key: values[::-1] for key, values in observations[1].items()}, observations[0])
    envs.close()


@pytest.mark.parametrize("made", ["make_vec(PICK, 3)", "make(PICK)"])
def test_program_may_end_without_closing_its_environment(made):
    program = f"""
import os
from tests.envs.test_batch_manipulation import PICK, make, make_vec
os.kept = {made}
os.kept.reset(seed=0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_no_thread_uses_a_world_after_ctrl_c(monkeypatch):
    envs, ended = make_vec(PICK, 2, cameras=()), []
    envs.reset(seed=0)
    follow = MujocoSimulator.follow

    def slow(self, *arguments):
        time.sleep(0.2)
        follow(self, *arguments)
        ended.append(self)

    def interrupted(_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(MujocoSimulator, "follow", slow)
    monkeypatch.setattr(mujoco_batch, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        envs.step(np.zeros(envs.action_space.shape))
    assert len(ended) == 2
    envs.close()


def test_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="colour"):
        make_vec(PICK, 2, colour="red")


def test_number_of_threads_changes_nothing():
    results = []
    for num_threads in (1, 2):
        envs = make_vec(PICK, 3, backend_options={"num_threads": num_threads})
        envs.reset(seed=0)
        results.append(envs.step(np.full(envs.action_space.shape, 0.3)))
        envs.close()
    assert_same(*results)


def test_step_before_reset_and_after_close_are_errors():
    envs = make_vec(PICK, 2, cameras=())
    with pytest.raises(ResetNeeded):
        envs.step(envs.action_space.sample())
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="colour"):
        envs.reset(options={"colour": "red"})
    envs.close()
    envs.close()
    for call in (envs.reset, envs.render, lambda: envs.step(envs.action_space.sample())):
        with pytest.raises(ClosedEnvironmentError):
            call()


def test_world_that_diverges_is_named_and_all_must_be_reset(monkeypatch):
    envs = make_vec(PICK, 2, cameras=())
    envs.reset(seed=0)

    def diverge(*_):
        raise RuntimeError("the physics diverged")

    with monkeypatch.context() as patch:
        patch.setattr(envs.simulator._worlds[1], "follow", diverge)
        with pytest.raises(RuntimeError, match="diverged") as caught:
            envs.step(np.zeros(envs.action_space.shape))
    assert caught.value.__notes__ == ["in world 1 of 2"]
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros(envs.action_space.shape))
    envs.reset(seed=0)
    envs.step(np.zeros(envs.action_space.shape))
    envs.close()


# Encoders and Stable-Baselines3


class TensorBatch(MujocoBatch):
    """A backend whose images are tensors, as those of a GPU."""

    def render(self, *args, **kwargs):
        self.images = torch.from_numpy(super().render(*args, **kwargs))
        return self.images


class Projection:
    """An encoder that keeps the address of the frames that it gets."""

    dim = 4

    def __call__(self, frames):
        frames = torch.as_tensor(frames)
        self.address = frames.data_ptr()
        weights = torch.arange(frames[0].numel() * 4, dtype=torch.float64).reshape(-1, 4).sin()
        return (frames.double().flatten(1) @ weights).float()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_tensors_of_a_backend_reach_the_encoder_without_a_copy(monkeypatch, mode):
    monkeypatch.setitem(BACKENDS, "tensor", lambda: TensorBatch)
    results = []
    for backend in ("mujoco", "tensor"):
        encoder = Projection()
        options = {"num_steps": 2, "cameras": ("hand",), "autoreset_mode": mode}
        envs = TotoVectorObservation(make_vec(PICK, 2, backend=backend, **options), encoder)
        results.append([envs.reset(seed=0)])
        for step in range(3):
            results[-1].append(envs.step(np.full(envs.action_space.shape, 0.1 * step)))
        if backend == "tensor":
            assert isinstance(
                envs.env.step(np.zeros(envs.action_space.shape))[0]["image_hand"], torch.Tensor
            )
            envs.reset(seed=0)
            assert encoder.address == envs.unwrapped.simulator.images.data_ptr()
        envs.close()
    assert_same(*(tuple(result) for result in results))


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_stable_baselines_gets_what_sync_vector_env_gives(mode):
    options = {"num_steps": 3, "image_size": 16}
    venvs = [
        as_sb3(make_vec(PICK, 2, autoreset_mode=mode, **options)),
        as_sb3(SyncVectorEnv([lambda: make(PICK, **options)] * 2, autoreset_mode=mode)),
    ]
    for venv in venvs:
        venv.seed(3)
    assert_same(*(venv.reset() for venv in venvs))
    for _ in range(4):
        actions = np.full((2, *venvs[0].action_space.shape), 0.2, np.float32)
        assert_same(*((*results[:3], *results[3]) for results in (v.step(actions) for v in venvs)))
    assert venvs[0].get_attr("interface") == venvs[1].get_attr("interface")
    with pytest.raises(ValueError, match=r"simulates all worlds together and has no call\(\)"):
        venvs[0].env_method("displace", (0.0, 0.0, 0.0))
    for venv in venvs:
        venv.close()
