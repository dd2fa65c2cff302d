"""Use the built wheel as a stranger would: in an empty environment, outside the checkout, offline.

    python tests/smoke_wheel.py dist/toto_robot-*.whl           # this environment's dependencies
    python tests/smoke_wheel.py --full dist/toto_robot-*.whl    # a true `pip install`, minutes

The first form makes a new virtual environment, installs the wheel alone into it, and lends it the
dependencies that are installed here (not the checkout: of a path file only the path counts, the
editable install's own path file is not read). Both forms run with the network cut.
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

MAX_WHEEL_MB = 45  # 40 of weights, and the code

STRANGER = """
import socket, sys, importlib.util

def refuse(*_, **__):
    raise OSError("the network is cut")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse

import numpy as np
import toto_robot
from toto_robot import load_encoder

assert toto_robot.__file__.startswith(sys.prefix), toto_robot.__file__
for name in ("envs", "policies", "real_robot"):
    assert importlib.util.find_spec(name) is None, f"{name} came with the wheel"
for name in ("hydra", "mujoco"):
    assert name not in sys.modules, f"{name} is imported by the library"

encoder = load_encoder("toto-nano")
frames = np.random.default_rng(0).integers(0, 256, (2, 120, 160, 3), np.uint8)
embedding = encoder(frames)
assert embedding.shape == (2, encoder.dim), embedding.shape
assert embedding.isfinite().all()
assert not embedding[0].equal(embedding[1])
ids = encoder.tokenize(frames)
assert encoder.from_tokens(ids).equal(embedding)
print(f"{toto_robot.__file__}: 2 frames -> {tuple(embedding.shape)}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--full", action="store_true", help="install the dependencies, too")
    arguments = parser.parse_args()
    wheel = arguments.wheel.resolve()
    check_content(wheel)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "stranger"
        venv.create(home)
        python = home / "bin/python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
        if arguments.full:
            subprocess.run([*pip, str(wheel)], check=True)
        else:
            subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
            (site,) = home.glob("lib/python*/site-packages")
            (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        done = subprocess.run([python, "-I", "-c", STRANGER], cwd=folder, check=False)
        sys.exit(done.returncode)


def check_content(wheel: Path) -> None:
    """Refuse a wheel that holds anything but the library, or too much of it."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    strange = {n.split("/")[0] for n in names if not n.startswith(("toto_robot/", "toto_robot-"))}
    if strange:
        sys.exit(f"{wheel.name} also holds {sorted(strange)}")
    megabytes = wheel.stat().st_size / 1e6
    if megabytes > MAX_WHEEL_MB:
        sys.exit(f"{wheel.name} is {megabytes:.0f} MB, more than {MAX_WHEEL_MB}")
    print(f"{wheel.name}: {len(names)} files, {megabytes:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
