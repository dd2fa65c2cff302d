"""Choose a rendering back end for MuJoCo that works on this machine without a display.

A rendering back end is a library that draws images without a window. The module tries three back
ends, in this order:

    egl            libEGL and libGL of the system; uses a GPU, or Mesa's software renderer
    osmesa         libOSMesa of the system; renders in software
    osmesa-wheel   libOSMesa from the wheel `lavavu-osmesa`; renders in software, and can be
                   installed with pip, without root or apt

MuJoCo reads its back end from the environment variable `MUJOCO_GL` when it is imported. A wrong
value causes an error inside PyOpenGL that is hard to understand, and a broken driver may kill the
process. Therefore this module renders one small image with each back end, in a separate process.
The name of the first working back end is saved in the user's cache folder. In your own program:

    from toto_robot.rendering import configure

    configure()  # before mujoco is imported, by an environment or by your program

`python -m toto_robot.rendering` prints the chosen back end. This module can be imported without
MuJoCo and PyOpenGL.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BOX_PX", "NONE", "ROUTES", "TOO_LATE", "Probe", "configure", "probe", "remedy"]

ROUTES = ("egl", "osmesa", "osmesa-wheel")
NONE = "none"
BOX_PX = 128  # height and width of the probe's image of a box

TOO_LATE = (
    "mujoco was imported before the rendering back end was chosen, and there is no display: call "
    "toto_robot.rendering.configure() before mujoco is imported, or set MUJOCO_GL=egl"
)

_OFF = ("disable", "disabled", "off", "false", "0")  # mujoco.rendering.classic.gl_context
_WHEEL = "lavavu-osmesa"
_PROBE_TIMEOUT_S = 120  # a cold start of LLVM on a busy machine; usually about one second
# Variables that change whether a back end works, besides the machine and the Python environment.
_ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "LIBGL_ALWAYS_SOFTWARE",
    "MUJOCO_EGL_DEVICE_ID",
    "__EGL_VENDOR_LIBRARY_FILENAMES",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The result of trying a back end on this machine.

    Attributes:
        route: the back end, one of `ROUTES`.
        works: true if the back end rendered an image.
        detail: name of the renderer, or the error message.
        frames_per_s: rendered images of a box per second, `BOX_PX` pixels high and wide; None: the
            speed was not measured.
    """

    route: str
    works: bool
    detail: str
    frames_per_s: float | None = None


def configure() -> str:
    """Set the environment variable `MUJOCO_GL` to a back end that works on this machine.

    Call this function before mujoco is imported. If the user has set `MUJOCO_GL`, it is not
    changed; for `osmesa`, the wheel's library is used if the system has no libOSMesa. On systems
    other than Linux, MuJoCo chooses the back end.

    Returns:
        The back end: one of `ROUTES`, the user's setting, `glfw` if mujoco is already imported,
        `default` on systems other than Linux, or `NONE` if no back end works or the user has turned
        rendering off. With `NONE`, physics works, but code that needs an image raises an error with
        `remedy()`.

    Raises:
        ImportError: MuJoCo is not installed.
        RuntimeError: a library of the user's back end is missing; the message says what to do.
    """
    if platform.system() != "Linux":
        return os.environ.get("MUJOCO_GL", "default")
    if importlib.util.find_spec("mujoco") is None:
        raise ImportError("MuJoCo is not installed: pip install 'toto-robot[sim]'", name="mujoco")
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in _OFF:
        return NONE
    if wanted:
        return _keep(wanted)
    if "mujoco" in sys.modules:
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            warnings.warn(TOO_LATE, RuntimeWarning, stacklevel=2)
        return "glfw"
    route = _saved_route()
    if route is None:
        route = next((name for name in ROUTES if probe(name).works), NONE)
        if route != NONE:
            _save_route(route)
    _activate(route)
    return route


