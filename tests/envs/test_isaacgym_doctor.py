"""`toto-robot doctor isaacgym`: the checks, with the stand-in, and what it says when they fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from envs import isaacgym_doctor
from tests.envs.simulation.fake_worker import fake_python
from toto_robot import doctor

ROOT = Path(__file__).parents[2]
STAND_IN = "worker: this is the fake of our tests, not Isaac Gym"


def run(monkeypatch, tmp_path, python, *checks, **settings):
    """Run only some checks; return the exit status and the report."""
    chosen = {name: isaacgym_doctor.CHECKS[name] for name in checks}
    monkeypatch.setattr(isaacgym_doctor, "CHECKS", chosen)
    out = tmp_path / "report.json"
    words = [f"worker_python={python}", f"out={out}", *(f"{k}={v}" for k, v in settings.items())]
    return doctor.main(["isaacgym", *words]), json.loads(out.read_text())


def test_checks_of_the_stand_in_find_nothing_else(monkeypatch, tmp_path, capsys):
    status, report = run(monkeypatch, tmp_path, fake_python(tmp_path), "worker", "rest", "images")
    assert status == 1
    assert report["problems"] == [STAND_IN]
    assert report["worker"]["fake"]
    assert report["rest"]["force_over_weight"] == pytest.approx([1.0, 1.0], abs=0.1)
    assert report["images"]["correlation"]["image_hand"]["as it is"] > 0.9
    assert "please send it" in capsys.readouterr().out


def test_python_without_isaac_gym_ends_the_checks_with_its_reason(monkeypatch, tmp_path, capsys):
    status, report = run(monkeypatch, tmp_path, sys.executable, "worker", "rest")
    assert status == 1
    assert "No module named 'isaacgym'" in report["problems"][0]
    assert "rest" not in report
    assert "No module named 'isaacgym'" in capsys.readouterr().out


def test_check_that_fails_without_a_message_is_a_problem(monkeypatch, tmp_path, capsys):
    def fail(_):
        raise AssertionError

    monkeypatch.setitem(isaacgym_doctor.CHECKS, "rest", fail)
    status, report = run(monkeypatch, tmp_path, sys.executable, "rest")
    assert (status, report["problems"]) == (1, ["rest: AssertionError"])
    assert "rest            AssertionError" in capsys.readouterr().out


@pytest.mark.slow
def test_fault_of_one_check_is_a_problem_and_the_others_run(monkeypatch, tmp_path):
    python = fake_python(tmp_path, faults="crash=create_camera_sensor:1")
    _, report = run(monkeypatch, tmp_path, python, "images", "rest")
    assert [problem.partition(":")[0] for problem in report["problems"]] == ["images"]
    assert "ended by SIGKILL during 'create'" in report["images"]["error"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], r"worker_python=\.\.\. is needed"),
        (["worker=a"], "unknown setting 'worker=a'; known: worker_python="),
        (["worker_python=a", "num_envs=0"], "num_envs must be at least 1"),
        (["worker_python=a", "contract=maybe"], "contract must be yes or no"),
    ],
)
def test_wrong_settings_are_one_line(words, match):
    with pytest.raises(SystemExit, match=match):
        doctor.main(["isaacgym", *words])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_checks_pass_with_the_stand_in(tmp_path):
    """As typed, with the contract; all experts succeed, and no test fails."""
    out = tmp_path / "report.json"
    words = [f"worker_python={fake_python(tmp_path)}", "num_envs=2", f"out={out}"]
    command = [sys.executable, "-m", "toto_robot.doctor", "isaacgym", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(out.read_text())
    assert report["problems"] == [STAND_IN], done.stdout
    assert set(report["experts"]["successes_of_8"].values()) == {8}
    assert " passed" in report["contract"]["summary"]
