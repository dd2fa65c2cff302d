import json

import pytest

from toto_robot.encoder import load_encoder
from toto_robot.latency import LatencyConfig, latency, safe_rate

CONFIG = {
    "encoder": "toto-nano", "layer": 1, "pool": "mean", "device": "cpu", "dtype": "float32",
    "threads": None, "num_cameras": 1, "camera_height": 96, "camera_width": 128, "context": 2,
    "policy_hidden": (8,), "num_actions": 8, "repeats": 20, "rates_hz": (1.0, 10.0), "budget": 0.8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("p99_ms", "rate"), [(10.0, 60), (13.4, 50), (80.0, 10), (80.1, None), (1e4, None)]
)
def test_safe_rate_leaves_room(p99_ms, rate):
    assert safe_rate(p99_ms, (10.0, 50.0, 60.0), 0.8) == rate


def test_every_stage_is_measured(tmp_path, capsys):
    latency(LatencyConfig(**CONFIG), tmp_path)
    result = json.loads((tmp_path / "latency.json").read_text())
    stages = {stage["name"]: stage for stage in result["stages"]}
    assert set(stages) == {
        "tokenise", "transformer", "transformer, streaming", "pool", "policy",
        "frame to action", "stream to action",
    }  # fmt: skip
    for stage in stages.values():
        assert 0 < stage["p50_ms"] <= stage["p95_ms"] <= stage["p99_ms"]
        assert 0 <= stage["ceiling_share"] < 1.5
    # one block of width d and hidden width h on t tokens
    config = load_encoder("toto-nano").transformer.config
    t, d, h = 257, config.dim, config.mlp_hidden
    expected = 2 * t * (4 * d * d + 3 * d * h) + 4 * t * t * d
    assert stages["transformer"]["gflop"] == pytest.approx(expected / 1e9, rel=1e-6)
    assert stages["frame to action"]["gflop"] > stages["tokenise"]["gflop"]
    assert stages["transformer, streaming"]["gflop"] > stages["transformer"]["gflop"]
    assert "Hz is safe" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float8"}, "known: float32"),
        ({"repeats": 3}, "repeats"),
        ({"budget": 0.0}, "budget"),
        ({"rates_hz": ()}, "rates_hz"),
    ],
)
def test_wrong_config_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        LatencyConfig(**{**CONFIG, **change})
