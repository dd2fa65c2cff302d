"""Run the recipes of docs/frameworks.md, each in a virtual environment of its framework.

    python -m benchmarks.compatibility.frameworks [NAME ...]

For each framework: install its packages and the wheel of this checkout, run the section's Python
code as it is on the page, then run the checks of `tests/frameworks`. `make compat` runs this, too.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

from .__main__ import CACHE, ROOT

__all__ = ["FRAMEWORKS", "Framework", "recipe"]

PAGE = ROOT / "docs" / "frameworks.md"
CHECKS = ROOT / "tests" / "frameworks"
SECONDS = 1200  # limit for one program
# PyPI has torchvision only for CUDA builds of torch. With a CPU build, two of its operators are not
# defined, and importing it fails. robomimic uses no operator of torchvision.
TORCHVISION = """
try:
    import torchvision
except RuntimeError:
    import torch
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Framework:
    """One framework.

    Attributes:
        section: title of its section in docs/frameworks.md.
        name: name of the virtual environment, and of the file `tests/frameworks/check_<name>.py`.
        packages: requirements besides toto-robot, with their dependencies.
        alone: requirements that are installed without their dependencies.
        python: version of the interpreter; empty: the version that runs this command.
        before: code that runs before the recipe and the checks.
    """

    section: str
    name: str
    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    python: str = ""
    before: str = ""


FRAMEWORKS = (
    Framework(
        section="TorchRL",
        name="torchrl",
        packages=("torch==2.13.0", "torchrl==0.14.1", "gymnasium[classic-control]==1.4.0"),
    ),
    Framework(
        section="Isaac Lab",
        name="isaaclab",
        # with all dependencies, Isaac Lab is a simulator of many GB that needs an NVIDIA GPU
        packages=("torch==2.11.0", "lazy_loader", "packaging", "prettytable", "warp-lang==1.17.0"),
        alone=("isaaclab==3.0.0",),
        python="3.12",
    ),
    Framework(
        section="robomimic",
        name="robomimic",
        packages=(
            *("torch==2.13.0", "torchvision==0.28.0", "h5py", "psutil", "six", "termcolor"),
            *("tensorboard", "tensorboardX", "imageio", "imageio-ffmpeg", "matplotlib", "tqdm"),
        ),
        alone=("robomimic==0.3.0",),  # its dependency egl_probe is compiled, and is only for EGL
        before=TORCHVISION,
    ),
)


def main() -> None:
    """Run the frameworks that are named, or all; exit with 1 if one failed."""
    wanted = sys.argv[1:]
    chosen = [one for one in FRAMEWORKS if not wanted or one.name in wanted]
    if unknown := set(wanted) - {one.name for one in chosen}:
        names = ", ".join(one.name for one in FRAMEWORKS)
        sys.exit(f"unknown: {', '.join(unknown)}; the frameworks are: {names}")
    print(f"# recipes of {len(chosen)} frameworks; virtual environments in {CACHE}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        failed = [one.name for one in chosen if not _run(one, wheel)]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} frameworks: recipe and checks passed")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def recipe(section: str) -> str:
    """Return the first Python code of a section of docs/frameworks.md.

    Raises:
        ValueError: the page has no such section, or the section has no code.
    """
    for text in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        code = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if text.splitlines()[0] == section and code:
            return code[1]
    raise ValueError(f"{PAGE} has no section {section!r} with Python code")


def _run(framework: Framework, wheel: Path) -> bool:
    """Install a framework, and run its recipe and its checks."""
    python = _environment(framework, wheel)
    check = CHECKS / f"check_{framework.name}.py"
    programs = {"recipe": recipe(framework.section), "checks": check.read_text()}
    for what, program in programs.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "program.py"  # a file, so that processes can be spawned
            file.write_text(framework.before + program)
            done = subprocess.run(
                [python, "-I", file], cwd=folder, capture_output=True, text=True, timeout=SECONDS
            )
        if done.returncode:
            print(f"FAILED  {framework.name}, {what}:", textwrap.indent(done.stderr, "  "))
            return False
        passed = len(re.findall(r"^ok ", done.stdout, re.MULTILINE))
        print(f"ok      {framework.name}: {what}" + (f", {passed} passed" if passed else ""))
    return True


def _environment(framework: Framework, wheel: Path) -> Path:
    """Return the Python of a framework's virtual environment, which is made if it is missing."""
    home = CACHE / framework.name
    python = home / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q"]
    made = home / "installed.txt"
    lines = "\n".join((framework.python, *framework.packages, *framework.alone))
    if not made.is_file() or made.read_text() != lines:
        print(f"install {' '.join((*framework.packages, *framework.alone))}", flush=True)
        subprocess.run([_interpreter(framework.python), "-m", "venv", "--clear", home], check=True)
        subprocess.run([*install, *framework.packages, str(wheel)], check=True)
        for package in framework.alone:
            subprocess.run([*install, "--no-deps", package], check=True)
        made.write_text(lines)
    subprocess.run([*install, "--no-deps", "--force-reinstall", str(wheel)], check=True)
    return python


def _interpreter(version: str) -> str:
    """Return an interpreter of a version; pyenv's are found even if they are not active."""
    installed = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    for place in [f"python{version}", *map(str, installed)] if version else [sys.executable]:
        if (
            shutil.which(place)
            and not subprocess.run([place, "-V"], capture_output=True).returncode
        ):
            return place
    sys.exit(f"Python {version} is needed, and was not found")


if __name__ == "__main__":
    main()
