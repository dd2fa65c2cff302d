"""`python -m toto_robot.doctor`: check versions, renderers and speeds of this machine.

    python -m toto_robot.doctor                                # this machine
    python -m toto_robot.doctor env=my_package:MyTask-v0       # and your own environment
    python -m toto_robot.doctor env=my_module:make             # or a function that makes it
    python -m toto_robot.doctor isaacgym worker_python=PYTHON  # only Isaac Gym

Each speed is printed beside a baseline from the same run. The baseline of the encoder is a matrix
product on this machine. The baseline of an environment's rendering is the rendering of a single box
without shadows. The last lines list the problems and how to fix them. The exit status is 0 if there
are no problems, and 1 otherwise.
"""

import argparse
import difflib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import rendering
from .device import num_cpus

__all__ = ["examine", "main", "processor"]

# Packages of the project, and the extra that installs each (empty: the library itself needs it).
PACKAGES = {
    "torch": "",
    "numpy": "",
    "gymnasium": "",
    "safetensors": "",
    "mujoco": "sim",
    "hydra-core": "train",
    "tensorboard": "train",
    "matplotlib": "train",
    "av": "train",
}
ENCODER = "toto-nano"
# Checks of one simulator only: modules of the package with the environments, by name.
PARTS = {"isaacgym": "isaacgym_doctor"}
SETTINGS = {
    "env": "environment to make, step and render: a Gymnasium id, with its package before a colon, "
    "or module:function",
    "seconds": "how long each speed is measured, seconds",
}
# Instruction sets that double the arithmetic of a processor, and their flags in /proc/cpuinfo.
CPU_FLAGS = {"AMX": "amx_tile", "AVX-512": "avx512f", "AVX2": "avx2"}
# `pip install -U mujoco` from 3.x to 4.0 leaves files of both versions (MuJoCo's changelog).
MUJOCO_REMEDY = "-m pip install --force-reinstall --no-deps mujoco mujoco-core mujoco-studio"
_ENV_TIMEOUT_S = 300
_MEASURE = "--measure"  # argument of the process that runs the environment


def main(argv: Sequence[str] | None = None, *, env: str | None = None) -> int:
    """Check this machine, print the results and return the exit status of the command.

    Args:
        argv: arguments `env=ID` and `seconds=NUMBER`; None: the arguments of the command line.
        env: Gymnasium id of the environment that is used if `argv` does not contain `env`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == [_MEASURE]:
        print(json.dumps(_measure(argv[1], float(argv[2]))), flush=True)
        os._exit(0)  # some drivers print a traceback at exit
    if argv[:1] and argv[0] in PARTS:
        return _examine_part(argv[0], argv[1:])
    settings = _parse(argv, {"env": env, "seconds": 2.0})
    env, seconds = settings["env"], settings["seconds"]
    print(f"examine this machine{f' and {env}' if env else ''}; this changes nothing", flush=True)
    remedies = examine(env, seconds)
    for line in remedies or ["nothing to do"]:
        _say("remedy", line)
    return 1 if remedies else 0


def _examine_part(name: str, argv: Sequence[str]) -> int:
    """Run the check of one simulator, in the package of the environments; return its status."""
    for package in ("envs", "toto_robot_envs"):
        module = f"{package}.{PARTS[name]}"
        if importlib.util.find_spec(package) and importlib.util.find_spec(module):
            return importlib.import_module(module).main(argv)
    sys.exit(f"doctor {name}: needs the environments: a checkout, or the wheel toto-robot-envs")


def examine(env: str | None = None, seconds: float = 2.0) -> list[str]:
    """Check this machine, print each result immediately, and return one line for each problem.

    A line says how to fix the problem.

    Args:
        env: Gymnasium id, or `module:function`, of an environment whose speed is measured; None: no
            environment.
        seconds: duration of each speed measurement, seconds.
    """
    remedies = []
    _say("python", f"{platform.python_version()}  {sys.executable}")
    _say("machine", f"{platform.platform()}, {num_cpus()} cores")
    _say("processor", processor())
    missing = []
    for name, extra in PACKAGES.items():
        try:
            _say(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            _say(name, f"not installed{f' (extra {extra})' if extra else ''}")
            missing += [] if extra else [name]
    if missing:
        remedies.append(f"{sys.executable} -m pip install {' '.join(missing)}")
    _say("graphics card", _graphics_card())
    return remedies + _examine_encoder(seconds) + _examine_drawing(env, seconds)


def _parse(argv: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a command line; exit with one line if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="toto-robot doctor",
        description=__doc__,
        epilog="settings:\n"
        + "\n".join(f"  {k}: {text} ({settings[k] or 'none'})" for k, text in SETTINGS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="env=ID, seconds=NUMBER")
    for setting in parser.parse_args(argv).settings:
        key, _, value = setting.partition("=")
        if key not in SETTINGS or not value:
            close = difflib.get_close_matches(key, SETTINGS, n=1)
            known = f"did you mean {close[0]}=...?" if close else "known: env=ID, seconds=NUMBER"
            sys.exit(f"doctor: unknown setting {setting!r}; {known}")
        settings[key] = value
    try:
        settings["seconds"] = float(settings["seconds"])
    except ValueError:
        sys.exit(f"doctor: seconds must be a number, got {settings['seconds']!r}")
    if not 0 < settings["seconds"] <= 60:
        sys.exit(f"doctor: seconds must be in (0, 60], got {settings['seconds']:g}")
    if settings["env"] in ("null", "none"):
        settings["env"] = None
    return settings


def _examine_drawing(env: str | None, seconds: float) -> list[str]:
    """Print which back ends work and an environment's speed; return lines about problems."""
    if importlib.util.find_spec("mujoco") is None:
        _say("rendering", "not tried: MuJoCo is not installed")
        return [] if env is None else _examine_environment(env, seconds, {}, None)
    _say("MUJOCO_GL", os.environ.get("MUJOCO_GL") or "not set; routes are tried")
    rates = {}
    for route in rendering.ROUTES:
        start = time.perf_counter()
        probe = rendering.probe(route, seconds / 4)
        found = f"no: {probe.detail}"
        if probe.works:
            rates[route] = probe.frames_per_s or 0.0
            took = time.perf_counter() - start
            found = f"works: {probe.detail}, {rates[route]:.0f} images/s of a box  ({took:.1f} s)"
        _say(f"  {route}", found)
    try:
        route = rendering.configure()
    except RuntimeError as error:
        return [str(error)]
    _say("used", route)
    if route in rates:
        configure = "toto_robot.rendering.configure() before mujoco is imported"
        by_hand = "" if route.endswith("-wheel") else f"export MUJOCO_GL={route}, or "
        _say("", f"in your own programs: {by_hand}{configure}")
        size = f"{rendering.BOX_PX} x {rendering.BOX_PX}"
        _say(
            "baseline",
            f"{rates[route]:.0f} images/s: MuJoCo renders a box, {size} pixels, no shadows",
        )
    if route == rendering.NONE and rates:
        return [f"MUJOCO_GL={os.environ['MUJOCO_GL']} turns rendering off: unset it"]
    remedies = [rendering.remedy()] if route == rendering.NONE else []
    return remedies + ([] if env is None else _examine_environment(env, seconds, rates, route))


