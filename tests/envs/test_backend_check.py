"""The comparison of two engines: known similarities, paired successes, results that are reused."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from envs.backend_check import (
    BackendCheckConfig,
    backend_check,
    compare_images,
    run_experts,
    structural_similarity,
)
from envs.catalogue import make, make_vec
from envs.expert_check import run_episode
from envs.experts import EXPERTS
from envs.simulation.backends import BACKENDS
from toto_robot import load_encoder
from toto_robot.encoders.vision import TotoVision

PICK = "toto/FrankaPick-v0"
CONFIG = dict(
    env_ids=(PICK,),
    backends=("mujoco", "other"),
    options={"other": {"num_threads": 1}},
    episodes=3,
    first_seed=5,
    num_envs=2,
    images=2,
    randomise=("colours",),
    encoder=TotoVision(
        name_or_path="toto-nano", layer=None, pool=None, repeat_frame=False, stream=None
    ),
)


@pytest.fixture(autouse=True)
def other_engine(monkeypatch):
    monkeypatch.setitem(BACKENDS, "other", BACKENDS["mujoco"])


def test_similarity_of_images_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    one = torch.as_tensor(rng.integers(0, 256, (1, 7, 7, 3)), dtype=torch.uint8)
    other = torch.as_tensor(rng.integers(0, 256, (1, 7, 7, 3)), dtype=torch.uint8)
    c1, c2, expected = 6.5025, 58.5225, []
    for channel in range(3):
        x, y = (images[0, ..., channel].numpy().astype(float) for images in (one, other))
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        expected.append(
            (2 * x.mean() * y.mean() + c1)
            * (2 * covariance + c2)
            / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (x.var() + y.var() + c2))
        )
    assert float(structural_similarity(one, other)) == pytest.approx(np.mean(expected), abs=1e-9)
    assert float(structural_similarity(one, one)) == pytest.approx(1.0)


def test_equal_images_have_equal_tokens_and_embeddings():
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    found = compare_images(images, images, load_encoder("toto-nano"))
    assert found["equal_tokens"] == 1.0
    assert found["pixel_difference"] == 0.0
    assert found["cosine"] == pytest.approx(1.0)
    assert found["cosine_of_other_episodes"] < 0.999


def test_experts_in_worlds_take_as_long_as_in_single_environments():
    envs = make_vec(env_id=PICK, num_envs=3, cameras=(), privileged=True, num_steps=30)
    env = make(env_id=PICK, cameras=(), privileged=True, num_steps=30)
    expert = EXPERTS[PICK]()
    seeds = [11, 12]
    assert run_experts(envs, expert.act, seeds) == [
        run_episode(env, expert.act, seed) for seed in seeds
    ]
    envs.close()
    env.close()


def test_command_writes_tables_and_reuses_its_results(tmp_path, capsys, monkeypatch):
    backend_check(BackendCheckConfig(**CONFIG), tmp_path)
    printed = capsys.readouterr().out
    assert f"| {PICK} | 3/3 = 100.0%" in printed
    found = json.loads((tmp_path / "backend_check.json").read_text())["results"][PICK]
    assert found["expert"]["successes"] == {"mujoco": 3, "other": 3}
    assert (found["expert"]["only_first"], found["expert"]["only_second"]) == (0, 0)
    assert found["images"]["default, hand"]["ssim"] == pytest.approx(1.0)
    assert set(found["images"]) == {
        f"{look}, {camera}" for look in ("default", "randomised") for camera in ("hand", "front")
    }
    runs = Mock(side_effect=run_experts)
    monkeypatch.setattr("envs.backend_check.run_experts", runs)
    backend_check(BackendCheckConfig(**CONFIG), tmp_path)
    assert not runs.called
    assert f"| {PICK} | 3/3 = 100.0%" in capsys.readouterr().out
    backend_check(BackendCheckConfig(**CONFIG | {"first_seed": 6}), tmp_path)
    seeds = [seed for call in runs.call_args_list for seed in call.args[2]]
    assert seeds == [6, 7, 8] * 2  # in both engines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_ids": ("toto/Sofa-v0",)}, "toto/KukaPick-v0"),
        ({"backends": ("mujoco", "bullet")}, "mujoco_warp"),
        ({"backends": ("mujoco", "mujoco")}, "two different"),
        ({"randomise": ("sofa",)}, "colours"),
        ({"num_envs": 0}, "num_envs"),
    ],
)
def test_invalid_setting_is_an_error_that_names_what_is_valid(change, message):
    with pytest.raises(ValueError, match=message):
        BackendCheckConfig(**CONFIG | change)
