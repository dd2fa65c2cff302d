"""The client of a twin's scene, faults and cameras."""

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
    """An error that names why the twin did not carry out a request."""


class TwinClient:
    """A client of a twin's control channel, and the `Scene` of an episode on a twin.

    Poses are in the frame of the arm's base, metres and radians, quaternions w first. Several
    threads may use one client.
    """

    def __init__(self, address: str) -> None:
        """Connect to a twin.

        Raises:
            ConnectionError: no twin listens at this address.
        """
        self._address = address
        self._socket = socket.create_connection((address, CONTROL_PORT), timeout=_TIMEOUT_S)
        self._lines = self._socket.makefile("rb")
        self._lock = threading.Lock()

    # real_robot.episode.Scene

    def place(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Place the cube and wait until it is at rest."""
        self._ask("place", x_m=float(x_m), y_m=float(y_m), yaw_rad=float(yaw_rad))

    def object_pose(self) -> tuple[float, float, float, float, float, float, float]:
        """Return the cube's position, m, and quaternion, w first."""
        x, y, z, qw, qx, qy, qz = self._ask("pose")["pose"]
        return x, y, z, qw, qx, qy, qz

    def succeeded(self) -> bool:
        """Return whether the task's goal is reached at this moment."""
        return bool(self._ask("status")["at_goal"])

    # the twin's own requests

    def status(self) -> dict[str, Any]:
        """Return `mode` (libfranka's name), `leading`, `at_goal`, `failed` and `cameras`."""
        return self._ask("status")

    def state(self) -> dict[str, Any]:
        """Return `state`, the privileged values by name, and `positions` of the MuJoCo model."""
        return self._ask("state")

    def rates(self) -> dict[str, Any]:
        """Return the measured rates since the last call, over 20 s at most."""
        return self._ask("rates")

    def reset(self) -> None:
        """Set the arm to its home pose and the cube to the centre, without a motion.

        Raises:
            ValueError: a client moves the arm.
        """
        self._ask("reset")

    def press_user_stop(self) -> None:
        """Press the user stop; it stays pressed until `release_user_stop`."""
        self._ask("user_stop", pressed=True)

    def release_user_stop(self) -> None:
        """Release the user stop."""
        self._ask("user_stop", pressed=False)

    def disconnect_robot(self) -> None:
        """Close the connections of arm and hand, like a pulled cable; clients may reconnect."""
        self._ask("disconnect")

    def drop_commands(self, seconds: float) -> None:
        """Drop the client's commands for some time; 20 lost ones in a row end a motion."""
        self._ask("drop_commands", seconds=float(seconds))

    def fail(self, error: str) -> None:
        """End the current motion with an error, by libfranka's name."""
        self._ask("fail", error=error)

    def push(self, body: str, force_n: Sequence[float], seconds: float) -> None:
        """Push a body of the arm, `link1` to `link7` or `hand`, with a force [3] for some time."""
        self._ask("push", body=body, force_n=[float(f) for f in force_n], seconds=float(seconds))

    def lead(self, path_rad: ArrayLike, seconds: float) -> None:
        """Start to guide the joints along a path [n 7], like a person; mode Guiding."""
        path = np.asarray(path_rad, dtype=np.float64)
        self._ask("lead", path_rad=path.tolist(), seconds=float(seconds))

    def set_camera(self, name: str, mode: str) -> None:
        """Set a camera to `live` or to a fault.

        Faults: `frozen` repeats one image; `stalled` sends none; `unplugged` closes the connection
        and refuses new ones.
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
            with self._lock:
                self._socket.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
                line = self._lines.readline()
        except OSError as error:
            raise TwinError(f"the twin at {self._address} does not answer: {error}") from error
        if not line:
            raise TwinError(f"the twin at {self._address} has ended")
        answer = json.loads(line)
        if not answer["ok"]:
            kind = ValueError if answer["kind"] == "ValueError" else TwinError
            raise kind(answer["error"])
        return answer


class TwinCameraSource:
    """A source of the images of a twin's camera, for a `ThreadedCamera`."""

    def __init__(self, address: str, name: str) -> None:
        self._address, self._name = address, name
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect to the camera.

        Raises:
            SourceError: no twin listens, or the camera is unplugged.
        """
        self.close()
        try:
            self._socket = socket.create_connection((self._address, CAMERA_PORT), timeout=2.0)
            self._socket.settimeout(_FRAME_TIMEOUT_S)
            self._socket.sendall(json.dumps({"camera": self._name}).encode() + b"\n")
            answer = json.loads(self._line())
        except OSError as error:
            self.close()
            raise SourceError(f"no twin's cameras listen at {self._address}: {error}") from error
        if "error" in answer:
            self.close()
            raise SourceError(f"the twin at {self._address}: {answer['error']}")

    def read(self) -> NDArray[np.uint8]:
        """Wait for an image and return the newest [h w 3], uint8 RGB.

        Raises:
            SourceError: no image arrived within two seconds, or the connection is lost.
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
        """Disconnect; it need not be connected."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read_one(self, connection: socket.socket) -> NDArray[np.uint8]:
        magic, height, width, _, _ = HEADER.unpack(_receive(connection, HEADER.size))
        if magic != MAGIC:
            raise OSError("the data are not images")
        data = _receive(connection, height * width * 3)
        return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)

    def _line(self) -> bytes:
        assert self._socket is not None
        line = b""
        # Byte by byte, since a buffer would also read the images that follow the line.
        while not line.endswith(b"\n"):
            line += _receive(self._socket, 1)
        return line


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = connection.recv_into(view[got:])
        if count == 0:
            raise OSError("the connection is closed: the camera is unplugged, or the twin ended")
        got += count
    return bytes(data)