def _examine_environment(
    env: str, seconds: float, rates: dict[str, float], used: str | None
) -> list[str]:
    """Print an environment's speed with the used back end; return the remedies if it fails."""
    _say("environment", env)
    result = _run_measurement(env, seconds)
    if "error" not in result:
        _say("speed", _describe_speed(result, rates.get(used or "")))
        return []
    _say("speed", f"fails: {result['error']}")
    if result["missing"] is not None:
        return [_missing_remedy(result["missing"])]
    if result["broken_mujoco"]:
        return [f"{sys.executable} {MUJOCO_REMEDY}"]
    if not result["may_be_the_route"] or not rates:
        return ["fix the error that the environment reports"]
    for route in rates:
        if route.removesuffix("-wheel") == (used or "").removesuffix("-wheel"):
            continue
        other = _run_measurement(env, seconds, MUJOCO_GL=route.removesuffix("-wheel"))
        if "error" not in other:
            _say(f"  {route}", _describe_speed(other, rates[route]))
            wheel = " and call toto_robot.rendering.configure()" if route.endswith("-wheel") else ""
            setting = f"export MUJOCO_GL={route.removesuffix('-wheel')}{wheel}"
            return [f"{env} renders with {route}, but not with {used}: {setting}"]
        _say(f"  {route}", f"fails: {other['error']}")
    return [f"{env} fails with each route that can render a box: fix the error that it reports"]


