"""Say what this machine has, what is used of it, how quickly it draws, and what to do if it cannot.

    python -m envs.doctor

ends with status 0 when the environments run with pictures, and 1 otherwise.
"""

import importlib.metadata
import os
import platform
import sys
import time

from toto_robot.device import num_cpus

from . import rendering

__all__ = ["examine", "main"]

# What the project uses, and the extra that brings it (none: the library itself needs it).
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
ENVIRONMENT = "envs:toto/FrankaPick-v0"
CAMERAS = ("hand", "front")
# `pip install -U mujoco` from 3.x to 4.0 leaves the parts of two versions (its own changelog).
MUJOCO_REMEDY = "-m pip install --force-reinstall --no-deps mujoco mujoco-core mujoco-studio"


def main() -> int:
    """Print the examination; give the exit status."""
    remedies = examine()
    for line in remedies or ["nothing to do"]:
        print(f"{'remedy':16}{line}")
    return 1 if remedies else 0


def examine() -> list[str]:
    """Print what is found, line by line as it is found; give what to do, one line each."""
    remedies = []
    _say("python", f"{platform.python_version()}  {sys.executable}")
    _say("machine", f"{platform.platform()}, {num_cpus()} cores")
    missing = []
    for name, extra in PACKAGES.items():
        try:
            _say(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            _say(name, "missing")
            missing.append(extra)
    if missing:
        extras = ",".join(sorted({extra for extra in missing if extra}))
        what = f".[{extras}]" if extras else "."
        remedies.append(f"in the checkout: {sys.executable} -m pip install -e '{what}'")
    _say("graphics card", _graphics_card())
    return remedies + _examine_rendering()


def measure_speed(seconds: float = 3.0) -> tuple[float, float]:
    """Run Franka-pick for a while; give frames and control steps per second of one process."""
    import gymnasium

    env = gymnasium.make(ENVIRONMENT, cameras=CAMERAS)
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        env.step(env.action_space.sample())  # the first picture loads the driver
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            steps += 1
            if terminated or truncated:
                env.reset()
        rate = steps / (time.perf_counter() - start)
    finally:
        env.close()
    return rate * len(CAMERAS), rate


def _examine_rendering() -> list[str]:
    remedies = []
    _say("MUJOCO_GL", os.environ.get("MUJOCO_GL") or "not set: chosen by trying")
    for route in rendering.ROUTES:
        start = time.perf_counter()
        probe = rendering.probe(route)
        took = f"  ({time.perf_counter() - start:.1f} s)" if probe.works else ""
        _say(f"  {route}", f"{'works' if probe.works else 'no'}: {probe.detail}{took}")
    try:
        route = rendering.configure()
    except RuntimeError as error:
        return [str(error)]
    _say("used", route)
    if route == rendering.NONE:
        return [rendering.remedy()]
    try:
        frames, steps = measure_speed()
    except ImportError as error:
        _say("speed", f"mujoco does not import: {error}")
        remedies.append(f"{sys.executable} {MUJOCO_REMEDY}")
    # A driver fails in its own ways, and this is the command that has to tell them.
    except Exception as error:
        _say("speed", f"{ENVIRONMENT} does not draw: {type(error).__name__}: {error}")
        remedies.append(
            f"the route {route} draws a box but not the scene: try another, "
            f"MUJOCO_GL={'osmesa' if route == 'egl' else 'egl'} python -m envs.doctor"
        )
    else:
        pictures = " + ".join(CAMERAS)
        _say("speed", f"{frames:.0f} frames/s, {steps:.0f} steps/s (Franka-pick, {pictures})")
    return remedies


def _graphics_card() -> str:
    """Say what torch computes on."""
    try:
        import torch
    except ImportError as error:
        return f"torch does not import: {error}"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    built = f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU torch"
    return f"none is used ({built}; `make demo TORCH=cuda` installs a torch for NVIDIA cards)"


def _say(what: str, found: str) -> None:
    print(f"{what:16}{found}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
