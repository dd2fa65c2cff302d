"""Wrap popular third-party environments in one line each, and write the table: `make compat`.

    python -m benchmarks.compatibility [NAME ...]

Each set of packages has a virtual environment of its own below ~/.cache/toto-robot, which is kept.
The wheel of this checkout is installed into it beside the packages' own pins. Each check runs in a
process of its own; one that fails is a row that says so. Results that are not out of date are kept
in runs/compatibility, so that the command continues where it was stopped. The table is written to
docs/compatibility.md (with all cases only), and the image that the encoder was given of each to
contact_sheet.png.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toto_robot.doctor import processor
from toto_robot.files import write_json

from .cases import CASES, Case

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "toto-robot" / "compat"
OUT = ROOT / "runs" / "compatibility"
PAGE = ROOT / "docs" / "compatibility.md"
CHILD = Path(__file__).with_name("child.py")
COMMON = ("torch==2.13.0", "opencv-python-headless>=4.9", "packaging", "stable-baselines3==2.9.0")
NOT_RUN = "not run"
TIMEOUT_S = 900  # of a check
TILE_PX = 256  # side of an image of the contact sheet, without its title
CHECKS = {
    "single": "one",
    "sync_vector": "`SyncVectorEnv`",
    "async_vector": "`AsyncVectorEnv`",
    "dummy_vec_env": "PPO, `DummyVecEnv`",
    "subproc_vec_env": "PPO, `SubprocVecEnv`",
}
HEAD = """# Third-party environments

`make compat` tests the environments of this table. For each environment, one line of code replaces
the images in the observations by embeddings of toto-nano. This line and the required packages are
below the table. Environments with the same packages share a virtual environment. The columns are:

- `one`: one environment.
- `SyncVectorEnv`, `AsyncVectorEnv`: two environments in a vector environment of Gymnasium.
- `PPO`: a few steps of Stable-Baselines3's PPO on two environments.
- `steps/s without / with`: steps per second of one environment, including rendering, without and
  with toto-nano. Each rate is one measurement of at most 20 steps on two cores ({machine}), without
  a GPU. Many other programs ran at the same time, so the rates show only the order of magnitude.

`yes` means that the check passed, and `not run` that it has not been run yet.

The command writes the images that the encoder received to `runs/compatibility/contact_sheet.png`.

- The library does not require MuJoCo. It was installed together with the version of MuJoCo that
  each package requires; Meta-World, for example, requires exactly 3.3.0. If no image can be
  rendered, run `toto-robot doctor` in the same virtual environment: it prints which `MUJOCO_GL` to
  export, or what to install.
- `AsyncVectorEnv` is created with `context="forkserver"`. If a process is forked after a renderer
  was opened, the new process can hang in Mesa's software renderer. This happens with Franka
  Kitchen.
- Two packages do not work: gym-xarm 0.1.1 needs a Gymnasium before 1.0, and the wheel of hf-libero
  0.1.4 does not contain the meshes of its objects.