def _run_measurement(env: str, seconds: float, **variables: str) -> dict[str, Any]:
    """Measure an environment in a separate process, because a broken driver may kill it."""
    module = ["-W", "ignore", "-m", "toto_robot.doctor"]
    command = [sys.executable, *module, _MEASURE, env, str(seconds)]
    failed = {"missing": None, "broken_mujoco": False, "may_be_the_route": True}
    try:
        done = subprocess.run(
            command,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=_ENV_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return failed | {"error": f"not done within {_ENV_TIMEOUT_S} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    crashed = done.returncode < 0  # by a signal
    end = f"by {signal.Signals(-done.returncode).name}" if crashed else f"as {done.returncode}"
    return failed | {"error": f"its process ended {end}: {last}"}


def _measure(env: str, seconds: float) -> dict[str, Any]:
    """Return an environment's steps and images per second, or its error, as plain data."""
    import gymnasium

    try:
        if importlib.util.find_spec("mujoco") is not None:
            rendering.configure()
        return _rates(env, seconds)
    # Environments and drivers raise any exception, and this command reports all of them.
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        missing = error
        while not getattr(missing, "name", None) and missing.__cause__ is not None:
            missing = missing.__cause__  # Gymnasium raises its own error from the original one
        return {
            "error": f"{type(error).__name__}: {first[0]}",
            "missing": missing.name if isinstance(missing, ModuleNotFoundError) else None,
            "broken_mujoco": isinstance(error, ImportError) and "mujoco" in str(error.name),
            "may_be_the_route": not isinstance(error, ImportError | gymnasium.error.Error),
        }


def _rates(env_id: str, seconds: float) -> dict[str, Any]:
    """Return an environment's steps and images per second, as plain data.

    The environment is stepped with random actions, and rendered if it supports this.
    """
    import gymnasium

    module, _, name = env_id.partition(":")
    if name.isidentifier() and hasattr(package := importlib.import_module(module), name):
        env = getattr(package, name)()
    else:
        try:
            env = gymnasium.make(env_id, render_mode="rgb_array", disable_env_checker=True)
        except (TypeError, ValueError):  # it has no such mode
            env = gymnasium.make(env_id, disable_env_checker=True)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    env.step(env.action_space.sample())  # the first image loads the driver

    def step() -> None:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()

    result: dict[str, Any] = {
        "steps_per_s": _calls_per_s(step, seconds),
        "images": sum(1 for _ in _images(observation)),
    }
    if env.render_mode == "rgb_array":
        frame: Any = env.render()
        result["render_px"] = list(frame.shape[:2])
        result["renders_per_s"] = _calls_per_s(env.render, seconds)
    return result


def _calls_per_s(call: Callable[[], object], seconds: float) -> float:
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        count += 1
    return count / (time.perf_counter() - start)


def _images(observation: Any) -> Iterator[Any]:
    """Yield the images of an observation, at any depth of dictionaries.

    Images are uint8 [h w c] (height, width, channels) or stacks of t images [t h w c].
    """
    if isinstance(observation, dict):
        for value in observation.values():
            yield from _images(value)
    elif str(getattr(observation, "dtype", "")) == "uint8" and observation.ndim >= 3:
        yield observation


def _describe_speed(result: dict[str, Any], baseline: float | None) -> str:
    """Return a text with steps and images per second, compared with the baseline's speed."""

    def share(rate: float) -> str:
        return f", {baseline / rate:.1f} times the box's time" if baseline else ""

    text = f"{result['steps_per_s']:.0f} steps/s"
    if images := result["images"]:
        rate = images * result["steps_per_s"]
        text += f" with {images} image(s) each ({rate:.0f} images/s{share(rate)})"
    if "renders_per_s" in result:
        height, width = result["render_px"]
        rate = result["renders_per_s"]
        text += f"; render(): {rate:.0f} images/s of {height} x {width} pixels{share(rate)}"
    return text


def _missing_remedy(module: str) -> str:
    """Return a line that says how to install a module that an environment could not import."""
    top = module.partition(".")[0]
    extra = PACKAGES.get(top, "")
    if not extra:
        return f"there is no package {top!r} here: install it, or run where it is installed"
    checkout = Path(__file__).parents[1]
    inside = (checkout / "pyproject.toml").is_file()
    what = f"-e '{checkout}[{extra}]'" if inside else f"'toto-robot[{extra}]'"
    return f"{sys.executable} -m pip install {what}"


def processor() -> str:
    """Return the processor's name and its vector instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = set(about.get("flags", "").split())
    kinds = [kind for kind, flag in CPU_FLAGS.items() if flag in flags]
    name = about.get("model name", platform.machine())
    return f"{name}: {', '.join(kinds) or 'neither ' + ' nor '.join(CPU_FLAGS)}"


def _examine_encoder(seconds: float) -> list[str]:
    """Print the speeds of toto-nano and of a matrix product; return lines about problems."""
    try:
        import torch

        from .encoders.loading import load_encoder
        from .encoders.operations import SIDES, count_operations, measure_ceiling

        encoder = load_encoder(ENCODER)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        _say("encoder", f"{ENCODER} does not load: {error}")
        return [f"{sys.executable} -m pip install --force-reinstall --no-deps toto-robot"]
    image = torch.full((1, 128, 128, 3), 128, dtype=torch.uint8).numpy()
    squares = [torch.randn(side, side) for side in SIDES["cpu"]]
    with torch.no_grad():
        gflop = count_operations(lambda: encoder(image)) / 1e9
        product = measure_ceiling(squares)
        rate = _calls_per_s(lambda: encoder(image), seconds)
        product = max(product, measure_ceiling(squares))
    threads = torch.get_num_threads()
    _say("encoder", f"{1e3 / rate:.1f} ms an image ({ENCODER}, CPU, {threads} thread(s))")
    share = f"the encoder reaches {gflop * rate / product:.0%}"
    _say("baseline", f"{product:.0f} GFLOP/s in a matrix product of this machine; {share}")
    return []


def _graphics_card() -> str:
    """Return the name of the GPU that torch uses, or the reason why torch uses no GPU."""
    try:
        import torch
    except ImportError as error:
        return f"torch does not import: {error}"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    built = f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU torch"
    return f"none is used ({built})"


def _say(what: str, found: str) -> None:
    print(f"{what:16}{found}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
