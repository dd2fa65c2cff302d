import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toto_robot import doctor, rendering

ROOT = Path(__file__).parents[2]

OWN_ENVIRONMENT = """
import os, gymnasium, numpy as np
from gymnasium import spaces

class Clock(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict(image_front=spaces.Box(0, 255, (8, 8, 3), np.uint8))

    def __init__(self, fault=None, render_mode=None):
        self.fault, self.render_mode = fault, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.fault == "module":
            import no_such_package
        if self.fault == "crash":
            os.abort()
        return {"image_front": np.zeros((8, 8, 3), np.uint8)}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, bool(action), {}

    def render(self):
        return np.zeros((20, 30, 3), np.uint8)

def make():
    return Clock(render_mode="rgb_array")

gymnasium.register(id="Clock-v0", entry_point=Clock)
for fault in ("module", "crash"):
    gymnasium.register(id=f"{fault}-v0", entry_point=Clock, kwargs={"fault": fault})
"""


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """Pretend a machine on which all is well, in a folder with an environment of one's own."""
    (tmp_path / "my_task.py").write_text(OWN_ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MUJOCO_GL", "")

    def works(route, seconds):
        return rendering.Probe(route=route, works=True, detail="soft", frames_per_s=1e6)

    monkeypatch.setattr(rendering, "probe", works)
    monkeypatch.setattr(rendering, "configure", lambda: "egl")
    monkeypatch.setattr(doctor, "_examine_encoder", lambda seconds: [])


def run(*settings: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", "toto_robot.doctor", *settings],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("env", ["my_task:Clock-v0", "my_task:make"])
def test_a_users_own_environment_is_measured_beside_a_baseline(tmp_path, monkeypatch, env) -> None:
    (tmp_path / "my_task.py").write_text(OWN_ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    done = run(f"env={env}", "seconds=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"examine this machine and {env}; this changes nothing"
    assert "encoder         " in done.stdout
    assert "GFLOP/s in a matrix product of this machine" in done.stdout
    assert "images/s: MuJoCo renders a box, 128 x 128 pixels" in done.stdout
    (speed,) = (line for line in lines if line.startswith("speed"))
    assert "steps/s with 1 image(s) each" in speed
    assert "images/s of 20 x 30 pixels" in speed
    assert lines[-1] == "remedy          nothing to do"


def test_help_helps_and_a_wrong_setting_is_one_line() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "env=my_package:MyTask-v0" in done.stdout
    assert "examine this machine" not in done.stdout
    for setting, words in {
        "evn=CartPole-v1": "unknown setting 'evn=CartPole-v1'; did you mean env=...?",
        "CartPole-v1": "unknown setting 'CartPole-v1'; known: env=ID, seconds=NUMBER",
        "seconds=soon": "seconds must be a number, got 'soon'",
        "seconds=inf": "seconds must be in (0, 60], got inf",
    }.items():
        done = run(setting)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"doctor: {words}\n")


def test_a_healthy_machine_needs_nothing(healthy, capsys) -> None:
    assert doctor.main([]) == 0
    printed = capsys.readouterr().out
    assert "egl           works: soft, 1000000 images/s of a box" in printed
    assert "used            egl\n" in printed
    assert (
        "in your own programs: export MUJOCO_GL=egl, or toto_robot.rendering.configure()" in printed
    )
    assert printed.splitlines()[-1] == "remedy          nothing to do"


def test_without_mujoco_the_rest_is_examined(healthy, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert doctor.main([]) == 0
    assert "rendering       not tried: MuJoCo is not installed" in capsys.readouterr().out


def test_an_extra_that_is_absent_is_no_fault_and_a_need_is(healthy, monkeypatch, capsys) -> None:
    def version(name):
        if name in gone:
            raise importlib.metadata.PackageNotFoundError
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    gone = {"av"}
    assert doctor.main([]) == 0
    assert "av              not installed (extra train)" in capsys.readouterr().out
    gone.add("safetensors")
    assert doctor.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("-m pip install safetensors")


def test_no_route_gives_the_remedy(healthy, monkeypatch, capsys) -> None:
    def broken(route, seconds):
        return rendering.Probe(route=route, works=False, detail="libEGL.so.1 not installed")

    monkeypatch.setattr(rendering, "probe", broken)
    monkeypatch.setattr(rendering, "configure", lambda: rendering.NONE)
    assert doctor.examine() == [rendering.remedy()]
    assert "egl           no: libEGL.so.1 not installed" in capsys.readouterr().out


def test_drawing_that_is_turned_off_is_turned_on_by_unsetting_it(healthy, monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "off")
    monkeypatch.setattr(rendering, "configure", lambda: rendering.NONE)
    assert doctor.examine("my_task:Clock-v0") == ["MUJOCO_GL=off turns rendering off: unset it"]


def test_a_users_choice_that_cannot_work_is_the_remedy(healthy, monkeypatch) -> None:
    def refuse():
        raise RuntimeError("MUJOCO_GL=egl is set, but")

    monkeypatch.setattr(rendering, "configure", refuse)
    assert doctor.examine() == ["MUJOCO_GL=egl is set, but"]


@pytest.mark.parametrize(
    ("env", "found", "remedy"),
    [
        ("my_task:module-v0", "No module named 'no_such_package'", "no package 'no_such_package'"),
        (
            "my_task:Clok-v0",
            "`Clok` doesn't exist. Did you mean: `Clock`",
            "fix the error that the env",
        ),
        ("no_such_task:Clock-v0", "No module named 'no_such_task'", "no package 'no_such_task'"),
        (
            "my_task:crash-v0",
            "its process ended by SIGABRT: it printed nothing",
            "fails with each route",
        ),
    ],
)
def test_an_environment_that_fails_is_reported(healthy, capsys, env, found, remedy) -> None:
    (given,) = doctor.examine(env, 0.01)
    assert remedy in given
    (speed,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("speed  "))
    assert found in speed


def test_where_another_route_draws_an_environment_it_is_the_remedy(healthy, monkeypatch) -> None:
    def measure(env, seconds, MUJOCO_GL="egl"):  # the variable of the environment
        if MUJOCO_GL == "egl":
            fault = {"missing": None, "broken_mujoco": False, "may_be_the_route": True}
            return fault | {"error": "RuntimeError: no context"}
        return {"steps_per_s": 9.0, "images": 1}

    monkeypatch.setattr(doctor, "_run_measurement", measure)
    (given,) = doctor.examine("my_task:Clock-v0")
    assert given.startswith("my_task:Clock-v0 renders with osmesa, but not with egl: export ")
    assert given.endswith("MUJOCO_GL=osmesa")


@pytest.mark.parametrize(
    ("module", "remedy"),
    [("mujoco", "[sim]"), ("mujoco.cgl", "[sim]"), ("my_arm", "no package 'my_arm'")],
)
def test_a_missing_package_is_named_with_what_brings_it(module, remedy) -> None:
    assert remedy in doctor._missing_remedy(module)


def test_a_half_upgraded_mujoco_is_installed_again(healthy, monkeypatch) -> None:
    fault = {"missing": None, "broken_mujoco": True, "may_be_the_route": False}
    monkeypatch.setattr(doctor, "_run_measurement", lambda *_: fault | {"error": "core bindings"})
    assert "--force-reinstall --no-deps mujoco mujoco-core" in doctor.examine("Clock-v0")[0]
