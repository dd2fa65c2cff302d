"""What a twin offers beside the arm: its scene, its faults, and its cameras."""

import json
import select
import socket
import threading
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cameras.camera import SourceError
from .config import CAMERA_PORT, CONTROL_PORT, HEADER, MAGIC

_TIMEOUT_S = 10.0
_FRAME_TIMEOUT_S = 2.0


class TwinError(RuntimeError):
    """Return why the twin did not do what it was asked."""


class TwinClient:
    """Ask a twin for what no arm offers; it is the `Scene` of an episode on a twin.

    Poses are in the frame of the arm's base, metres and radians, quaternions w first. Several
    threads may use one client.
    """

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            ConnectionError: no twin listens there.
        """
        self._address = address
        self._socket = socket.create_connection((address, CONTROL_PORT), timeout=_TIMEOUT_S)
        self._lines = self._socket.makefile("rb")
        self._asking = threading.Lock()

    # real_robot.episode.Scene

    def place(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Put the cube there; returns when it lies still."""
        self._ask("place", x_m=float(x_m), y_m=float(y_m), yaw_rad=float(yaw_rad))

    def object_pose(self) -> tuple[float, float, float, float, float, float, float]:
        """Return the cube's position and quaternion."""
        x, y, z, qw, qx, qy, qz = self._ask("pose")["pose"]
        return x, y, z, qw, qx, qy, qz

    def succeeded(self) -> bool:
        """Return whether the task's goal is reached now."""
        return bool(self._ask("status")["at_goal"])

    # all else

    def status(self) -> dict[str, Any]:
        """Return `mode` (libfranka's name), `leading`, `at_goal`, `failed` and `cameras`."""
        return self._ask("status")

    def state(self) -> dict[str, Any]:
        """Return `state`, privileged, by name, and `positions`, those of the model."""
        return self._ask("state")

    def rates(self) -> dict[str, Any]:
        """Return the rates that were really kept since they were last asked for; 20 s at most."""
        return self._ask("rates")

    def reset(self) -> None:
        """Put the arm at home and the cube in the middle, at once; not while a client moves it."""
        self._ask("reset")

    def press_user_stop(self) -> None:
        """Press the user stop; it stays pressed."""
        self._ask("user_stop", pressed=True)

    def release_user_stop(self) -> None:
        """Release the user stop."""
        self._ask("user_stop", pressed=False)

    def disconnect_robot(self) -> None:
        """Cut the connections of arm and hand, as a pulled cable; new ones are welcome."""
        self._ask("disconnect")

    def drop_commands(self, seconds: float) -> None:
        """Let the client's commands get lost for so long; 20 in a row end a motion."""
        self._ask("drop_commands", seconds=float(seconds))

    def fail(self, error: str) -> None:
        """End the motion that runs with an error, by libfranka's name of it."""
        self._ask("fail", error=error)

    def push(self, body: str, force_n: Sequence[float], seconds: float) -> None:
        """Push a body of the arm, `link1` to `link7` or `hand`, with [3] newtons for so long."""
        self._ask("push", body=body, force_n=[float(f) for f in force_n], seconds=float(seconds))

    def lead(self, path_rad: ArrayLike, seconds: float) -> None:
        """Begin to lead the joints along a path [n 7], as a person would; mode Guiding."""
        path = np.asarray(path_rad, dtype=np.float64)
        self._ask("lead", path_rad=path.tolist(), seconds=float(seconds))

    def set_camera(self, name: str, mode: str) -> None:
        """Set a camera `live`, or let it fail.

        `frozen`: the same picture again and again; `stalled`: none comes; `unplugged`: the
        connection is lost, and refused.
        """
        self._ask("camera", name=name, mode=mode)

    def close(self) -> None:
        """Disconnect."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        try:
            with self._asking:
                self._socket.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
                line = self._lines.readline()
        except OSError as error:
            raise TwinError(f"the twin at {self._address} does not answer: {error}") from error
        if not line:
            raise TwinError(f"the twin at {self._address} is gone")
        answer = json.loads(line)
        if not answer["ok"]:
            kind = ValueError if answer["kind"] == "ValueError" else TwinError
            raise kind(answer["error"])
        return answer


class TwinCameraSource:
    """The pictures of a twin's camera, for a `ThreadedCamera`."""

    def __init__(self, address: str, name: str) -> None:
        self._address, self._name = address, name
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect.

        Raises:
            SourceError: no twin is there, or the camera is unplugged.
        """
        self.close()
        try:
            self._socket = socket.create_connection((self._address, CAMERA_PORT), timeout=2.0)
            self._socket.settimeout(_FRAME_TIMEOUT_S)
            self._socket.sendall(json.dumps({"camera": self._name}).encode() + b"\n")
            answer = json.loads(self._line())
        except OSError as error:
            self.close()
            raise SourceError(f"no twin's cameras at {self._address}: {error}") from error
        if "error" in answer:
            self.close()
            raise SourceError(f"the twin at {self._address}: {answer['error']}")

    def read(self) -> NDArray[np.uint8]:
        """Wait for a picture [h w 3], and give the newest.

        Raises:
            SourceError: none came within two seconds, or the connection is lost.
        """
        if self._socket is None:
            raise SourceError(f"camera {self._name!r} of the twin at {self._address} is not open")
        try:
            image = self._read_one(self._socket)
            while select.select([self._socket], [], [], 0.0)[0]:
                image = self._read_one(self._socket)
        except OSError as error:
            raise SourceError(
                f"camera {self._name!r} of the twin at {self._address}: {error}"
            ) from error
        return image

    def close(self) -> None:
        """Disconnect, connected or not."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read_one(self, connection: socket.socket) -> NDArray[np.uint8]:
        magic, height, width, _, _ = HEADER.unpack(_receive(connection, HEADER.size))
        if magic != MAGIC:
            raise OSError("it sends no pictures")
        data = _receive(connection, height * width * 3)
        return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)

    def _line(self) -> bytes:
        assert self._socket is not None
        line = b""
        # byte by byte: what follows the line are pictures, which a buffer would swallow
        while not line.endswith(b"\n"):
            line += _receive(self._socket, 1)
        return line


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = connection.recv_into(view[got:])
        if count == 0:
            raise OSError("the connection is closed: unplugged, or the twin ended")
        got += count
    return bytes(data)
