"""The two rows of a study that are not frozen encoders: the state oracle, and a trained CNN."""

import json
import sys

import gymnasium
import numpy as np
import pytest
import torch

from policies import load_policy
from policies.demonstrations.store import DemoStore, read_header
from policies.student import StudentPolicy, read_metadata
from real_robot.agents.student import StudentAgent
from tests.command_lines import run
from tests.policies.fake_world import ENV, ENV_ID, SIDE

CAMERA = ENV.options["cameras"][0]
WORLD = [
    "experiment=tiny", f"env.id={ENV_ID}", f"env.options.cameras=[{CAMERA}]",
    "~env.options.image_size", "demonstrations=20", "student.projection=32",
    "student.hidden=[64]", "imitation.batch=32", "evaluation_episodes=4", "validation_episodes=2",
]  # fmt: skip


def trained(encoder, out, steps):
    done = run(
        "policies.train",
        [*WORLD, f"encoder={encoder}", f"imitation.last_steps={steps}", f"out={out}"],
    )
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    return trained("state", tmp_path_factory.mktemp("state") / "run", 400)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    return trained("cnn", tmp_path_factory.mktemp("cnn") / "run", 30)


def successes(out):
    return [one["success"] for one in json.loads((out / "evaluation.json").read_text())["seeds"]]


def episodes(out):
    header = read_header(out / "store")
    return list(DemoStore(out / "store", header)), header


def act_again(out, privileged):
    """Run the evaluated episodes with the policy that `load_policy` returns."""
    policy, results = load_policy(out, device="cpu"), []
    env = gymnasium.make(ENV_ID, disable_env_checker=True, cameras=(CAMERA,), privileged=privileged)
    for one in json.loads((out / "evaluation.json").read_text())["seeds"]:
        observation, info = env.reset(seed=one["seed"])
        policy.reset()
        ended = False
        while not ended:
            observation, _, terminated, truncated, info = env.step(policy.act(observation))
            ended = terminated or truncated or info["success"]
        results.append(info["success"])
    return results


def test_a_state_oracle_knows_what_only_the_state_shows(oracle):
    assert sum(successes(oracle)) == 4
    stored, header = episodes(oracle)
    assert header.interface.proprio[3:] == ("state/x", "state/y", "state/goal_x", "state/goal_y")
    assert stored[0].tokens.shape[1:] == (0, 0)
    assert np.array_equal(stored[0].proprio[:, :2], stored[0].proprio[:, 3:5])


def test_a_state_oracle_acts_as_it_was_evaluated(oracle):
    assert act_again(oracle, privileged=True) == successes(oracle)
    policy = load_policy(oracle, device="cpu")
    with pytest.raises(ValueError, match=r"needs proprio, state; the observation lacks state"):
        policy.act({"proprio": np.zeros(3, np.float32)})


@pytest.mark.parametrize("kind", ["oracle", "cnn"])
def test_it_is_evaluated_by_the_command(kind, tmp_path, request):
    out = request.getfixturevalue(kind)
    words = [f"policy={out}/policy", "episodes=4", "rollout.num_workers=0", f"out={tmp_path}"]
    done = run("policies.evaluate", words)
    assert done.code == 0, done.err
    assert successes(tmp_path) == successes(out)
    assert len(list(tmp_path.glob("rollout-*.mp4"))) == 4


def test_the_network_is_trained_with_the_policy(cnn):
    policy = load_policy(cnn, device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(1)  # seed 0, round 1
        new = StudentPolicy(read_metadata(cnn / "policy"))
    for before, after in zip(
        new.project_cameras.parameters(), policy.student.project_cameras.parameters(), strict=True
    ):
        assert not torch.equal(before, after)


def test_a_frame_is_stored_as_its_pixels(cnn):
    stored, header = episodes(cnn)
    tokens = stored[0].tokens
    assert tokens.dtype == np.uint8
    assert tokens.shape[1:] == (1, header.tokens_per_frame) == (1, 3 * 64 * 64)
    env = gymnasium.make(ENV_ID, disable_env_checker=True, cameras=(CAMERA,))
    image = env.reset(seed=stored[0].seed)[0][f"image_{CAMERA}"]
    pixels = tokens[0, 0].reshape(3, SIDE, 2, SIDE, 2)[:, :, 0, :, 0]  # twice as large
    assert np.array_equal(pixels.transpose(1, 2, 0), image)


def test_a_cnn_acts_as_it_was_evaluated(cnn):
    assert act_again(cnn, privileged=False) == successes(cnn)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder=state", "env=gymnasium", "env.id=CartPole-v1"], "such as env=franka_pick; of"),
        (["encoder=cnn", "encoder.image_size=20"], "at least 36 pixels, got 20"),
    ],
)
def test_settings_that_are_not_possible(words, message, tmp_path):
    done = run("policies.train", [*words, f"out={tmp_path / 'out'}"])
    assert done.code != 0
    assert message in done.err
    assert not (tmp_path / "out/config.json").exists()


def test_frozen_encoders_only_where_nothing_is_trained():
    listed = run("policies.metaworld.__main__", "--help").out
    assert "pixels" in listed
    assert "encoder=cnn" not in listed
    assert run("policies.metaworld.__main__", "encoder=cnn").code != 0


def test_a_robot_has_no_privileged_state(oracle):
    interface = gymnasium.make(ENV_ID, disable_env_checker=True).unwrapped.interface
    with pytest.raises(ValueError, match=r"^.*trained with encoder=state.*does not exist here.*$"):
        StudentAgent(oracle, interface, device="cpu")


def test_a_state_oracle_has_no_encoder_elsewhere(oracle):
    done = run("policies.evaluate", [f"policy={oracle}/policy", "encoder=nano"])
    assert done.code != 0
    assert "was trained without images: remove encoder=" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder=cnn"], "encoder=cnn needs Stable-Baselines3: pip install"),
        (["method=ppo", "reinforcement=ppo", "encoder=none"], "PPO needs Stable-Baselines3: pip"),
    ],
)
def test_a_missing_package_is_noticed_before_any_episode(words, message, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("stable_baselines3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    done = run("policies.train", [*WORLD, *words, f"out={tmp_path / 'out'}"])
    assert done.code != 0
    assert message in done.err
    assert not list(tmp_path.glob("out/store/episodes/*"))
