"""`toto-robot doctor isaacgym worker_python=...`: check Isaac Gym on this machine, write a report.

    toto-robot doctor isaacgym worker_python=/opt/conda/envs/isaacgym/bin/python

Each check prints its result. The report is a JSON file with all results, to be sent to the
project. The exit status is 0 if there are no problems, and 1 otherwise.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from toto_robot.files import write_json

from .backend_check import run_experts
from .batch_manipulation import BatchManipulationEnv
from .catalogue import make_vec
from .experts import EXPERTS
from .simulation.mujoco_backend import MujocoSimulator
from .simulation.scene import Appearance

__all__ = ["main"]

ENVIRONMENT = "toto/FrankaPick-v0"
CONTRACT = Path("tests/envs/simulation/test_simulator_contract.py")
SETTINGS = {
    "worker_python": "the Python 3.8 in which Isaac Gym is installed",
    "device": "where Isaac Gym simulates: cuda:0, or another GPU",
    "num_envs": "number of worlds when the speed is measured",
    "contract": "yes: also run the tests that every simulator must pass (in a checkout); or no",
    "out": "the report",
}
DEFAULTS = {
    "device": "cuda:0",
    "num_envs": "64",
    "contract": "yes",
    "out": "isaacgym_report.json",
}
_MAX_ERROR_M = 1e-3
_SEED = 50
_CONTRACT_TIMEOUT_S = 900

Report = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Check Isaac Gym on this machine, print and write the results; return the exit status."""
    settings = _parse(sys.argv[1:] if argv is None else argv)
    print(
        f"check Isaac Gym with {settings['worker_python']}; this takes about a minute", flush=True
    )
    report: Report = {
        "toto_robot": importlib.metadata.version("toto-robot"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "graphics_card": _graphics_card(),
        "settings": settings,
    }
    problems = []
    for name, check in CHECKS.items():
        start = time.monotonic()
        try:
            report[name], found = check(settings)
        # Isaac Gym fails in many ways, and this command reports all of them.
        except Exception as error:
            text = str(error) or type(error).__name__
            report[name], found = {"error": text}, [text]
        took = time.monotonic() - start
        result = "; ".join(found) or "works"
        print(f"{name:16}{result}  {_short(report[name])}  ({took:.0f} s)", flush=True)
        problems += [f"{name}: {one.splitlines()[0]}" for one in found]
        if "error" in report[name] and name == "worker":
            break  # nothing else can work
    report["problems"] = problems
    out = Path(settings["out"])
    write_json(out, report)
    for line in problems or ["no problems"]:
        print(f"{'result':16}{line}")
    print(f"{'report':16}{out}: please send it to the project, also if all works", flush=True)
    return 1 if problems else 0


def _parse(argv: Sequence[str]) -> dict[str, str]:
    """Return the settings of a command line; exit with one line if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="toto-robot doctor isaacgym",
        description=__doc__,
        epilog="settings:\n"
        + "\n".join(f"  {k}: {text} ({DEFAULTS.get(k, 'needed')})" for k, text in SETTINGS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    settings = dict(DEFAULTS)
    for setting in parser.parse_args(argv).settings:
        key, _, value = setting.partition("=")
        if key not in SETTINGS or not value:
            known = ", ".join(f"{one}=..." for one in SETTINGS)
            sys.exit(f"doctor isaacgym: unknown setting {setting!r}; known: {known}")
        settings[key] = value
    if "worker_python" not in settings:
        sys.exit(f"doctor isaacgym: worker_python=... is needed: {SETTINGS['worker_python']}")
    if not settings["num_envs"].isdigit() or int(settings["num_envs"]) < 1:
        sys.exit(f"doctor isaacgym: num_envs must be at least 1, got {settings['num_envs']!r}")
    if settings["contract"] not in ("yes", "no"):
        sys.exit(f"doctor isaacgym: contract must be yes or no, got {settings['contract']!r}")
    return settings


def _make(settings: dict[str, str], env_id: str, num_envs: int, **options: Any) -> Any:
    return make_vec(
        env_id=env_id,
        num_envs=num_envs,
        backend="isaacgym",
        worker_python=settings["worker_python"],
        backend_options={"device": settings["device"]},
        **options,
    )


def _check_worker(settings: dict[str, str]) -> tuple[Report, list[str]]:
    """Start the worker, and import Isaac Gym and torch in it."""
    envs = _make(settings, ENVIRONMENT, 1, cameras=())
    versions = dict(envs.simulator.versions)
    envs.close()
    return versions, ["this is the fake of our tests, not Isaac Gym"] * versions["fake"]


def _check_description(settings: dict[str, str]) -> tuple[Report, list[str]]:
    """Compare the poses of the hand with those that the joint positions imply.

    This shows whether Isaac Gym reads our files as MuJoCo does.
    """
    errors: Report = {}
    for env_id in EXPERTS:
        envs: BatchManipulationEnv = _make(settings, env_id, 2, cameras=())
        envs.reset(seed=_SEED)
        envs.action_space.seed(0)
        for _ in range(5):
            envs.step(envs.action_space.sample())
        arm, simulator = envs.design.arm, envs.simulator
        joints, hands = simulator.joints(arm.joint_names)[0], simulator.bodies((arm.hand_body,))
        reference = MujocoSimulator()
        reference.build(envs.design.scene, arm)
        start = envs.design.task.sample_start(arm, np.random.default_rng(0))
        far = 0.0
        for row in range(2):
            reference.reset(replace(start, arm_rad=joints[row]), Appearance())
            expected = reference.bodies((arm.hand_body,))
            far = max(far, float(np.abs(hands[row, 0, :3] - expected[0, :3]).max()))
        reference.close()
        envs.close()
        errors[env_id] = far
    wrong = [f"{name}: the hand is {far:.4f} m away" for name, far in errors.items()
             if not far < _MAX_ERROR_M]  # fmt: skip
    return {"hand_error_m": errors}, wrong


def _check_rest(settings: dict[str, str]) -> tuple[Report, list[str]]:
    """Wait half a second, and measure whether the cube lies on the table with its weight."""
    envs: BatchManipulationEnv = _make(settings, ENVIRONMENT, 2, cameras=())
    envs.reset(seed=_SEED)
    before = envs.simulator.bodies(("cube",))[:, 0, :3]
    for _ in range(5):
        envs.step(0 * envs.action_space.sample())
    moved = np.abs(envs.simulator.bodies(("cube",))[:, 0, :3] - before).max()
    (mass,) = [box.mass_kg for box in envs.design.scene.boxes if box.name == "cube"]
    force = envs.simulator.contact_forces(("cube",))[:, 0] / (9.81 * (mass or 1.0))
    envs.close()
    found = {"moved_m": float(moved), "force_over_weight": force.tolist()}
    problems = [] if moved < 5e-3 else ["the cube does not stay on the table"]
    if not np.allclose(force, 1.0, atol=0.1):
        problems.append("the contact force on the cube is not its weight")
    return found, problems


def _check_images(settings: dict[str, str]) -> tuple[Report, list[str]]:
    """Compare the images of all cameras with those of MuJoCo, also flipped in all ways."""
    options = {"image_size": 128, "num_envs": 2, "env_id": ENVIRONMENT}
    ours: BatchManipulationEnv = make_vec(**options)
    theirs = _make(settings, **options)
    expected, _ = ours.reset(seed=_SEED)
    images, _ = theirs.reset(seed=_SEED)
    ours.close()
    theirs.close()
    flips: dict[str, Callable[[Any], Any]] = {
        "as it is": lambda image: image,
        "upside down": lambda image: image[:, ::-1],
        "mirrored": lambda image: image[:, :, ::-1],
        "rotated": lambda image: image[:, ::-1, ::-1],
        "red and blue exchanged": lambda image: image[..., ::-1],
    }
    report: Report = {}
    problems = []
    for key in [key for key in expected if key.startswith("image_")]:
        likeness = {
            name: float(np.corrcoef(flip(images[key]).ravel(), expected[key].ravel())[0, 1])
            for name, flip in flips.items()
        }
        report[key] = likeness
        best = max(likeness, key=lambda name: likeness[name])
        if best != "as it is":
            problems.append(f"{key} resembles MuJoCo's most when {best} ({likeness[best]:.2f})")
    return {"correlation": report}, problems


def _check_experts(settings: dict[str, str]) -> tuple[Report, list[str]]:
    """Run 8 episodes of each scripted expert, in the protocol `robot`."""
    successes = {}
    for env_id, expert_class in EXPERTS.items():
        envs = _make(settings, env_id, 8, cameras=(), privileged=True)
        steps = run_experts(envs, expert_class().act, range(_SEED, _SEED + 8))
        envs.close()
        successes[env_id] = sum(taken is not None for taken in steps)
    failing = [f"{name}: {count} of 8" for name, count in successes.items() if count < 6]
    return {"successes_of_8": successes}, failing


def _check_speed(settings: dict[str, str]) -> tuple[Report, list[str]]:
    """Measure control steps and images per second, over all worlds."""
    report: Report = {}
    count = int(settings["num_envs"])
    for name, options in {"states": {"cameras": ()}, "two images": {}}.items():
        envs = _make(settings, ENVIRONMENT, count, **options)
        envs.reset(seed=_SEED)
        actions = np.zeros(envs.action_space.shape, np.float32)
        envs.step(actions)
        start = time.monotonic()
        for _ in range(10):
            envs.step(actions)
        report[name] = {"control_steps_per_s": 10 * count / (time.monotonic() - start)}
        envs.close()
    return report | {"worlds": count}, []


def _check_contract(settings: dict[str, str]) -> tuple[Report, list[str]]:
    """Run the tests that every simulator must pass, in a checkout with pytest."""
    checkout = Path(__file__).parents[1]
    if settings["contract"] == "no" or not (checkout / CONTRACT).is_file():
        return {"skipped": "contract=no, or not in a checkout"}, []
    if importlib.util.find_spec("pytest") is None:
        return {"skipped": "pytest is not installed"}, []
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "not gpu",
            "-k",
            "isaacgym",
            "-rfE",
            str(CONTRACT),
        ],
        cwd=checkout,
        env={**os.environ, "TOTO_ROBOT_ISAACGYM_PYTHON": settings["worker_python"]},
        capture_output=True,
        text=True,
        timeout=_CONTRACT_TIMEOUT_S,
        check=False,
    )
    lines = done.stdout.splitlines() or [done.stderr]
    failed = re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)
    problems = [f"{len(failed)} tests fail: {', '.join(failed)}"] if failed else []
    if done.returncode and not failed:
        problems = [lines[-1]]
    return {"summary": lines[-1], "failed": failed, "output": done.stdout[-20_000:]}, problems


CHECKS: dict[str, Callable[[dict[str, str]], tuple[Report, list[str]]]] = {
    "worker": _check_worker,
    "description": _check_description,
    "rest": _check_rest,
    "images": _check_images,
    "experts": _check_experts,
    "speed": _check_speed,
    "contract": _check_contract,
}


def _graphics_card() -> str:
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not run: {error}"
    return done.stdout.strip() or done.stderr.strip()


def _short(result: Report) -> str:
    """Return a result in one line, without long texts."""
    kept = {key: value for key, value in result.items() if key not in ("error", "output")}
    return re.sub(r"(\d\.\d{3})\d+", r"\1", str(kept))[:300] if kept else ""


if __name__ == "__main__":
    sys.exit(main())
