"""Start a twin as a separate process, and make sure that the process ends."""

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

from .client import TwinCameraSource, TwinClient
from .config import ROBOT_PORT, STANDARD, TwinConfig

_START_S = 120.0  # long, because other programs may use the CPUs; an idle machine needs 5 s
_END_S = 5.0
_NUM_TRIES = 100


class Twin:
    """Handle of a running twin, to connect to the twin, and to suspend or kill its process."""

    def __init__(
        self, address: str, process: subprocess.Popen[bytes], cameras_pid: int, log: Path
    ) -> None:
        self.address = address
        self.log = log
        self._process, self._cameras_pid = process, cameras_pid

    @property
    def pid(self) -> int:
        """The process id of the robot's process; the cameras run in another process."""
        return self._process.pid

    def client(self) -> TwinClient:
        """Return a new client that controls the scene and injects faults."""
        return TwinClient(self.address)

    def camera_source(self, name: str) -> TwinCameraSource:
        """Return a source of frames for a camera of the twin, `hand` or `front`."""
        return TwinCameraSource(self.address, name)

    def running(self) -> bool:
        """Return whether the twin's process still runs."""
        return self._process.poll() is None

    def freeze(self) -> None:
        """Suspend the robot's process, as if the robot had frozen; the cameras continue."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the suspended process."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the twin at once, as if the power were cut; repeated calls are allowed."""
        self._process.kill()
        self._process.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._cameras_pid, signal.SIGKILL)


@contextlib.contextmanager
def start_twin(config: TwinConfig = STANDARD, log: Path | None = None) -> Iterator[Twin]:
    """Start a twin at the beginning of a `with` block, and end it at the end of the block.

    Args:
        config: settings of the twin. If `address` is None, a free address is selected.
        log: path of the file for the twin's warnings; None uses a temporary file.

    Raises:
        ImportError: franka-sim or MuJoCo is not installed.
        RuntimeError: the twin did not start; the message contains the last lines of its log.
    """
    missing = [name for name in ("franka_sim", "mujoco") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"a twin needs {' and '.join(missing)}: pip install 'toto-robot[sim]', and "
            "pip install --no-deps franka-sim==1.1.7"
        )
    address = config.address or _free_address()
    with tempfile.TemporaryDirectory() as folder:
        path = log or Path(folder) / "twin.log"
        with path.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "real_robot.twin.server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                # The matrices are small, so one thread of a numerical library is the fastest.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        try:
            assert process.stdin is not None
            settings = asdict(replace(config, address=address))
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
            cameras_pid = _wait_until_ready(process, address, path)
            twin = Twin(address, process, cameras_pid, path)
            try:
                yield twin
            finally:
                twin.kill()
        finally:
            process.kill()
            process.wait(_END_S)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> int:
    """Wait until the twin prints that it is ready; return the id of the cameras' process."""
    assert process.stdout is not None
    end_s, line = time.monotonic() + _START_S, b""
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(0.0, end_s - time.monotonic()))[0]:
            raise RuntimeError(
                f"the twin at {address} was not ready within {_START_S} s: {_tail(log)}"
            )
        part = os.read(process.stdout.fileno(), 4096)
        if not part:
            raise RuntimeError(f"the twin at {address} did not start: {_tail(log)}")
        line += part
    return int(json.loads(line)["cameras_pid"])


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] or "its log is empty"


def _free_address() -> str:
    """Return a loopback address at which no robot listens."""
    draw = random.SystemRandom()
    for _ in range(_NUM_TRIES):
        address = f"127.{draw.randint(1, 254)}.{draw.randint(0, 255)}.{draw.randint(1, 254)}"
        with socket.socket() as probe:
            try:
                probe.bind((address, ROBOT_PORT))
            except OSError:
                continue
        return address
    raise RuntimeError(
        "no free loopback address: Linux allows all of 127.0.0.0/8, other systems only 127.0.0.1; "
        "set the config's address"
    )
