"""A Python in which `import isaacgym` gives the stand-in: the `worker_python` of the tests."""

import os
import subprocess
import sys
from pathlib import Path

FAKE = Path(__file__).parent / "fake_isaacgym"


def fake_python(folder: Path, python: str = sys.executable, faults: str = "") -> Path:
    """Write a program that starts a Python with the stand-in on its path, and return its path.

    `faults` is described in fake_isaacgym/isaacgym.py.
    """
    program = folder / f"python-with-fake-{len(list(folder.iterdir()))}"
    program.write_text(
        "#!/bin/sh\n"
        f"export PYTHONPATH='{FAKE}' FAKE_ISAACGYM='{faults}' PYTHONWARNINGS=ignore\n"
        f"exec '{python}' \"$@\"\n"
    )
    program.chmod(0o755)
    return program


def python38() -> str | None:
    """Return a Python 3.8 with numpy, torch and mujoco, or None.

    TOTO_ROBOT_PYTHON38 names it; otherwise it is looked for where docs/isaac_gym.md installs it.
    """
    default = Path.home() / ".cache/toto-robot/compat/isaac38/bin/python"
    python = os.environ.get("TOTO_ROBOT_PYTHON38", str(default))
    if not Path(python).is_file():
        return None
    check = "import sys, numpy, torch, mujoco; sys.exit(sys.version_info[:2] != (3, 8))"
    done = subprocess.run([python, "-c", check], capture_output=True, check=False)
    return python if done.returncode == 0 else None
