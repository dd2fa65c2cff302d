"""Which policies can be evaluated: students, also with a moved encoder, and teachers."""

import dataclasses
import json
import re
import shutil

import av
import gymnasium
import numpy as np
import pytest
import torch
from huggingface_hub import constants

from envs.experts import EXPERTS
from policies import evaluate as commands
from policies.environment import EnvConfig
from policies.evaluate import EvaluateConfig, evaluate
from policies.student import StudentPolicy
from policies.teacher_policy import (
    TeacherMetadata,
    TeacherNetwork,
    TeacherPolicy,
    load_teacher,
    without_cameras,
)
from policies.vision import NoVision, VitVision
from tests.policies.fake_world import ENV, ReachEnv, ReachExpert, metadata, save_tiny_encoder
from tests.policies.test_train import IN_PROCESS
from tests.toto_robot.encoders.test_hub import COMMIT, REPO, cached
from tests.toto_robot.visions import toto
from toto_robot.models.vision_transformer import VitConfig

STATE = ("point_x", "point_y", "goal_x", "goal_y")


class NamedReach(ReachEnv):
    state_names = STATE


if "fake/NamedReach-v0" not in gymnasium.registry:
    gymnasium.register(id="fake/NamedReach-v0", entry_point=NamedReach, max_episode_steps=12)
EXPERTS["fake/NamedReach-v0"] = ReachExpert
NAMED = EnvConfig(
    id="tests.policies.test_evaluate:fake/NamedReach-v0",
    options={"cameras": ["eye"]},
    teacher_options={"privileged": True},
    blind_options={"cameras": []},
)


def config(policy, **changes):
    plain = EvaluateConfig(
        policy=str(policy),
        env=None,
        encoder=None,
        suite=None,
        episodes=3,
        first_seed=2_000_000,
        video_episodes=1,
        rollout=IN_PROCESS,
        device="cpu",
    )
    return dataclasses.replace(plain, **changes)


