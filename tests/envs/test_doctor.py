import importlib.metadata

import pytest

from envs import doctor, rendering


@pytest.fixture
def healthy(monkeypatch):
    """Pretend a machine on which all is well."""
    monkeypatch.setenv("MUJOCO_GL", "")

    def works(route):
        return rendering.Probe(route=route, works=True, detail="soft")

    monkeypatch.setattr(rendering, "probe", works)
    monkeypatch.setattr(rendering, "configure", lambda: "egl")
    monkeypatch.setattr(doctor, "measure_speed", lambda: (200.0, 100.0))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")


def test_a_healthy_machine_needs_nothing(healthy, capsys) -> None:
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    assert "egl           works: soft" in printed
    assert "used            egl" in printed
    assert "speed           200 frames/s, 100 steps/s (Franka-pick, hand + front)" in printed
    assert printed.splitlines()[-1] == "remedy          nothing to do"


def test_missing_packages_give_one_install_line(healthy, monkeypatch, capsys) -> None:
    def version(name):
        if name in ("mujoco", "av"):
            raise importlib.metadata.PackageNotFoundError
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert doctor.main() == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("-m pip install -e '.[sim,train]'")


def test_no_route_gives_the_remedy(healthy, monkeypatch, capsys) -> None:
    def broken(route):
        return rendering.Probe(route=route, works=False, detail="libEGL.so.1 not installed")

    monkeypatch.setattr(rendering, "probe", broken)
    monkeypatch.setattr(rendering, "configure", lambda: rendering.NONE)
    assert doctor.examine() == [rendering.remedy()]
    assert "egl           no: libEGL.so.1 not installed" in capsys.readouterr().out


def test_a_users_choice_that_cannot_work_is_the_remedy(healthy, monkeypatch) -> None:
    def refuse():
        raise RuntimeError("MUJOCO_GL=egl is set, but")

    monkeypatch.setattr(rendering, "configure", refuse)
    assert doctor.examine() == ["MUJOCO_GL=egl is set, but"]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ImportError("core bindings"), "--force-reinstall --no-deps mujoco mujoco-core"),
        (RuntimeError("no context"), "MUJOCO_GL=osmesa python -m envs.doctor"),
    ],
)
def test_a_scene_that_does_not_draw_is_told(healthy, monkeypatch, capsys, error, remedy) -> None:
    def fail():
        raise error

    monkeypatch.setattr(doctor, "measure_speed", fail)
    assert remedy in doctor.examine()[0]
    assert str(error) in capsys.readouterr().out


def test_the_speed_is_of_the_real_scene() -> None:
    frames, steps = doctor.measure_speed(seconds=0.05)
    assert frames == pytest.approx(2 * steps)
    assert steps > 0
