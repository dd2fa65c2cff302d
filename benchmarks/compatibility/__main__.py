"""Wrap popular third-party environments in one line each, and write the table: `make compat`.

    python -m benchmarks.compatibility [NAME ...]

Each set of packages has a virtual environment of its own below ~/.cache/toto-robot, which is kept.
The wheel of this checkout is installed into it beside the packages' own pins. Results: the table in
docs/compatibility.md (with all cases only), and runs/compatibility/contact_sheet.png with the image
that the encoder saw of each.
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

from .cases import CASES, Case

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "toto-robot" / "compat"
OUT = ROOT / "runs" / "compatibility"
PAGE = ROOT / "docs" / "compatibility.md"
COMMON = ("torch==2.13.0", "opencv-python-headless>=4.9", "packaging")
HEAD = """# Third-party environments

`make compat` wraps each environment of this table in one line, in a virtual environment of its own
packages: as a single environment and as a `SyncVectorEnv`. It checks the spaces, and writes the
images that the encoder is given to `runs/compatibility/contact_sheet.png`. Rates are steps per
second on {machine}, rendering included, without and with toto-nano.

| environment | packages | one line | embedded | steps/s without / with | notes |
|---|---|---|---|---|---|
"""


def main() -> None:
    """Run the cases that are named, or all; exit with 1 if one failed."""
    wanted = sys.argv[1:]
    cases = [case for case in CASES if not wanted or any(w in case.name for w in wanted)]
    print(f"# {len(cases)} environments; virtual environments in {CACHE}", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip"]
        build = [*pip, "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        results = {case.name: _run(case, wheel) for case in cases}
    _contact_sheet(cases)
    failed = [name for name, result in results.items() if "error" in result]
    if not wanted:
        rows = [_row(case, results[case.name]) for case in cases]
        PAGE.write_text(HEAD.format(machine=_machine()) + "\n".join(rows) + "\n")
        print(f"table: {PAGE}")
    print(f"images: {OUT / 'contact_sheet.png'}")
    print(f"{len(cases) - len(failed)} of {len(cases)} environments: wrapped in one line")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(case: Case, wheel: Path) -> dict[str, Any]:
    """Return what the child process measured, or its error."""
    python = _environment(case, wheel)
    if python is None:
        return {"error": "its packages could not be installed"}
    child = Path(__file__).with_name("child.py")
    image = OUT / f"{case.name.split(' ')[0].lower()}.png"
    call = [python, "-I", child, json.dumps(asdict(case)), image]
    done = subprocess.run(call, capture_output=True, text=True, timeout=900)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"FAILED  {case.name}: {error}", flush=True)
        return {"error": error}
    result = json.loads(lines[-1].removeprefix("RESULT "))
    print(f"ok      {case.name}: {result['rate']:.0f} steps/s, {result['cameras']}", flush=True)
    return result


def _environment(case: Case, wheel: Path) -> Path | None:
    """Return the Python of the case's virtual environment, made where it is not there."""
    packages = (*COMMON, *case.packages)
    key = hashlib.sha256(repr((packages, sys.version_info[:2])).encode()).hexdigest()[:12]
    home = CACHE / key
    python = home / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q"]
    if not (home / "complete").exists():
        print(f"install {' '.join(case.packages)}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        if subprocess.run([*install, *packages, str(wheel)]).returncode:
            return None
        (home / "complete").touch()
    force = ["--no-deps", "--force-reinstall"]
    subprocess.run([*install, *force, str(wheel)], check=True)
    return python


def _row(case: Case, result: dict[str, Any]) -> str:
    packages = ", ".join(f"`{package}`" for package in case.packages)
    if "error" in result:
        seen, rates = f"**failed**: {result['error']}", ""
    else:
        seen = "; ".join(result["cameras"])
        rates = f"{result['raw_rate']:.0f} / {result['rate']:.0f}"
    return f"| {case.name} | {packages} | `{case.line}` | {seen} | {rates} | {case.notes} |"


def _contact_sheet(cases: list[Case]) -> None:
    """Draw the images that the encoder saw, each with its name, into one file."""
    from toto_robot.plots import drawing

    found = [(case, OUT / f"{case.name.split(' ')[0].lower()}.png") for case in cases]
    found = [(case, path) for case, path in found if path.is_file()]
    if not found:
        return
    import cv2

    sheet = OUT / "contact_sheet.png"
    with drawing(sheet, columns=len(found), width=2.6 * len(found), height=3) as (_, panels):
        for (case, path), panel in zip(found, panels, strict=True):
            image = cv2.imread(str(path))
            assert image is not None
            panel.imshow(image[..., ::-1])
            panel.set_title(case.name, fontsize="small")
            panel.set_axis_off()


def _machine() -> str:
    from toto_robot.doctor import _processor

    return _processor()


if __name__ == "__main__":
    main()
