"""A failed start leaves the folder free; a run goes on with what changes no number, and grows."""

import dataclasses
import json
import shutil

import pytest

from policies.learning.dagger import DaggerConfig, LinearBeta
from policies.rollouts.pool import RolloutConfig
from policies.train import train
from tests.policies.fake_world import save_tiny_encoder
from tests.policies.test_train import config, metrics


def rounds(number):
    return DaggerConfig(rounds=number, episodes=3, beta=LinearBeta(rounds=2), mixing="step")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def short(encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "short"
    train(config(encoder, dagger=rounds(1), evaluation_episodes=2), out)
    return out


@pytest.fixture
def copy(short, tmp_path):
    return shutil.copytree(short, tmp_path / "copy")


def wrong(encoder, **changes):
    plain = config(encoder)
    if "layer" in changes or "name_or_path" in changes or "pool" in changes:
        return dataclasses.replace(plain, encoder=dataclasses.replace(plain.encoder, **changes))
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cuda:77"}, "cannot be used"),
        ({"layer": 99}, "layer"),
        ({"pool": "best"}, "unknown pool"),
        ({"name_or_path": "no/such/encoder"}, "unknown encoder"),
        ({"data": "no/such/data"}, "no demonstrations in"),
        ({"teacher": "no/such/teacher"}, "teacher"),
    ],
)
def test_a_start_that_fails_leaves_the_folder_free(encoder, change, message, tmp_path):
    from pathlib import Path

    change = {k: Path(v) if k in ("data", "teacher") else v for k, v in change.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(wrong(encoder, **change), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_what_changes_no_number_may_differ(copy, encoder, capsys):
    before = metrics(copy)
    for change in (
        {"rollout": RolloutConfig(num_workers=1, group=2)},
        {"device": "auto"},
        {"memory_limit_gib": 0.5},
        {"video_episodes": 0},
    ):
        train(config(encoder, dagger=rounds(1), evaluation_episodes=2, **change), copy)
        assert "is complete already; nothing to do" in capsys.readouterr().out
    assert metrics(copy) == before
    train(config(encoder, dagger=rounds(1), evaluation_episodes=2, video_episodes=2), copy)
    assert (copy / "rollout.mp4").is_file()
    assert metrics(copy) == before
    assert json.loads((copy / "config.json").read_text())["video_episodes"] == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: 0 != 1"),
        ({"dagger": rounds(0)}, "dagger.rounds: 1 != 0"),
        ({"evaluation_episodes": 1}, "evaluation_episodes: 2 != 1"),
        ({"rollout": RolloutConfig(num_workers=0, group=3)}, "rollout.group: 2 != 3"),
    ],
)
def test_what_changes_a_number_may_not_differ(copy, encoder, change, named):
    asked = {"dagger": rounds(1), "evaluation_episodes": 2} | change
    with pytest.raises(ValueError, match=f"another config.*\n  {named}$"):
        train(config(encoder, **asked, device="auto"), copy)


def test_an_extended_run_is_the_run_that_was_asked_for_at_once(copy, encoder, tmp_path, capsys):
    longer = config(encoder, dagger=rounds(2), evaluation_episodes=3)
    train(longer, tmp_path / "at_once")
    capsys.readouterr()
    train(longer, copy)
    assert metrics(copy) == metrics(tmp_path / "at_once")
    # 5 + 3 collected, 2 validations of 2 episodes; in all 5 + 2 * 3 + 3 * 2 + 3
    assert "continuing: 12 of 20 episodes found" in capsys.readouterr().out


def test_more_evaluation_alone_leaves_the_rounds(copy, encoder):
    before = metrics(copy)
    student = (copy / "rounds" / "01" / "policy" / "weights.safetensors").stat().st_mtime_ns
    train(config(encoder, dagger=rounds(1), evaluation_episodes=4), copy)
    assert metrics(copy)["evaluation"]["episodes"] == 4
    assert metrics(copy)["rounds"] == before["rounds"]
    after = (copy / "rounds" / "01" / "policy" / "weights.safetensors").stat().st_mtime_ns
    assert after == student
