import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.toto_robot.visions import toto
from toto_robot.encoders.loading import load_encoder
from toto_robot.encoders.operations import SIDES, count_operations
from toto_robot.latency import LatencyConfig, camera, latency, safe_rate

CONFIG = {
    "encoder": toto("toto-nano", layer=1, pool="mean"), "device": "cpu", "dtype": "float32",
    "threads": None, "num_cameras": 1, "camera_height": 96, "camera_width": 128, "decode": "jpeg",
    "context": 2, "policy_hidden": (8,), "num_actions": 8, "repeats": 20, "rates_hz": (1.0, 10.0),
    "budget": 0.8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setitem(SIDES, "cpu", (64, 128))


@pytest.mark.parametrize(
    ("p99_ms", "rate"), [(10.0, 60), (13.4, 50), (80.0, 10), (80.1, None), (1e4, None)]
)
def test_safe_rate_leaves_room(p99_ms, rate):
    assert safe_rate(p99_ms, (10.0, 50.0, 60.0), 0.8) == rate


def run(folder, **change):
    latency(LatencyConfig(**{**CONFIG, **change}), folder)
    result = json.loads((folder / "latency.json").read_text())
    return result, {stage["name"]: stage for stage in result["stages"]}


def test_every_stage_is_measured(tmp_path, capsys):
    result, stages = run(tmp_path)
    assert set(stages) == {
        "decode", "tokenise", "transformer", "transformer, streaming", "pool", "policy",
        "frame to action", "stream to action",
    }  # fmt: skip
    for stage in stages.values():
        assert 0 < stage["least_ms"] <= stage["p50_ms"] <= stage["p95_ms"] <= stage["p99_ms"]
        assert stage["ceiling_share"] == pytest.approx(
            stage["gflop"] / stage["least_ms"] * 1e3 / result["ceiling_gflops"]
        )
    parts = ("decode", "tokenise", "transformer", "pool", "policy")
    assert result["first_action_ms"] == pytest.approx(sum(stages[p]["first_ms"] for p in parts))
    # one block of width d and hidden width h on t tokens
    config = load_encoder("toto-nano").transformer.config
    t, d, h = 257, config.dim, config.mlp_hidden
    attention = 4 * d * t * (t + 1) / 2  # scores and averages, up to each token
    expected = 2 * t * (4 * d * d + 3 * d * h) + attention
    assert stages["transformer"]["gflop"] == pytest.approx(expected / 1e9, rel=1e-6)
    # a frame, causal among itself, after the start token and one frame
    t = 256
    expected = 2 * t * (4 * d * d + 3 * d * h) + 4 * d * t * (257 + (t + 1) / 2)
    assert stages["transformer, streaming"]["gflop"] == pytest.approx(expected / 1e9, rel=1e-6)
    assert stages["frame to action"]["gflop"] > stages["tokenise"]["gflop"]
    assert stages["transformer, streaming"]["gflop"] > stages["transformer"]["gflop"]
    assert "Hz is safe" in capsys.readouterr().out


def test_integers_are_counted_like_floats(tmp_path):
    _, floats = run(tmp_path, decode=None)
    _, integers = run(tmp_path, decode="h264", dtype="int8")
    assert "decode" not in floats
    assert "decode" in integers
    assert integers["transformer"]["gflop"] == pytest.approx(floats["transformer"]["gflop"])


@pytest.mark.parametrize("decode", ["jpeg", "h264"])
def test_cameras_give_pictures_that_differ(decode):
    config = LatencyConfig(**{**CONFIG, "decode": decode, "num_cameras": 2})
    raw = camera(replace(config, decode=None))()
    assert raw.shape == (2, 96, 128, 3)
    look = camera(config)
    first, second = look(), look()
    assert first.dtype == second.dtype == np.uint8
    assert np.abs(first.astype(int) - raw).mean() < 8  # lossy, but the same picture
    assert np.abs(raw[0].astype(int) - raw[1]).mean() > 20
    # a video goes on, a still is sent again
    assert (np.abs(first.astype(int) - second).mean() > 8) == (decode == "h264")


@pytest.mark.parametrize(("causal", "share"), [(True, 33 / 64), (False, 1.0)])
def test_only_what_is_not_masked_counts(causal, share):
    q = torch.randn(1, 2, 32, 8)
    found = count_operations(lambda: scaled_dot_product_attention(q, q, q, is_causal=causal))
    assert found == 2 * 2 * 2 * 32 * 32 * 8 * share


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float8"}, "known: float32"),
        ({"decode": "png"}, "known: jpeg, h264, null"),
        ({"decode": "h264", "camera_width": 127}, "even height and width, got 96 x 127"),
        ({"repeats": 3}, "repeats"),
        ({"budget": 0.0}, "budget"),
        ({"rates_hz": ()}, "rates_hz"),
    ],
)
def test_wrong_config_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        LatencyConfig(**{**CONFIG, **change})
