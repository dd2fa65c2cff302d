"""Who a run's folder belongs to: what may differ, what blocks, and what counts as begun."""

import json
from dataclasses import dataclass, replace

import pytest

from toto_robot import runs
from toto_robot.runs import claim


@dataclass(frozen=True, kw_only=True)
class Inner:
    num_workers: int
    group: int


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int
    device: str
    evaluation_episodes: int
    rollout: Inner


ASKED = Config(seed=0, device="cpu", evaluation_episodes=5, rollout=Inner(num_workers=1, group=2))


@pytest.fixture
def out(tmp_path):
    claim(tmp_path / "out", ASKED)
    (tmp_path / "out" / "result").write_text("something came of it")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"device": "cuda"}, ("device",)),
        ({"rollout": Inner(num_workers=7, group=2)}, ("rollout.num_workers",)),
        ({"evaluation_episodes": 9}, ("evaluation_episodes",)),
        ({"device": "cuda", "evaluation_episodes": 6}, ("device", "evaluation_episodes")),
        ({}, ()),
    ],
)
def test_what_has_no_effect_is_taken_over(out, change, named):
    changed = replace(ASKED, **change)
    assert claim(out, changed) == named
    assert claim(out, changed) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1, "device": "cuda"},
        {"evaluation_episodes": 4},
        {"rollout": Inner(num_workers=1, group=3)},
    ],
)
def test_what_has_an_effect_blocks_and_nothing_is_written(out, change):
    before = (out / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run with another config") as caught:
        claim(out, replace(ASKED, **change))
    assert "device" not in str(caught.value)
    assert (out / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "left",
    [
        [],
        [".lock"],
        ["hydra/x"],
        ["tensorboard/events"],
        ["log.jsonl"],
        ["frames/videos/manifest.json", "frames/videos/tokens.u16"],
        ["drawn/images/disc.png", "runs/first/config.json"],
    ],
)
def test_a_folder_without_results_is_free(tmp_path, left):
    claim(tmp_path, ASKED)
    for name in left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("" if name == "log.jsonl" else "x")
    claim(tmp_path, replace(ASKED, seed=3))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3


@pytest.mark.parametrize("left", ["runs/tokens/manifest.json", "encoder/weights.safetensors"])
def test_results_in_a_subfolder_block(tmp_path, left):
    claim(tmp_path, ASKED)
    (tmp_path / left).parent.mkdir(parents=True)
    (tmp_path / left).write_text("x")
    with pytest.raises(ValueError, match=r"holds a run with another config"):
        claim(tmp_path, replace(ASKED, seed=3))


@pytest.mark.parametrize("content", ["", "{", '{"seed": 0'])
def test_a_damaged_config_is_told(out, content):
    (out / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        claim(out, ASKED)


def test_a_setting_that_came_later_is_named_where_it_blocks(out):
    there = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(there | {"gone": 1}))
    with pytest.raises(ValueError, match="gone: 1 != not there"):
        claim(out, ASKED)


@dataclass(frozen=True, kw_only=True)
class Named:
    encoders: tuple[str, ...]
    out_of: str


def test_other_weights_under_the_name_of_a_shipped_encoder_block(tmp_path, monkeypatch):
    weights, out = tmp_path / "weights", tmp_path / "out"
    monkeypatch.setattr(runs, "WEIGHTS", weights)
    (weights / "toto-nano").mkdir(parents=True)
    (weights / "toto-nano" / "config.json").write_text('{"sha256": "aaaa"}')
    asked = Named(encoders=("mine", "toto-nano"), out_of="runs/toto-nano")
    claim(out, asked)
    assert json.loads((out / "weights.json").read_text()) == {"toto-nano": "aaaa"}
    (weights / "toto-nano" / "config.json").write_text('{"sha256": "bbbb"}')
    claim(out, asked)  # no results yet, so the new weights are recorded
    (out / "result").write_text("something came of it")
    claim(out, asked)
    (weights / "toto-nano" / "config.json").write_text('{"sha256": "cccc"}')
    with pytest.raises(ValueError, match=r"toto-nano of another version .*bbbb, .*cccc.*out="):
        claim(out, asked)
    (out / "weights.json").unlink()  # a run of version 0.1
    with pytest.raises(ValueError, match=r"its weights: of version 0\.1, of this version: cccc"):
        claim(out, asked)


def test_a_long_text_in_a_config_is_no_name_of_an_encoder(tmp_path):
    claim(tmp_path / "out", Named(encoders=("x" * 5000,), out_of="pick up the cube. " * 30))
    assert not (tmp_path / "out" / "weights.json").exists()


def test_configs_without_shipped_encoders_leave_no_record_of_weights(out):
    assert not (out / "weights.json").exists()


@dataclass(frozen=True, kw_only=True)
class Trained:
    part: int
    head: str
    compile: bool = False


def test_the_part_of_a_batch_norm_blocks(tmp_path):
    for head in ("linear", "batch_norm_linear"):
        out, asked = tmp_path / head, Trained(part=8, head=head)
        claim(out, asked)
        (out / "result").write_text("something came of it")
        assert claim(out, replace(asked, compile=True)) == ("compile",)
        if head == "linear":
            assert claim(out, replace(asked, part=4)) == ("compile", "part")
        else:
            with pytest.raises(ValueError, match="part: 8 != 4"):
                claim(out, replace(asked, part=4))
