import os
import subprocess
import sys
import warnings

import pytest

from toto_robot import rendering

DRAW = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from toto_robot import rendering
{change}
route = rendering.configure()
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_step(model, data)
if {draw}:
    with mujoco.Renderer(model, 8, 8) as renderer:
        renderer.update_scene(data)
        print(renderer.render().shape)
maps = Path("/proc/self/maps").read_text().split()
print(route, sorted({{Path(name).name.split("-")[0].split(".")[0] for name in maps
                     if "/libOSMesa" in name or "/libEGL." in name or "/libGL." in name}}))
sys.stdout.flush()
import os
os._exit(0)
"""


def draw(tmp_path, change: str = "", picture: bool = True, **environment: str) -> str:
    """Run a program that draws, with an empty cache, and give what it printed."""
    root = str(rendering.Path(rendering.__file__).parents[1])
    program = DRAW.format(root=root, change=change, draw=picture)
    kept = {k: v for k, v in rendering.os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    kept.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | {"XDG_CACHE_HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretend a machine: which libraries are there, which routes work, an empty cache."""
    present = {"egl", "osmesa", "osmesa-wheel"}
    working = {"egl", "osmesa", "osmesa-wheel"}
    tried: list[str] = []

    def probe(route):
        tried.append(route)
        works = route in present & working
        return rendering.Probe(route=route, works=works, detail="")

    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(rendering, "probe", probe)
    monkeypatch.setattr(
        rendering, "_missing", lambda route: None if route in present else f"no {route} here"
    )
    monkeypatch.setattr(rendering, "_load_osmesa_wheel", lambda: None)
    monkeypatch.setattr(rendering.platform, "system", lambda: "Linux")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)

    class Machine:
        pass

    machine = Machine()
    machine.present, machine.working, machine.tried = present, working, tried
    return machine


def test_what_is_chosen_here_draws_a_picture(tmp_path) -> None:
    assert draw(tmp_path).startswith("(8, 8, 3)")


def test_the_wheel_draws_without_any_graphics_library_of_the_system(tmp_path) -> None:
    hidden = "rendering._loads = lambda library: False"
    if rendering._wheel_libraries():
        assert draw(tmp_path, hidden) == "(8, 8, 3)\nosmesa-wheel ['libOSMesa']\n"
    else:
        assert not rendering.probe("osmesa-wheel").works
        assert draw(tmp_path, hidden, picture=False) == "none []\n"


def test_physics_works_where_nothing_can_draw(tmp_path) -> None:
    hidden = "rendering._loads = lambda library: False; rendering._wheel_libraries = lambda: []"
    assert draw(tmp_path, hidden, picture=False) == "none []\n"


def test_the_probe_of_a_route_that_breaks_gives_its_last_words(monkeypatch) -> None:
    monkeypatch.setattr(rendering, "_missing", lambda route: None)
    monkeypatch.setattr(rendering, "__file__", "/there/is/no/such/file.py")
    probe = rendering.probe("egl")
    assert not probe.works
    assert "No such file" in probe.detail


def test_a_route_that_hangs_does_not_work(monkeypatch) -> None:
    def hang(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(rendering, "_missing", lambda route: None)
    monkeypatch.setattr(rendering.subprocess, "run", hang)
    assert rendering.probe("egl").detail == "no image within 120 s"


def test_a_probe_measures_its_rate_if_asked_to() -> None:
    route = next(one for one in rendering.ROUTES if rendering.probe(one).works)
    assert rendering.probe(route).frames_per_s is None
    assert rendering.probe(route, seconds=0.05).frames_per_s > 0


def test_without_mujoco_the_choice_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"MuJoCo is not installed: pip install .toto-robot\[sim"):
        rendering.configure()


def test_an_unknown_route_lists_the_known() -> None:
    with pytest.raises(ValueError, match="unknown route 'glx'; known: egl, osmesa, osmesa-wheel"):
        rendering.probe("glx")