def save_teacher(folder, speed=3.0):
    """Write a teacher that goes straight to the goal, by hand."""
    network = TeacherNetwork(hidden=(4,), activation="elu", normalise=False, clip=10.0)
    interface = without_cameras(ReachEnv().interface)
    policy = TeacherPolicy(
        TeacherMetadata(network=network, interface=interface, state_names=STATE, env=NAMED)
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        for axis in range(2):  # elu(x) - elu(-x) is x but for a bend, which has its sign
            for side, sign in ((0, 1.0), (1, -1.0)):
                row = 2 * axis + side
                policy.mlp[0].weight[row, axis] = -sign
                policy.mlp[0].weight[row, 2 + axis] = sign
                policy.mlp[2].weight[axis, row] = speed * sign
    policy.save(folder)
    return folder


@pytest.fixture
def teacher(tmp_path):
    return save_teacher(tmp_path / "teacher")


def test_a_teacher_is_evaluated_where_it_learned(teacher, tmp_path, capsys):
    evaluate(config(teacher), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["successes"] == 3
    assert found["env"]["id"] == NAMED.id
    assert (tmp_path / "out" / "rollout-success-2000000.mp4").stat().st_size > 0
    assert "success: 3/3" in capsys.readouterr().out


def test_failures_are_filmed_first_and_the_time_table_counts_the_video(teacher, tmp_path, capsys):
    weak = load_teacher(teacher)
    with torch.no_grad():
        weak.mlp[2].weight.mul_(0.1)  # it reaches goals that are near, and no others
    weak.save(tmp_path / "weak")
    evaluate(config(tmp_path / "weak", episodes=8, video_episodes=7), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    outcomes = {one["seed"]: one["success"] for one in found["seeds"]}
    failures = [seed for seed, success in outcomes.items() if not success]
    successes = [seed for seed, success in outcomes.items() if success]
    assert failures[-1] > successes[0]  # so that the order says something
    assert 1 < len(failures) < 7
    names = [f"rollout-failure-{seed}.mp4" for seed in failures]
    names += [f"rollout-success-{seed}.mp4" for seed in successes[: 7 - len(failures)]]
    told = capsys.readouterr().out
    filmed = [line for line in told.splitlines() if line.startswith("video: ")]
    assert [line.rpartition("/")[2] for line in filmed] == names
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == sorted(names)
    assert re.search(r"^video +\d+\.\d +\d+\.\d%$", told, re.MULTILINE)
    evaluate(config(tmp_path / "weak", episodes=1, video_episodes=0), tmp_path / "out")
    assert not [*(tmp_path / "out").glob("*.mp4")]  # they were of other episodes
    assert not re.search(r"^video", capsys.readouterr().out, re.MULTILINE)


def test_an_episode_that_ends_otherwise_when_filmed_is_named(
    teacher, tmp_path, capsys, monkeypatch
):
    resets = []

    class Fickle(NamedReach):
        """Only the first counted episode can succeed, after a first reset that checks the video."""

        def reset(self, **given):
            resets.append(self)
            return super().reset(**given)

        def step(self, action):
            *seen, info = super().step(action)
            return *seen, {"success": info["success"] and len(resets) == 2}

    monkeypatch.setattr(gymnasium.registry["fake/NamedReach-v0"], "entry_point", Fickle)
    evaluate(config(teacher, episodes=1), tmp_path / "out")
    told = capsys.readouterr().out
    assert "rollout-failure-2000000.mp4" in told
    assert "seed 2000000 succeeded when counted, but failed when filmed" in told


def test_the_video_shows_the_counted_actions(teacher, tmp_path, capsys, monkeypatch):
    """A policy that would act otherwise now changes neither the outcome nor the length."""
    monkeypatch.setattr(commands, "open_policy", lambda *_: Away())
    evaluate(config(teacher, episodes=2, video_episodes=2), tmp_path / "out")
    assert "note" not in capsys.readouterr().out
    for one in json.loads((tmp_path / "out" / "evaluation.json").read_text())["seeds"]:
        path = tmp_path / "out" / f"rollout-success-{one['seed']}.mp4"
        with av.open(str(path)) as container:
            frames = len([*container.decode(video=0)])
        assert frames == min(12, one["steps"] + 10) + 1  # a second more, or to the end


class Away:
    """Go away from every goal."""

    def reset(self):
        pass

    def act(self, observation):
        return np.sign(observation["state"][:2] - observation["state"][2:]).astype(np.float32)


def test_the_first_seed_is_chosen_and_said(teacher, tmp_path, capsys):
    evaluate(config(teacher, first_seed=2_000_300, video_episodes=0), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["first_seed"] == 2_000_300
    assert [one["seed"] for one in found["seeds"]] == [2_000_300, 2_000_301, 2_000_302]
    assert "on 3 held-out seeds, 2000300 to 2000302, of" in capsys.readouterr().out


@pytest.mark.parametrize("first_seed", [-1, 0, 10_000, 1_999_999, 2_999_998, 5_000_000])
def test_seeds_of_training_are_refused(first_seed):
    with pytest.raises(
        ValueError, match=f"first_seed={first_seed} with 3 .* 2000000 to 2999999.*training"
    ):
        config("runs/train", first_seed=first_seed)


def test_a_teacher_says_where_it_does_not_fit(teacher, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="privileged state: remove encoder="):
        evaluate(config(teacher, encoder=toto("toto-nano")), tmp_path / "out")
    monkeypatch.delattr(ReachEnv, "state_names")
    with pytest.raises(ValueError, match="state_names"):
        evaluate(config(teacher, env=ENV), tmp_path / "out")


def test_what_is_no_policy_is_named(teacher, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(teacher, tmp_path / "run" / "policy")
    (tmp_path / "run" / "config.json").write_text("{}")
    evaluate(config(tmp_path / "run"), tmp_path / "out")  # the run's folder will do
    (tmp_path / "run" / "policy").rename(tmp_path / "run" / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no policy in .*run: .* is missing.*run/policy"):
        evaluate(config(tmp_path / "run"), tmp_path / "out")
    data = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(data | {"kind": "encoder"}))
    with pytest.raises(ValueError, match=r"not a policy but 'encoder'; valid are .*student"):
        evaluate(config(teacher), tmp_path / "out")


def test_a_vision_transformers_file_may_have_moved(tmp_path):
    sizes = VitConfig(
        image_size=16, patch_size=8, dim=8, layers=1, heads=2, mlp_hidden=32, norm_eps=1e-6,
        registers=0, layer_scale=False, positions="learned", norm_after_pool=False,
        mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    file = tmp_path / "vit.pth"
    torch.manual_seed(0)
    torch.save({"model": sizes.build().state_dict()}, file)
    vision = VitVision(
        name_or_path=str(file), format="mvp", layer=None, pool="mean", heads=2, image_size=None,
        statistics=None,
    )  # fmt: skip
    encoder = vision.build(torch.device("cpu"))
    StudentPolicy(metadata(encoder, vision)).save(tmp_path / "student")
    moved = file.rename(tmp_path / "moved.pth")
    with pytest.raises(FileNotFoundError, match=r"vit\.pth, which does not exist; .*encoder="):
        evaluate(config(tmp_path / "student"), tmp_path / "out")
    evaluate(config(tmp_path / "student", encoder=toto(moved)), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["episodes"] == 3
    torch.save({"model": sizes.build().state_dict()}, file)
    with pytest.raises(ValueError, match=r"another encoder .*: weights: .* set encoder="):
        evaluate(config(tmp_path / "student"), tmp_path / "out")


def test_an_encoder_may_be_on_the_hugging_face_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached(tmp_path / "hub", save_tiny_encoder(tmp_path / "encoder"))
    vision = toto(f"hf:{REPO}@{COMMIT}")
    StudentPolicy(metadata(vision.build(torch.device("cpu")), vision)).save(tmp_path / "student")
    evaluate(config(tmp_path / "student"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["episodes"] == 3


def test_a_place_without_an_encoder_is_named_before_anything_runs(tmp_path):
    encoder = save_tiny_encoder(tmp_path / "encoder")
    vision = toto(encoder)
    StudentPolicy(metadata(vision.build(torch.device("cpu")), vision)).save(tmp_path / "student")
    gone = str(tmp_path / "gone")
    with pytest.raises(
        FileNotFoundError, match=f"the encoder of .*student was not found at {gone}"
    ):
        evaluate(config(tmp_path / "student", encoder=toto(gone)), tmp_path / "out")
    with pytest.raises(ValueError, match="remove encoder=none"):
        evaluate(config(tmp_path / "student", encoder=NoVision()), tmp_path / "out")
    other = dataclasses.replace(toto(encoder), layer=1)
    with pytest.raises(ValueError, match=r"set only the location of the encoder.*layer=1"):
        evaluate(config(tmp_path / "student", encoder=other), tmp_path / "out")
