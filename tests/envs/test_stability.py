import json

import numpy as np
import pytest

from envs.catalogue import make
from envs.manipulation import ManipulationEnv
from envs.stability import FAULTS, StabilityConfig, random_episode, shake, stability

PICK = "toto/FrankaPick-v0"
CONFIG = {
    "env_id": PICK, "protocol": "robot", "episodes": 2, "hold_steps": 5, "first_seed": 0,
    "shakes": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def env():
    made = make(env_id=PICK, cameras=(), privileged=True, num_steps=60)
    yield made
    made.close()


def test_result_is_written(tmp_path, capsys):
    stability(StabilityConfig(**CONFIG), tmp_path)
    result = json.loads((tmp_path / "stability.json").read_text())
    assert result["faults"] == {name: [] for name in FAULTS}
    assert result["held"] == 1
    assert "1/1" in capsys.readouterr().out


def test_box_below_the_surface_is_noticed(env, monkeypatch):
    assert "sunk" not in random_episode(env, 0, 5)[0]
    # as if the table began 5 cm higher: the cube on it is now in it
    monkeypatch.setattr("envs.stability._SINK_M", -0.05)
    assert "sunk" in random_episode(env, 0, 5)[0]


def test_what_is_not_finite_is_noticed(env, monkeypatch):
    step = ManipulationEnv.step
    monkeypatch.setattr(
        ManipulationEnv,
        "step",
        lambda self, action: (step(self, action)[0], np.nan, True, False, {}),
    )
    assert "not finite" in random_episode(env, 0, 5)[0]


def test_what_moves_by_itself_is_noticed(env, monkeypatch):
    assert "growing energy" not in random_episode(env, 0, 5)[0]
    moved = iter(np.arange(100.0))
    monkeypatch.setattr("envs.stability._places", lambda env: np.full(3, next(moved)))
    assert "growing energy" in random_episode(env, 0, 5)[0]
    monkeypatch.setattr("envs.stability._places", lambda env: np.zeros(3))
    monkeypatch.setattr("envs.stability._joint_speeds", lambda env: np.full(7, 0.8))
    assert "chatter" in random_episode(env, 0, 5)[0]
    # but not what the servos pay for
    paid = iter(np.arange(100.0)[::-1])
    monkeypatch.setattr("envs.stability._servo_energy_j", lambda env: next(paid))
    assert not random_episode(env, 0, 5)[0]


def test_cube_that_is_not_held_is_lost(env, monkeypatch):
    env.num_steps = 60
    assert shake(env, PICK, 0)
    monkeypatch.setattr("envs.stability._SHAKE_N", 300.0)
    assert not shake(env, PICK, 0)


@pytest.mark.parametrize(
    "change", [{"episodes": 0}, {"shakes": -1}, {"protocol": "pixmc"}, {"hold_steps": 0}]
)
def test_impossible_request_is_refused(change):
    with pytest.raises(ValueError, match=r"at least|protocol=robot"):
        StabilityConfig(**{**CONFIG, **change})
