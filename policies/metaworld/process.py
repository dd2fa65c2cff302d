"""Start the process that runs Meta-World (`worker.py`), and call it.

with SuiteProcess(python, log) as suite:
suite.open("push-v3", scene, appearance="same")
state = suite.reset([0, 1])
"""

import io
import json
import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from toto_robot.config import to_dict

__all__ = [
    "Appearance",
    "SceneConfig",
    "State",
    "SuiteProcess",
    "install_metaworld",
    "require_python",
]

WORKER = Path(__file__).with_name("worker.py")
# metaworld requires mujoco 3.3.0. gymnasium's renderer for MuJoCo imports packaging, but gymnasium
# does not require it.
PACKAGES = ("metaworld==3.1.1", "packaging")
PROPRIO = ("hand_x", "hand_y", "hand_z", "gripper_opening")
OBJECT = slice(4, 7)  # position of the first object in an observation of Meta-World
Appearance = Literal["same", "changed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneConfig:
    """Settings of the images and of the demonstrations.

    Attributes:
        cameras: names of the cameras. Without cameras, nothing is rendered.
        image_size: height and width of the images, pixels.
        shadows: true to render shadows and reflections. Without a GPU, they make an image 5
            times slower.
        samples: number of samples per pixel for antialiasing; 0: no antialiasing.
        demonstrations: number of successful episodes of the scripted expert per task.
        steps_after_success: number of steps for which a demonstration continues after success.
        max_steps: maximum number of steps of the expert; an episode that is longer is a failure.
    """

    cameras: tuple[str, ...]
    image_size: int
    shadows: bool
    samples: int
    demonstrations: int
    steps_after_success: int
    max_steps: int

    def __post_init__(self) -> None:
        if self.demonstrations < 5:
            raise ValueError(f"demonstrations must be at least 5, got {self.demonstrations}")
        if min(self.image_size, self.max_steps) < 1:
            raise ValueError("image_size and max_steps must be at least 1")
        if min(self.steps_after_success, self.samples) < 0:
            raise ValueError("steps_after_success and samples must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class State:
    """The observations and the success of b running episodes after a step.

    Attributes:
        frames: uint8 [b c h w 3], the images of c cameras, upright.
        proprio: float32 [b 4], position of the hand (m) and opening of the gripper, in [0, 1].
        objects: float32 [b 3], position of the first object, m.
        success: bool [b].
    """

    frames: NDArray[np.uint8]
    proprio: NDArray[np.float32]
    objects: NDArray[np.float32]
    success: NDArray[np.bool_]


class SuiteProcess:
    """The process that runs Meta-World, used as a context manager."""

    def __init__(self, python: Path, log: Path) -> None:
        """Start the process.

        Args:
            python: the Python of the environment in which Meta-World is installed.
            log: file for the warnings and errors of the process.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        # no folder of this project precedes the packages of the other environment
        environment = {"MUJOCO_GL": "egl", **os.environ, "PYTHONSAFEPATH": "1"}
        for name in ("PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(name, None)
        reading, writing = os.pipe()
        self._answers = os.fdopen(reading, "rb")
        with log.open("ab") as printed, os.fdopen(writing, "wb"):
            self._process = subprocess.Popen(
                [python, WORKER, str(writing)],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                pass_fds=(writing,),
                env=environment,
            )

    def open(self, task: str, scene: SceneConfig, appearance: Appearance) -> list[str]:
        """Open a task, and return the versions of the packages.

        Raises:
            ValueError: the task or a camera is unknown, or the process failed.
        """
        data = to_dict(scene)
        images = {name: data[name] for name in _IMAGES}
        answer = self._call("open", task=task, **images, appearance=appearance)
        return [str(one) for one in answer["versions"]]

    def demonstrate(self, seed: int, scene: SceneConfig) -> tuple[State, NDArray[np.float32]]:
        """Run the scripted expert from a seed; return its t states, and its t - 1 actions."""
        answer = self._call(
            "demonstrate",
            seed=seed,
            steps_after_success=scene.steps_after_success,
            max_steps=scene.max_steps,
        )
        return _state(answer), answer["actions"]

    def reset(self, seeds: Sequence[int]) -> State:
        """Begin one episode per seed."""
        return _state(self._call("reset", seeds=list(seeds)))

    def step(self, rows: Sequence[int], actions: NDArray[np.float32]) -> State:
        """Take the actions [k 4] in the k episodes with the numbers `rows`."""
        return _state(self._call("step", rows=list(rows), actions=actions.tolist()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.stdin.close()  # pyrefly: ignore
        self._process.wait(timeout=30)
        self._answers.close()

    def _call(self, name: str, **arguments: Any) -> dict[str, NDArray[Any]]:
        """Send a request, and return the answer.

        Raises:
            ValueError: the request failed, or the process ended; the message says why.
        """
        requests: IO[bytes] = self._process.stdin  # pyrefly: ignore
        try:
            requests.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
            requests.flush()
            (length,) = struct.unpack("<Q", self._answers.read(8))
            data = self._answers.read(length)
        except (BrokenPipeError, struct.error) as error:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise ValueError(
                f"the process of Meta-World ended: {lines[-1] if lines else 'without a message'} "
                f"(log: {self._log}). If it cannot render, set MUJOCO_GL; if a package is missing, "
                f"pip install {' '.join(PACKAGES)} into its environment"
            ) from error
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            answer = {key: archive[key] for key in archive.files}
        if "error" in answer:
            raise ValueError(f"Meta-World, {name}: {answer['error']}")
        return answer


_IMAGES = ("cameras", "image_size", "shadows", "samples")


def _state(answer: dict[str, NDArray[Any]]) -> State:
    observation = answer["observation"].astype(np.float32)
    return State(
        frames=answer["frames"],
        proprio=observation[:, : len(PROPRIO)],
        objects=observation[:, OBJECT],
        success=answer["success"],
    )


def require_python(python: Path) -> None:
    """Check that the Python of Meta-World's environment exists.

    Raises:
        ValueError: it does not exist; the message says how to install it.
    """
    if not python.exists():
        home = python.parent.parent
        raise ValueError(
            f"metaworld_python: {python} does not exist. Meta-World needs an environment of its "
            "own, because it requires mujoco 3.3.0: add install=true, or\n"
            f"  python -m venv {home} && {home}/bin/pip install {' '.join(PACKAGES)}"
        )


def install_metaworld(python: Path) -> None:
    """Make a virtual environment in which Meta-World can be imported, unless it exists.

    pip needs the network. A virtual environment that an interrupted installation left is completed.
    A Python that is in no virtual environment, such as the system's, is never changed.

    Raises:
        ValueError: pip failed, or Meta-World cannot be imported after the installation.
    """
    import venv

    home = python.parent.parent
    command = [str(python), "-m", "pip", "install", "-q", *PACKAGES]
    if not python.exists():
        print(f"python -m venv {home} && {' '.join(command)}", flush=True)
        venv.create(home, with_pip=True)
    elif (home / "pyvenv.cfg").exists() and _import_error(python):
        print(" ".join(command), flush=True)
        subprocess.run([str(python), "-m", "ensurepip"], capture_output=True, check=False)
    else:
        return
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"pip cannot install {' '.join(PACKAGES)} into {home}")
    if error := _import_error(python):
        raise ValueError(f"Meta-World was installed into {home}, but cannot be imported: {error}")


def _import_error(python: Path) -> str:
    """Return why this Python cannot import Meta-World, or an empty string if it can."""
    done = subprocess.run(
        [str(python), "-c", "import metaworld"], capture_output=True, text=True, check=False
    )
    if not done.returncode:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"