def probe(route: str, seconds: float = 0.0) -> Probe:
    """Check in a separate process whether the back end `route` can render an image.

    Args:
        route: the back end, one of `ROUTES`.
        seconds: duration of a speed measurement, seconds; 0: the speed is not measured.

    Raises:
        ValueError: `route` is not one of `ROUTES`.
    """
    if route not in ROUTES:
        raise ValueError(f"unknown route {route!r}; known: {', '.join(ROUTES)}")
    if reason := _missing(route):
        return Probe(route=route, works=False, detail=reason)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    }
    # Run by its path: the process need not find this package. -P keeps this file's folder off
    # sys.path, because its modules may have the names of other packages.
    command = [sys.executable, "-P", str(Path(__file__)), route, str(seconds)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        detail = f"no image within {_PROBE_TIMEOUT_S} s"
        return Probe(route=route, works=False, detail=detail)
    if done.returncode == 0:
        name, rate = json.loads(done.stdout.splitlines()[-1])
        return Probe(route=route, works=True, detail=name, frames_per_s=rate)
    last = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
    return Probe(route=route, works=False, detail=last)


def remedy() -> str:
    """Return one line that says what to install for rendering."""
    root = os.geteuid() == 0 if hasattr(os, "geteuid") else False
    return (
        f"no way to render: run `{'' if root else 'sudo '}apt-get install -y libegl1 libgl1`, or "
        f"without root `{sys.executable} -m pip install --no-deps {_WHEEL}`; "
        "`python -m toto_robot.doctor` prints more"
    )


def _keep(wanted: str) -> str:
    """Check that the back end in the user's `MUJOCO_GL` is installed, and return it."""
    if wanted not in ("egl", "osmesa"):
        return wanted
    reason = _missing(wanted)
    if reason and wanted == "osmesa" and not _missing("osmesa-wheel"):
        _activate("osmesa-wheel")
        return "osmesa-wheel"
    if reason:
        raise RuntimeError(f"MUJOCO_GL={wanted} is set, but {reason}; {remedy()}")
    return wanted


def _activate(route: str) -> None:
    if route == NONE:
        os.environ["MUJOCO_GL"] = "disabled"
        return
    if route == "osmesa-wheel":
        _load_osmesa_wheel()
    # Child processes inherit the variables and do not choose again.
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = route.removesuffix("-wheel")


def _missing(route: str) -> str | None:
    """Return a text that says what `route` lacks; None if all its libraries exist."""
    if route == "osmesa-wheel":
        return None if _wheel_libraries() else f"the wheel {_WHEEL} is not installed"
    if route == "osmesa":
        names = ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
        return None if any(map(_loads, names)) else "libOSMesa is not installed"
    absent = [name for name in ("libEGL.so.1", "libGL.so.1") if not _loads(name)]
    return f"{' and '.join(absent)} not installed" if absent else None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _wheel_libraries() -> list[Path]:
    """Return the libraries in the wheel `lavavu-osmesa`; empty if it is not installed."""
    try:
        distribution = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return []
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    libraries = [path for path in paths if path.parent.name == "lavavu_osmesa.libs"]
    found = [path for path in libraries if path.is_file()]
    return found if any(path.name.startswith("libOSMesa") for path in found) else []


def _load_osmesa_wheel() -> None:
    """Load the wheel's libOSMesa, and make PyOpenGL use it.

    Each library needs some of the other libraries, but does not contain their paths. So each
    library is loaded after the libraries that it needs. They are loaded globally, because MuJoCo
    searches OSMesa's functions among the global symbols. When PyOpenGL is imported, it opens
    libOSMesa by its name without a path, which would not find the wheel's file. So PyOpenGL's
    loader is replaced first.
    """
    if "OpenGL.platform" in sys.modules:
        return  # loaded before, or PyOpenGL already has a platform: too late to change
    waiting = _wheel_libraries()
    library = next(path for path in waiting if path.name.startswith("libOSMesa"))
    while waiting:
        left = []
        for path in waiting:
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                left.append((path, error))
        if len(left) == len(waiting):
            raise RuntimeError(f"{_WHEEL} does not load here: {left[0][1]}")
        waiting = [path for path, _ in left]

    import OpenGL

    name = "OpenGL.platform.ctypesloader"
    path = Path(str(OpenGL.__file__)).parent / "platform/ctypesloader.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    load_other = loader.loadLibrary

    def load(dll_type: object, short_name: str, mode: int = ctypes.RTLD_GLOBAL) -> object:
        if short_name in ("OSMesa", "GL"):
            return ctypes.CDLL(str(library), mode=mode)
        return load_other(dll_type, short_name, mode)

    loader.loadLibrary = load  # pyrefly: ignore  # a module attribute without a type stub
    sys.modules[name] = loader


def _cache_file() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "toto-robot" / "rendering.json"


def _cache_key() -> str:
    what = [sys.prefix, platform.node(), importlib.metadata.version("mujoco")]
    what += [str(Path("/dev/dri").exists())] + [os.environ.get(name, "") for name in _ENVIRONMENT]
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def _saved_routes() -> dict[str, Any]:
    """Return the saved back end of each machine; empty if the file is missing or damaged."""
    try:
        known = json.loads(_cache_file().read_text())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home folder
        return {}
    return known if isinstance(known, dict) else {}


def _saved_route() -> str | None:
    """Return the back end that was saved for this machine; None if there is none.

    If a library of the back end no longer exists, the result is also None.
    """
    route = _saved_routes().get(_cache_key())
    return route if route in ROUTES and not _missing(route) else None


def _save_route(route: str) -> None:
    from .files import write_json  # here, so that a probe can run this file without its package

    # Without a writable home folder, the back ends are tried again at each start (about 1 s).
    with contextlib.suppress(OSError, RuntimeError):
        write_json(_cache_file(), _saved_routes() | {_cache_key(): route})


def _draw(route: str, seconds: float) -> tuple[str, float | None]:
    """Render a box in this process, and return the renderer's name and its images per second."""
    _activate(route)
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><visual><quality offsamples='0'/></visual><worldbody>"
        "<light pos='0 0 2' castshadow='false'/>"  # with shadows and samples: 100 times slower
        "<geom type='box' size='.1 .1 .1' rgba='1 0 0 1'/><camera name='front' pos='0 0 1'/>"
        "</worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, BOX_PX, BOX_PX) as renderer:
        renderer.update_scene(data, camera="front")
        image = renderer.render()
        from OpenGL import GL

        name = GL.glGetString(GL.GL_RENDERER).decode()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            renderer.update_scene(data, camera="front")
            renderer.render()
            count += 1
        rate = count / (time.perf_counter() - start) if count else None
    if image.max() < 50 or image.min() > 200:
        raise RuntimeError(f"{name} rendered an empty image")
    return name, rate


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_draw(sys.argv[1], float(sys.argv[2]))), flush=True)
        os._exit(0)  # some drivers print a traceback at exit
    chosen = configure()
    print(chosen if chosen != NONE else remedy())
    sys.exit(chosen == NONE)