def test_missing_libraries_are_named_without_starting_a_process(monkeypatch) -> None:
    monkeypatch.setattr(rendering, "_loads", lambda library: False)
    monkeypatch.setattr(rendering, "_wheel_libraries", list)
    assert [rendering.probe(route).detail for route in rendering.ROUTES] == [
        "libEGL.so.1 and libGL.so.1 not installed",
        "libOSMesa is not installed",
        "the wheel lavavu-osmesa is not installed",
    ]


@pytest.mark.parametrize(
    ("working", "chosen", "mujoco_gl"),
    [
        ({"egl", "osmesa", "osmesa-wheel"}, "egl", "egl"),
        ({"osmesa", "osmesa-wheel"}, "osmesa", "osmesa"),
        ({"osmesa-wheel"}, "osmesa-wheel", "osmesa"),
        (set(), "none", "disabled"),
    ],
)
def test_the_first_route_that_works_is_taken(machine, working, chosen, mujoco_gl) -> None:
    machine.working &= working
    assert rendering.configure() == chosen
    assert rendering.os.environ["MUJOCO_GL"] == mujoco_gl


def test_what_worked_is_remembered_and_what_failed_is_not(machine, monkeypatch) -> None:
    machine.working.clear()
    assert rendering.configure() == "none"
    monkeypatch.setenv("MUJOCO_GL", "")
    machine.working.add("osmesa")
    assert rendering.configure() == "osmesa"
    machine.tried.clear()
    monkeypatch.setenv("MUJOCO_GL", "")
    assert rendering.configure() == "osmesa"
    assert machine.tried == []


def test_a_remembered_route_whose_library_went_is_chosen_anew(machine, monkeypatch) -> None:
    assert rendering.configure() == "egl"
    machine.present.remove("egl")
    monkeypatch.setenv("MUJOCO_GL", "")
    assert rendering.configure() == "osmesa"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}'])
def test_a_damaged_memory_does_no_harm(machine, content) -> None:
    rendering._cache_file().parent.mkdir()
    rendering._cache_file().write_text(content)
    assert rendering.configure() == "egl"


def test_an_unwritable_cache_does_no_harm(machine, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert rendering.configure() == "egl"


def test_the_users_choice_is_kept(machine, monkeypatch) -> None:
    for wanted, route in [("glfw", "glfw"), ("EGL", "egl"), ("osmesa", "osmesa"), ("off", "none")]:
        monkeypatch.setenv("MUJOCO_GL", wanted)
        assert rendering.configure() == route
        assert rendering.os.environ["MUJOCO_GL"] == wanted
    assert machine.tried == []


def test_the_wheel_serves_a_user_who_asks_for_osmesa(machine, monkeypatch) -> None:
    machine.present.remove("osmesa")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.configure() == "osmesa-wheel"


def test_a_choice_that_cannot_work_says_what_to_install(machine, monkeypatch) -> None:
    machine.present.clear()
    for wanted in ("egl", "osmesa"):
        monkeypatch.setenv("MUJOCO_GL", wanted)
        with pytest.raises(RuntimeError, match=f"MUJOCO_GL={wanted} is set, but no {wanted}.*apt-"):
            rendering.configure()


def test_mujoco_imported_too_early_is_said(machine, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", rendering)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.warns(RuntimeWarning, match="before mujoco is imported, or set MUJOCO_GL=egl"):
        assert rendering.configure() == "glfw"
    monkeypatch.setenv("DISPLAY", ":0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rendering.configure() == "glfw"


def test_other_systems_choose_for_themselves(machine, monkeypatch) -> None:
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(rendering.platform, "system", lambda: "Darwin")
    assert rendering.configure() == "default"


def test_the_remedy_is_one_line_with_both_ways() -> None:
    assert "\n" not in rendering.remedy()
    assert "apt-get install -y libegl1 libgl1" in rendering.remedy()
    assert "pip install --no-deps lavavu-osmesa" in rendering.remedy()


def test_an_environment_after_mujoco_says_what_to_do() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import envs, mujoco, gymnasium\n"
        "gymnasium.make('envs:toto/FrankaPick-v0', cameras=('hand',)).reset(seed=0)"
    )
    hidden = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    clean = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True)
    assert (
        "RuntimeError: mujoco was imported before the rendering back end was chosen" in done.stderr
    )
