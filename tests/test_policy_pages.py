"""What docs/policies.md and docs/datasets.md tell to do works, as it stands there."""

import dataclasses
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from envs.interface import ACTION_KINDS, Interface
from policies.demonstrations.lerobot.layout import INTERFACE
from policies.demonstrations.lerobot.reader import DatasetReader
from policies.train import train
from tests.policies.fake_world import save_tiny_encoder
from tests.policies.test_convert_demonstrations import random_images, robomimic
from tests.policies.test_train import config

ROOT = Path(__file__).parents[1]
POLICIES = (ROOT / "docs" / "policies.md").read_text()
DATASETS = (ROOT / "docs" / "datasets.md").read_text()
FEWER = ["imitation.last_steps=2", "hydra/job_logging=none", "hydra/hydra_logging=none"]


def block(page, language, word):
    found = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (text,) = [text for text in found if word in text]
    return text


@pytest.mark.filterwarnings("ignore:.*get variables from other wrappers")
def test_the_recipe_loads_a_policy_and_runs_an_episode(tmp_path, monkeypatch, capsys) -> None:
    encoder = save_tiny_encoder(tmp_path / "tiny")
    train(config(encoder, video_episodes=0), tmp_path / "runs" / "train")
    judged = json.loads((tmp_path / "runs" / "train" / "evaluation.json").read_text())["seeds"][0]
    assert judged["seed"] == 2_000_000
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    text = block(POLICIES, "python", "load_policy")
    exec(compile(text, "policies.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == f"{judged['success']}\n"


def test_a_file_of_robomimic_becomes_a_policy(tmp_path, monkeypatch, capsys) -> None:
    """In this process: another would import torch for seconds before each command."""
    images = {"obs/robot0_eye_in_hand_image": random_images(5)}
    robomimic(tmp_path / "image.hdf5", **images)
    monkeypatch.chdir(tmp_path)
    lines = block(DATASETS, "bash", "layout=robomimic").splitlines()
    assert len(lines) == 2
    for line in lines:
        _, _, module, *words = shlex.split(line)
        fewer = FEWER[0 if module == "policies.train" else 1 :]
        monkeypatch.setattr(sys, "argv", [module, *words, *fewer])
        importlib.import_module(module).main()
    told = capsys.readouterr().out
    assert "2 episodes at 10 steps per second: runs/lift" in told
    assert (tmp_path / "runs" / "lift_policy" / "policy" / "weights.safetensors").is_file()
    reader = DatasetReader(tmp_path / "runs" / "lift")
    assert (len(reader), reader[0].num_steps, reader[0].task) == (2, 7, "Lift")
    example = json.loads(block(DATASETS, "json", '"interface"'))
    assert json.loads((tmp_path / "runs" / "lift" / INTERFACE).read_text()) == example


def test_the_page_specifies_every_field_of_an_interface() -> None:
    example = Interface.from_dict(json.loads(block(DATASETS, "json", '"interface"'))["interface"])
    assert example.action_kind == "joint_increment"
    section = DATASETS.split("\n## ")
    (section,) = [text for text in section if text.startswith("The interface")]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
    fields = [field.name for field in dataclasses.fields(Interface)]
    assert [name for name, _ in rows] == ["format", *fields, *ACTION_KINDS]
    for field in dataclasses.fields(Interface):
        if field.default is dataclasses.MISSING:  # not an optional field
            assert field.name in example.to_dict()
