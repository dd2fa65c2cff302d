"""Use the built wheels as a stranger would: in empty environments, outside the checkout, offline.

    python tests/smoke_wheel.py dist/*.whl           # this environment's dependencies
    python tests/smoke_wheel.py --full dist/*.whl    # a true `pip install`, minutes

The first form makes a new virtual environment per wheel, installs the wheel into it (and the
library's, which the environments need), and lends it the dependencies that are installed here (not
the checkout: of a path file only the path counts, the editable install's own path file is not
read). Both forms run with the network cut, in worker processes, too.
"""

import argparse
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

LIBRARY, ENVIRONMENTS = "toto_robot", "toto_robot_envs"
MAX_WHEEL_MB = {LIBRARY: 45, ENVIRONMENTS: 1}  # 40 of weights, and the code

# `sitecustomize` of the new environment, so that it also holds in every process started there.
NO_NETWORK = """
import socket

def refuse(*_, **__):
    raise OSError("the network is cut")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""

README = (Path(__file__).parents[1] / "README.md").read_text()
(README_SNIPPET,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

ALONE = """
import importlib.util, socket, sys

assert socket.getaddrinfo.__module__ == "sitecustomize", "the network is not cut"
for name in ("envs", "policies", "real_robot"):
    assert importlib.util.find_spec(name) is None, f"{name} came with the wheel"
"""

USE = {
    LIBRARY: """
import numpy as np
import toto_robot
from toto_robot import load_encoder

assert toto_robot.__file__.startswith(sys.prefix), toto_robot.__file__
assert importlib.util.find_spec("toto_robot_envs") is None
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
""",
    ENVIRONMENTS: """
import gymnasium
import numpy as np

first = gymnasium.make("toto_robot_envs:toto/FrankaPick-v0", cameras=(), privileged=True)
import toto_robot_envs
from toto_robot_envs.simulation.mujoco_model import ROUTE
from toto_robot_envs.vector import make_vec

assert toto_robot_envs.__file__.startswith(sys.prefix), toto_robot_envs.__file__
assert type(first.unwrapped).__module__ == "toto_robot_envs.manipulation"
cameras = () if ROUTE == "none" else ("front",)
for name in toto_robot_envs.ENVIRONMENTS:
    options = dict(cameras=cameras, image_size=32, privileged=True)
    env = gymnasium.make(f"toto_robot_envs:{name}", **options)
    observation, _ = env.reset(seed=0)
    for camera in cameras:
        image = observation[f"image_{camera}"]
        assert image.shape == (32, 32, 3), image.shape
        assert image.std() > 5, f"{name}: the image is empty"
    action = env.action_space.sample()
    stepped, *_ = env.step(action)
    assert env.observation_space.contains(stepped)
    env.close()

envs = make_vec(f"toto_robot_envs:{name}", 2, 2, **options)
assert envs.num_workers == 2
reset, _ = envs.reset(seed=[0, 0])
after, *_ = envs.step(np.stack([action, action]))
envs.close()
for key, value in observation.items():
    for row in range(2):
        assert np.array_equal(reset[key][row], value), f"{key}: a worker resets otherwise"
        assert np.array_equal(after[key][row], stepped[key]), f"{key}: a worker steps otherwise"
print(f"{toto_robot_envs.__file__}: 4 environments, 2 workers, images by {ROUTE}")

import subprocess

doctor = [sys.executable, "-I", "-m", "toto_robot_envs.doctor", "seconds=0.1"]
done = subprocess.run(doctor, capture_output=True, text=True)
assert "steps/s with 2 image(s) each" in done.stdout or ROUTE == "none", done.stdout + done.stderr
for line in done.stdout.splitlines():
    if line.startswith(("speed", "remedy")):
        print(line)
""",
}

# Data of a user, with odd names; made by the library's own dependencies.
DATA = """
from pathlib import Path

import cv2
import numpy as np
from toto_robot.data.video import write_video

