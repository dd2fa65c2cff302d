"""Third-party environments: what is derived, a training by the command as typed, and mistakes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from policies import load_policy
from policies.environment import describe_env, make_env, make_expert
from policies.evaluate import EvaluateConfig, evaluate
from policies.gymnasium_env import GymnasiumEnv
from policies.rollouts.pool import RolloutConfig
from tests.policies import third_party_world as world
from tests.policies.fake_world import save_tiny_encoder

ROOT = Path(__file__).parents[2]
HERE = "tests.policies.third_party_world"


def config(**changes):
    plain = {
        "id": world.ENV_ID, "kwargs": {}, "proprio": None, "success": None, "cameras": None,
        "exclude": (), "layout": None, "colour_order": "rgb", "flip": None,
    }  # fmt: skip
    return GymnasiumEnv(**(plain | changes))


def made(*, with_images=True, privileged=False, filmed=False, **changes):
    return make_env(
        config(**changes), with_images=with_images, privileged=privileged, filmed=filmed
    )


def typed(module, *words):
    done = subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, cwd=ROOT
    )
    return done.returncode, done.stdout, done.stderr


ENV = ("env=gymnasium", f"env.id={world.ENV_ID}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training by the command as typed; its folder and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    encoder = save_tiny_encoder(folder / "encoder")
    code, out, error = typed(
        "policies.train", *ENV, "env.proprio=[state,gripper]", f"expert={HERE}:expert",
        "experiment=tiny", f"encoder={encoder}", "device=cpu", f"out={folder / 'train'}",
    )  # fmt: skip
    assert code == 0, error
    return folder / "train", out


def test_a_training_prints_what_it_derived(run):
    folder, out = run
    assert "derived from the spaces of other/Reach-v0" in out
    assert "observation['pixels'] as camera 'pixels' (channels last, uint8)" in out
    assert "proprioception: state_0, state_1, gripper_0, gripper_1\n" in out
    assert "not used:       goal\n" in out
    assert "action_0 [-2, 1], action_1 [0, 3]" in out
    assert "success:        info['success'] or info['is_success']" in out
    assert json.loads((folder / "metrics.json").read_text())["evaluation"]["episodes"] == 2
    assert (folder / "rollout.mp4").is_file()


def test_the_checkpoint_is_evaluated_and_loaded(run, tmp_path):
    folder, _ = run
    code, out, error = typed(
        "policies.evaluate", f"policy={folder}/policy", "episodes=2", "video_episodes=1",
        "rollout.num_workers=0", f"out={tmp_path / 'evaluation'}",
    )  # fmt: skip
    assert code == 0, error
    assert "of 2" in out or "/2 = " in out
    code, _, error = typed(
        "policies.evaluate", f"policy={folder}/policy", "suite=camera", "episodes=2",
        "video_episodes=0", f"out={tmp_path / 'suite'}",
    )  # fmt: skip
    assert code == 1
    assert error.splitlines()[-1].startswith("evaluate: suite=camera needs an environment of this")
    policy = load_policy(folder, device="cpu")
    env = make_env(policy.env, with_images=True, privileged=False)
    observation, _ = env.reset(seed=0)
    assert policy.act(observation).shape == (2,)


@pytest.mark.parametrize(
    ("changes", "shift", "message"),
    [
        ({"flip": "vertical"}, 0, "image_reading: 'rgb' != 'rgb, flip vertical'"),
        ({"colour_order": "bgr"}, 0, "image_reading: 'rgb' != 'bgr'"),
        ({}, 1, r"action_middle: \[-0.5, 1.5\] != \[0.5, 2.5\]"),
    ],
)
def test_a_policy_is_not_used_with_other_images_or_limits(
    run, tmp_path, monkeypatch, changes, shift, message
):
    space = world.OtherReach.action_space
    shifted = spaces.Box(space.low + np.float32(shift), space.high + np.float32(shift))
    monkeypatch.setattr(world.OtherReach, "action_space", shifted)
    setting = EvaluateConfig(
        policy=str(run[0] / "policy"), env=config(proprio=("state", "gripper"), **changes),
        encoder=None, suite=None, episodes=1, first_seed=2_000_000, video_episodes=0,
        rollout=RolloutConfig(num_workers=0, group=1), device="cpu",
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        evaluate(setting, tmp_path / "out")


def test_the_expert_is_evaluated_by_the_command(tmp_path):
    code, out, error = typed(
        "policies.evaluate", "policy=expert", *ENV, f"expert={HERE}:expert_of_env", "episodes=3",
        "video_episodes=0", "rollout.num_workers=0", f"out={tmp_path / 'expert'}",
    )  # fmt: skip
    assert code == 0, error
    assert "3/3 = 100.0%" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "env.id= must be given"),
        ((f"env.id={world.ENV_ID}",), "no expert for 'other/Reach-v0'.* Set expert=module:f"),
        (("env.id=nowhere:Id-v0", f"expert={HERE}:expert"), "No module named 'nowhere'"),
        (
            (f"env.id={HERE}:other/NoRender-v0", "env.kwargs={pixels: false}",
             f"expert={HERE}:expert", "experiment=tiny"),
            "no video of .*NoRender-v0 renders no images; set video_episodes=0",
        ),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line(words, message, tmp_path):
    out = tmp_path / "out"
    code, _, error = typed("policies.train", "env=gymnasium", "encoder=none", *words, f"out={out}")
    assert code == 1
    lines = [line for line in error.splitlines() if line.startswith("train: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines
    assert "Traceback" not in error
    assert not (out / "config.json").exists()


def test_actions_are_scaled_to_the_environments_limits():
    env = made(privileged=True)
    observation, _ = env.reset(seed=0)
    before = env.unwrapped.point.copy()
    env.step(np.array([-1, 1], np.float32))
    moved = env.unwrapped.point - before
    assert np.allclose(
        moved, np.clip(before + 0.2 * (np.array([-2, 3]) + env.unwrapped.drift), -1, 1) - before
    )
    for name in (
        "expert", "expert_of_env", "expert_of_optional_env", "expert_with_gain", "Expert"
    ):  # fmt: skip
        chosen = make_expert(world.ENV_ID, f"{HERE}:{name}")
        observation, _ = env.reset(seed=1)
        chosen.reset()
        for _ in range(12):
            observation, *_, info = env.step(chosen.act(observation).clip(-1, 1))
        assert info["success"] is True
    assert world.Expert.resets == 1


def test_an_expert_acts_as_the_wrapped_environment_expects():
    env = made(id="other/OneAction-v0", privileged=True)
    observation, _ = env.reset(seed=0)
    chosen = make_expert("other/OneAction-v0", f"{HERE}:expert_of_one_action")
    action = chosen.act(observation)
    assert action.shape == env.action_space.shape == (1,)
    assert action[0] == pytest.approx(world.expert_of_one_action(env.raw)[0] / 2)


def test_images_come_from_the_observation_or_from_render():
    env = made()
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"image_pixels", "proprio"}
    assert np.array_equal(observation["image_pixels"], env.unwrapped.render())
    rendered = made(kwargs={"pixels": False})
    observation, _ = rendered.reset(seed=0)
    assert set(observation) == {"image_render", "proprio"}
    assert np.array_equal(observation["image_render"], rendered.unwrapped.render())
    assert "render()" in describe_env(config(kwargs={"pixels": False}), with_images=True)
    assert rendered.interface.rate_hz == 20
    upside = made(flip="vertical")
    observation, _ = upside.reset(seed=0)
    assert np.array_equal(observation["image_pixels"], upside.unwrapped.render()[::-1])


def test_an_environment_may_have_no_metadata():
    env = made(id=f"{HERE}:other/NoMetadata-v0", filmed=True)
    observation, _ = env.reset(seed=0)
    assert env.interface.rate_hz == 10
    assert np.array_equal(env.render(), observation["image_pixels"])


def test_an_environment_that_ignores_seeds_is_named():
    assert "note:" not in describe_env(config(), with_images=True)
    described = describe_env(config(id=f"{HERE}:other/Unseeded-v0"), with_images=False)
    assert "note: two resets with the same seed differ" in described


def test_without_vision_there_are_no_images():
    env = made(with_images=False, kwargs={"pixels": False})
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"proprio"}
    assert env.interface.cameras == ()
    assert env.unwrapped.render_mode is None


def test_proprioception_is_all_vectors_or_what_is_listed():
    env = made()
    assert env.interface.proprio == (
        "goal_0", "goal_1", "gripper_0", "gripper_1", "state_0", "state_1"
    )  # fmt: skip
    chosen = made(proprio=("state[1:]", "goal"))
    observation, _ = chosen.reset(seed=0)
    assert chosen.interface.proprio == ("state_1", "goal_0", "goal_1")
    raw = chosen.unwrapped
    assert np.allclose(observation["proprio"], [raw.point[1], *raw.goal])
    assert made(proprio=()).interface.proprio == ("constant",)
    assert made(proprio=()).reset(seed=0)[0]["proprio"].shape == (1,)


def test_success_is_read_from_the_info_or_by_a_function():
    for key in ("success", "is_success"):
        env = made(kwargs={"success_key": key})
        env.reset(seed=0)
        env.unwrapped.goal = env.unwrapped.point + 0.01
        assert env.step(env.scaled(-env.unwrapped.drift))[4]["success"] is True
    named = made(success=f"{HERE}:far")
    named.reset(seed=0)
    assert named.step(np.zeros(2))[4]["success"] is False
    one = made(success=f"{HERE}:of_info", kwargs={"success_key": "other"})
    one.reset(seed=0)
    assert one.step(np.zeros(2))[4]["success"] in (True, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kwargs": {"success_key": "won"}}, r"neither 'success' nor .* \['won'\]: set env.suc"),
        ({"proprio": ("states",)}, r"has no 'states', it has \['goal', 'gripper', 'pix"),
        ({"proprio": ("state[2:]",)}, r"'state\[2:\]' is empty, the entry has 2 elements"),
        ({"success": "nothing"}, "env.success: expected module:function, got 'nothing'"),
        ({"success": f"{HERE}:CONSTANT"}, "expected a function or a class, got 3"),
        ({"success": f"{HERE}:three"}, r"must take \(info\) or \(info, env\), it takes \(a, b"),
        ({"cameras": ("top",)}, r"cameras: there is no 'top'; the observation has"),
        ({"id": "CartPole-v1", "kwargs": {"sizee": 1}}, "unexpected keyword argument 'sizee'"),
        ({"id": "other/Nothing-v0"}, "Environments of this project: toto/"),
        ({"id": f"{HERE}:other/Discrete-v0"}, r"need continuous actions .* got Discrete\(3\)"),
        (
            {"id": f"{HERE}:other/Unlimited-v0"},
            r"finite limits.*TransformAction\(env, lambda action: action, .*Box\(low, high, \(2,"
        ),
        (
            {"id": f"{HERE}:other/Stacked-v0"},
            r"Stacked-v0 stacks frames .*stack of 3 frames.*one frame per step.*encoder=stream",
        ),
        ({"id": f"{HERE}:other/Stacked-v0", "proprio": ("state",)}, "stack of 3 frames"),
        (
            {"id": f"{HERE}:other/Stacked-v0", "kwargs": {"pixels": False}},
            r"stacks frames \(gymnasium.wrappers.FrameStackObservation\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        describe_env(config(**changes), with_images=True)


def test_unlimited_actions_have_the_limits_of_a_wrapper():
    env = made(id=f"{HERE}:other/Limited-v0")
    env.reset(seed=0)
    before = env.unwrapped.point.copy()
    env.step(np.array([-1, 0.5], np.float32))
    moved = env.unwrapped.point - before
    expected = np.clip(before + 0.2 * (np.array([-2, 1]) + env.unwrapped.drift), -1, 1) - before
    assert np.allclose(moved, expected)


def test_stacked_vectors_are_proprioception_if_they_are_listed():
    env = made(id=f"{HERE}:other/Stacked-v0", with_images=False, proprio=("state",))
    assert env.interface.proprio == tuple(f"state_{number}" for number in range(6))


def test_four_channels_of_render_are_rgba():
    env = made(id=f"{HERE}:other/RenderedAlpha-v0", kwargs={"pixels": False})
    observation, _ = env.reset(seed=0)
    assert np.array_equal(observation["image_render"], env.unwrapped.render()[..., :3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such", "has no attribute 'no_such'"),
        ("Silent", "has no method `act`"),
        ("bad_action", r"expected an action of shape \[2\], got float64 \[3\]"),
    ],
)
def test_an_expert_that_does_not_fit_is_named(name, message):
    env = made(privileged=True)
    observation, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        make_expert(world.ENV_ID, f"{HERE}:{name}").act(observation)


def test_an_environment_that_renders_nothing_names_the_settings():
    name = f"{HERE}:other/NoRender-v0"
    with pytest.raises(ValueError, match=r"has no image.*, and it has no render_mode rgb_array"):
        made(id=name, kwargs={"pixels": False})
    env = made(id=name, with_images=False, filmed=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="renders no images"):
        env.render()
    seeing = made(id=name, filmed=True)
    observation, _ = seeing.reset(seed=0)
    assert np.array_equal(seeing.render(), observation["image_pixels"])
