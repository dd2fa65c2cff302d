"""What `load_policy` gives acts as the policy was judged, on what the environment shows."""

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch

import policies
from policies import TrainedPolicy, load_policy
from policies.student import StudentPolicy
from policies.train import train
from policies.vision import NoVision, PixelVision, VitVision
from tests.policies.fake_world import metadata, save_tiny_encoder, toto
from tests.policies.test_train import config
from toto_robot import StreamConfig, load_encoder
from toto_robot.encoders.loading import shipped_baselines, shipped_encoders


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def run(encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "train"
    train(config(encoder), out)
    return out


def run_episode(policy, seed):
    env = gymnasium.make(policy.env.id, disable_env_checker=True, **policy.env.options)
    observation, info = env.reset(seed=seed)
    policy.reset()
    steps, ended = 0, False
    while not ended:
        observation, _, terminated, truncated, info = env.step(policy.act(observation))
        steps, ended = steps + 1, terminated or truncated or info["success"]
    return {"seed": seed, "success": info["success"], "steps": steps}


def test_it_acts_as_it_was_judged(run):
    policy = load_policy(run, device="cpu")
    evaluated = json.loads((run / "evaluation.json").read_text())["seeds"]
    assert [run_episode(policy, one["seed"]) for one in evaluated] == evaluated


def test_a_stream_begins_anew_with_each_episode(encoder, tmp_path):
    stream = StreamConfig(context=2)
    vision = dataclasses.replace(toto(encoder), stream=stream)
    eyes = vision.build(torch.device("cpu"))
    policy = TrainedPolicy(StudentPolicy(metadata(eyes, vision)), eyes)
    env = gymnasium.make(policy.env.id, disable_env_checker=True, **policy.env.options)
    observation, _ = env.reset(seed=0)
    first, second = policy.act(observation), policy.act(observation)
    assert not np.array_equal(first, second)
    policy.reset()
    assert np.array_equal(policy.act(observation), first)


def test_a_checkpoint_says_where_it_was_trained_and_on_what(run, encoder):
    for place in (run, str(run), run / "policy"):
        policy = load_policy(place, "cpu")
        assert policy.env == config(encoder).env
        assert policy.interface.camera_names == ("eye",)
        assert policy.interface.rate_hz == 10
        assert policy.task == "fake/Reach-v0"


def test_a_task_in_words_is_that_of_the_demonstrations(encoder, tmp_path):
    eyes = load_encoder(encoder)
    known = dataclasses.replace(metadata(eyes, toto(encoder)), env=None)
    StudentPolicy(known).save(tmp_path, origin={"tasks": ["fold", "pour"], "envs": []})
    policy = load_policy(tmp_path)
    assert (policy.env, policy.task) == (None, "fold; pour")


def test_a_policy_without_vision_looks_at_no_image(tmp_path):
    StudentPolicy(metadata(None, NoVision())).save(tmp_path / "policy")
    action = load_policy(tmp_path).act({"proprio": np.zeros(3, np.float32)})
    assert (action.shape, action.dtype) == ((2,), np.float32)


def test_a_policy_on_raw_pixels_needs_no_file_of_an_encoder(tmp_path):
    vision = PixelVision()
    StudentPolicy(metadata(vision.build(torch.device("cpu")), vision)).save(tmp_path / "policy")
    seen = {"image_eye": np.zeros((32, 32, 3), np.uint8), "proprio": np.zeros(3, np.float32)}
    assert load_policy(tmp_path, "cpu").act(seen).shape == (2,)
    with pytest.raises(ValueError, match="without an encoder, on raw pixels: remove encoder="):
        load_policy(tmp_path, "cpu", encoder="toto-nano")


@pytest.mark.parametrize("name", [*shipped_encoders(), *shipped_baselines()])
def test_an_encoder_that_comes_with_the_package_is_found_by_its_name(name, tmp_path):
    vision = VitVision(
        name_or_path=name, format=None, layer=None, pool=None, heads=None, image_size=None,
        statistics=None,
    )  # fmt: skip
    StudentPolicy(metadata(vision.build(torch.device("cpu")), vision)).save(tmp_path)
    seen = {"image_eye": np.zeros((32, 32, 3), np.uint8), "proprio": np.zeros(3, np.float32)}
    assert load_policy(tmp_path, "cpu").act(seen).shape == (2,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_eye": None}, "needs image_eye, proprio; the observation lacks image_eye, it has"),
        ({"proprio": None}, "lacks proprio"),
        ({"image_eye": np.zeros((32, 32, 3))}, r"must be uint8 \[32, 32, 3\].* got float64"),
        ({"image_eye": np.zeros((16, 16, 3), np.uint8)}, r"got uint8 \[16, 16, 3\]"),
        ({"image_eye": np.zeros((4, 32, 32, 3), np.uint8)}, "as in one observation"),
        ({"proprio": np.zeros((4, 3), np.float32)}, r"proprio must be \[3\], as in one"),
    ],
)
def test_an_observation_that_does_not_fit_is_named(run, changes, message):
    seen = {"image_eye": np.zeros((32, 32, 3), np.uint8), "proprio": np.zeros(3, np.float32)}
    given = {key: value for key, value in (seen | changes).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_policy(run, "cpu").act(given)


def test_what_is_no_students_checkpoint_is_named(run, encoder, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no policy in .*nowhere: .* is missing, .*nowhere/policy"
    ):
        load_policy(tmp_path / "nowhere")
    shutil.copytree(run, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "policy")
    with pytest.raises(FileNotFoundError, match=r"newest round's policy: .*rounds/02/policy"):
        load_policy(tmp_path / "stopped")
    with pytest.raises(ValueError, match="is not a student but 'encoder'"):
        load_policy(encoder)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_policy(tmp_path)


def test_an_encoder_that_moved_is_given_anew(run, encoder, tmp_path):
    moved = shutil.copytree(encoder, tmp_path / "moved")
    copy = tmp_path / "copy"
    known = dataclasses.replace(metadata(load_encoder(encoder)), vision=toto(tmp_path / "gone"))
    StudentPolicy(known).save(copy)
    with pytest.raises(FileNotFoundError, match=r"gone, which does not exist; .*encoder="):
        load_policy(copy)
    assert load_policy(copy, encoder=moved).interface.camera_names == ("eye",)
    assert load_policy(run, encoder=moved).interface.camera_names == ("eye",)
    other = save_tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="another encoder"):
        load_policy(run, encoder=other)


def test_importing_the_package_imports_no_torch():
    code = "import sys, policies; print(sorted({'torch', 'gymnasium'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'load_polic'"):
        policies.load_polic  # noqa: B018
    assert importlib.import_module("policies.trained_policy").load_policy is load_policy