generator = np.random.default_rng(0)
image = np.kron(generator.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
for folder in ("my images, (1)", "my clips", "episodes"):
    Path(folder).mkdir()
for number in range(3):
    moving = [np.roll(image, 2 * t + number, axis=1) for t in range(40)]
    cv2.imwrite(f"my images, (1)/{number}.png", moving[0])
    write_video(Path(f"my clips/{number}.mp4"), moving, 10)
    steps = 12
    labels = generator.normal(size=(steps - 1, 2)).astype(np.float32)
    frames = np.stack(moving[:steps])[:, None]
    np.savez(f"episodes/{number}.npz", frames=frames, labels=labels)
"""

# Every command of the library that a user of the wheel begins with, as it is typed.
COMMANDS = {
    LIBRARY: """
toto-robot from_videos videos='my clips' stride=1 out=mine validation_sequences=1 golden_frames=1
    'stages=[{steps: 2, frames: 2, batch: 1, part: 1}]'
toto-robot encode 'images=my images, (1)' out=images.npy
toto-robot encode 'images=my clips/*.mp4' out=clips.parquet encoder=stream every_s=1
toto-robot sweep data=episodes out=sweep folds=3 stride=2 pools=[mean] resamples=100
toto-robot latency out=latency repeats=20 num_cameras=1 camera_height=48 camera_width=64
toto-robot export out=export height=48 width=64 context=null check_steps=2
toto-robot generate 'prompt=my clips/0.mp4' out=generate prompt_frames=2 frames=1 samples=1
""",
    ENVIRONMENTS: """
toto-robot play episodes=1 out=play
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", type=Path, nargs="+", help="the library's, and others")
    parser.add_argument("--full", action="store_true", help="install the dependencies, too")
    arguments = parser.parse_args()
    wheels = {path.name.partition("-")[0]: path.resolve() for path in arguments.wheels}
    if LIBRARY not in wheels or not wheels.keys() <= USE.keys():
        sys.exit(f"wheels of {', '.join(USE)} are wanted, got {', '.join(wheels)}")
    for name, wheel in wheels.items():
        check_content(name, wheel)
        use(name, {wheels[LIBRARY], wheel}, full=arguments.full)


def use(name: str, wheels: set[Path], *, full: bool) -> None:
    """Install wheels into an empty environment and run what a stranger does with one of them."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "stranger"
        venv.create(home)
        python = home / "bin/python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
        only = [] if full else ["--no-deps", "--no-index"]
        subprocess.run([*pip, *only, *map(str, wheels)], check=True)
        (site,) = home.glob("lib/python*/site-packages")
        (site / "sitecustomize.py").write_text(NO_NETWORK)
        if not full:
            (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        snippet = README_SNIPPET if name == ENVIRONMENTS else ""
        code = ALONE + USE[name] + snippet
        done = subprocess.run([python, "-I", "-c", code], cwd=folder, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        subprocess.run([python, "-I", "-c", DATA], cwd=folder, check=True)
        for line in COMMANDS[name].strip().replace("\n    ", " ").splitlines():
            program, *words = shlex.split(line)
            call = [python, "-I", str(home / "bin" / program), *words]
            done = subprocess.run(call, cwd=folder, check=False, capture_output=True, text=True)
            if done.returncode or "results:" not in done.stdout:
                sys.exit(f"{line}\n{done.stdout}\n{done.stderr}")
            print(line, "->", done.stdout.rstrip().splitlines()[-1])


def check_content(name: str, wheel: Path) -> None:
    """Refuse a wheel that holds anything but its package, or too much of it."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    strange = {n.split("/")[0] for n in names if not n.startswith((f"{name}/", f"{name}-"))}
    if strange:
        sys.exit(f"{wheel.name} also holds {sorted(strange)}")
    megabytes = wheel.stat().st_size / 1e6
    if megabytes > MAX_WHEEL_MB[name]:
        sys.exit(f"{wheel.name} is {megabytes:.0f} MB, more than {MAX_WHEEL_MB[name]}")
    print(f"{wheel.name}: {len(names)} files, {megabytes:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
