"""Clients of a twin: control of the scene, injection of faults, and images of the cameras."""

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
    """Error: the twin did not execute a request; the message has the cause."""


class TwinClient:
    """Client that controls the scene of a twin, and injects faults; it implements `Scene`.

    Poses are in the frame of the arm's base, in metres and radians. Quaternions are w, x, y, z.
    Several threads may use one client.
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

    # methods of the protocol `real_robot.episode.Scene`

    def place(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Place the cube and wait until it is at rest.

        Raises:
            ValueError: the cube does not come to rest on the table.
        """
        self._ask("place", x_m=float(x_m), y_m=float(y_m), yaw_rad=float(yaw_rad))

    def object_pose(self) -> tuple[float, float, float, float, float, float, float]:
        """Return the pose of the cube: position x, y, z, m, and quaternion w, x, y, z."""
        x, y, z, qw, qx, qy, qz = self._ask("pose")["pose"]
        return x, y, z, qw, qx, qy, qz

    def succeeded(self) -> bool:
        """Return whether the task is done now."""
        return bool(self._ask("status")["at_goal"])

    # requests that only a twin has

    def status(self) -> dict[str, Any]:
        """Return the status of the twin by name.

        `mode` is libfranka's name of the robot's mode. `leading` is True while the arm is guided.
        `at_goal` is True if the task is done now. `failed` is True if it cannot be done any more.
        `cameras` has the mode of each camera.
        """
        return self._ask("status")

    def state(self) -> dict[str, Any]:
        """Return the state of the simulation as a dictionary.

        `state` contains the privileged state of the environment, by name. `positions` contains all
        positions of the MuJoCo model. `joints_rad` contains the positions of the arm's joints, rad,
        and `external_torques_nm` the external torques on these joints, Nm.
        """
        return self._ask("state")

    def rates(self) -> dict[str, Any]:
        """Return the rates of the control cycle and the cameras, since the previous call.

        The measurement covers at most the 20 s before this call.
        """
        return self._ask("rates")

    def reset(self) -> None:
        """Set the arm to its home pose and the cube to the centre at once, without a motion.

        Raises:
            ValueError: a client is moving the arm.
        """
        self._ask("reset")

    def press_user_stop(self) -> None:
        """Press the user stop; it stays pressed until `release_user_stop`."""
        self._ask("user_stop", pressed=True)

    def release_user_stop(self) -> None:
        """Release the user stop."""
        self._ask("user_stop", pressed=False)

    def disconnect_robot(self) -> None:
        """Close the network connections of arm and hand, as if the cable were pulled.

        Clients may connect again.
        """
        self._ask("disconnect")

    def drop_commands(self, seconds: float) -> None:
        """Drop the commands that clients send to the arm, for `seconds` seconds.

        If 20 commands in a row are lost, the arm ends its motion.
        """
        self._ask("drop_commands", seconds=float(seconds))

    def fail(self, error: str) -> None:
        """End the current motion with an error; `error` is a name that libfranka uses.

        Raises:
            ValueError: libfranka has no error of this name, or the arm is not moving.
        """
        self._ask("fail", error=error)

    def push(self, body: str, force_n: Sequence[float], seconds: float) -> None:
        """Push a body of the arm with a force.

        Args:
            body: name of the body, `link1` to `link7` or `hand`.
            force_n: force x, y, z in the frame of the arm's base, N.
            seconds: duration, s.
        """
        self._ask("push", body=body, force_n=[float(f) for f in force_n], seconds=float(seconds))

    def lead(self, path_rad: ArrayLike, seconds: float) -> None:
        """Start to guide the arm along a path, as a person does by hand; the mode is Guiding.

        Args:
            path_rad: n positions of the 7 joints [n 7], rad.
            seconds: duration of the whole path, s.

        Raises:
            ValueError: the arm is not idle, or the path or its duration is invalid.
        """
        path = np.asarray(path_rad, dtype=np.float64)
        self._ask("lead", path_rad=path.tolist(), seconds=float(seconds))

    def set_camera(self, name: str, mode: str) -> None:
        """Set the mode of a camera: `live`, or a fault.

        The faults are `frozen` (the camera repeats one image), `stalled` (it sends no images) and
        `unplugged` (it closes the connection and refuses new connections).
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
    """Source of frames for a `ThreadedCamera`, which reads a camera of a twin."""

    def __init__(self, address: str, name: str) -> None:
        self._address, self._name = address, name
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect to the camera.

        Raises:
            SourceError: there is no twin at the address, or the camera is unplugged.
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
        """Wait for an image, and return the newest image [h w 3], uint8 RGB.

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
        """Disconnect; the call is also allowed if the source is not connected."""
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
        # Read byte by byte, because a buffer would also read the images that follow the line.
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