"""


def main() -> None:
    """Run the cases that are named, or all; exit with 1 if one failed."""
    wanted = [name.lower() for name in sys.argv[1:]]
    cases = [case for case in CASES if not wanted or any(w in case.name.lower() for w in wanted)]
    if not cases:
        sys.exit(f"no environment is called {' or '.join(wanted)}: {[case.name for case in CASES]}")
    print(f"# {len(cases)} environments; virtual environments in {CACHE}", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip"]
        build = [*pip, "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        results = {case.name: _result(case, wheel) for case in cases}
    _contact_sheet(cases)
    failed = [name for name, result in results.items() if _errors(result)]
    if not wanted:
        PAGE.write_text(_page(results))
        print(f"table: {PAGE}")
    print(f"images: {OUT / 'contact_sheet.png'}")
    print(f"{len(cases) - len(failed)} of {len(cases)} environments: all checks passed")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _result(case: Case, wheel: Path) -> dict[str, Any]:
    """Return the result of each check of a case: kept from an earlier run, or measured now."""
    parts = [repr((COMMON, case)).encode(), CHILD.read_bytes(), wheel.read_bytes()]
    key = hashlib.sha256(b"".join(parts)).hexdigest()
    file = OUT / f"{case.stem}.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if result.get("key") != key:
        result = {"key": key}
    missing = [check for check in CHECKS if "error" in result.get(check, {"error": NOT_RUN})]
    python = _environment(case, wheel) if missing else None
    for check in missing:
        error = {"error": "its packages cannot be installed"}
        result[check] = error if python is None else _check(python, check, case)
        print(f"{case.name}, {check}: {result[check].get('error', 'ok')}", flush=True)
        write_json(file, result)
    return result


def _check(python: Path, check: str, case: Case) -> dict[str, Any]:
    """Return what a check in a process of its own found, or its error."""
    described = json.dumps(asdict(case) | {"line": case.line})
    call = [python, "-I", CHILD, check, described, OUT / f"{case.stem}.png"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=OUT)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {TIMEOUT_S} s"}
    (OUT / f"{case.stem}_{check}.txt").write_text(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode == 0 and lines:
        return json.loads(lines[-1].removeprefix("RESULT "))
    return {"error": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}


def _environment(case: Case, wheel: Path) -> Path | None:
    """Return the Python of the case's virtual environment, made where it is not there."""
    packages = (*COMMON, *case.packages)
    key = hashlib.sha256(repr((packages, sys.version_info[:2])).encode()).hexdigest()[:12]
    home = CACHE / key
    python = home / "bin" / "python"
    complete = home / "complete"  # contains the hash of the installed wheel
    install = [python, "-m", "pip", "install", "-q"]
    wanted = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if not complete.exists():
        print(f"install {' '.join(case.packages)}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        if subprocess.run([*install, *packages, str(wheel)]).returncode:
            return None
    elif complete.read_text() != wanted:  # a change of the library, with the same version
        subprocess.run([*install, str(wheel)], check=True)
        subprocess.run([*install, "--no-deps", "--force-reinstall", str(wheel)], check=True)
    complete.write_text(wanted)
    return python


def _errors(result: dict[str, Any]) -> dict[str, str]:
    found = {check: result.get(check, {"error": NOT_RUN}) for check in CHECKS}
    return {check: one["error"] for check, one in found.items() if "error" in one}


def _page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page: the table, and how each environment was made."""
    columns = ["environment", *CHECKS.values(), "steps/s without / with", "notes"]
    lines = [HEAD.format(machine=processor())]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [_row(case, results[case.name]) for case in CASES]
    for case in CASES:
        packages = " ".join(f'"{package}"' for package in case.packages)
        lines += ["", f"## {case.name}", "", "```", f"pip install {packages}", "```", ""]
        lines += ["```", "import gymnasium", "from toto_robot import TotoObservation", ""]
        lines += [*case.setup, "", case.line]
        lines += [f"env = {case.sb3}  # for Stable-Baselines3"] if case.sb3 else []
        cameras = results[case.name].get("single", {}).get("cameras", ())
        errors = _errors(results[case.name])
        lines += ["```", "", *(f"Embedded: {text}." for text in cameras)]
        lines += [f"{CHECKS[check]}: `{error}`" for check, error in errors.items()]
    return "\n".join(lines) + "\n"


def _row(case: Case, result: dict[str, Any]) -> str:
    errors = _errors(result)
    marks = [{None: "yes", NOT_RUN: NOT_RUN}.get(errors.get(check), "no") for check in CHECKS]
    one = result.get("single", {})
    rates = " / ".join(
        f"{float(f'{one[key]:.2g}'):g}" for key in ("raw_rate", "rate") if key in one
    )
    link = "".join(c for c in case.name.lower().replace(" ", "-") if c.isalnum() or c in "-_")
    notes = "; ".join([*one.get("quirks", ()), *([case.notes] if case.notes else [])])
    return f"| {' | '.join([f'[{case.name}](#{link})', *marks, rates, notes])} |"


def _contact_sheet(cases: list[Case]) -> None:
    """Draw the images that the encoder saw, each with its name, into one file."""
    import cv2
    import numpy as np

    tiles = []
    for case in cases:
        if (image := cv2.imread(str(OUT / f"{case.stem}.png"))) is not None:
            tile = cv2.copyMakeBorder(cv2.resize(image, (TILE_PX, TILE_PX)), 24, 0, 4, 4, 0)
            cv2.putText(tile, case.name, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,) * 3)
            tiles.append(tile)
    if tiles:
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 5)
        rows = [np.hstack(tiles[start : start + 5]) for start in range(0, len(tiles), 5)]
        cv2.imwrite(str(OUT / "contact_sheet.png"), np.vstack(rows))


if __name__ == "__main__":
    main()
