"""Server that computes an agent's actions for a client on another machine.

This module does not import torch, but an agent may import torch.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface
from toto_robot.files import plain

from ..cameras.camera import Frame
from ..episode import Agent, Observation
from ..robot import RobotState
from .fitting import fit_interface, proprio_columns
from .wire import (
    BUSY,
    MAX_UNPROVEN_BYTES,
    Connection,
    MalformedError,
    Message,
    NotAuthenticError,
    WireError,
)

_PAUSE_S = 0.05
_MAX_ERROR_CHARACTERS = 2000  # an error may contain a client's invalid data
# The other side is asked after 10 s of silence, then every 5 s. After three questions without an
# answer it is gone: it lost its power or its network, and could not close the connection.
_KEEPALIVE = (
    ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
    if hasattr(socket, "TCP_KEEPIDLE")  # not on every system
    else ()
)
_PROOF_S = 5.0  # time limit until the client is authenticated
# Greatest number of open connections that are not authenticated yet. When there is one more, the
# oldest is closed: a client that has the key authenticates within a moment.
_MAX_UNPROVEN = 16


class PolicyServer:
    """Server that computes the actions of one agent, for one client at a time.

    Attributes:
        address: host and port at which the server listens.
    """

    def __init__(
        self,
        agent: Agent,
        interface: Interface,
        key: bytes,
        *,
        host: str,
        port: int,
        idle_timeout_s: float,
        log: Callable[[str], object] = print,
    ) -> None:
        """Open the port; `serve` then accepts clients and answers them.

        Args:
            agent: the agent. Its observations contain only the images and `proprio`: the client
                does not send the robot's state.
            interface: the agent's action and observation spec.
            key: the secret key that server and clients share.
            host: IP address or host name at which the server listens.
            port: TCP port; 0 selects a free port.
            idle_timeout_s: a client that sends no message for this time, s, is disconnected.
            log: function that is called with each line of the log (connections and errors).
        """
        self._agent, self._interface, self._key = agent, interface, key
        self._robot = interface  # the spec of the client's robot, once the client has sent it
        self._idle_timeout_s, self._log = idle_timeout_s, log
        self._has_begun = False  # whether the client has begun an episode
        self._busy = threading.Lock()
        self._heard_s = time.monotonic()  # when the client's newest request arrived
        self._opening = threading.Lock()
        self._unproven: dict[socket.socket, str] = {}  # oldest first; guarded by `_opening`
        self._is_closed = False
        self._listening = socket.create_server((host, port))
        self.address: tuple[str, int] = self._listening.getsockname()[:2]

    def serve(self) -> None:
        """Accept clients and answer them until `close` is called.

        A second client is refused while the first is connected.
        """
        while True:
            try:
                raw, (host, port, *_) = self._listening.accept()
                client = f"{host}:{port}"
                self._make_room(raw, client)
                threading.Thread(target=self._handle, args=(raw, client), daemon=True).start()
            except (OSError, RuntimeError) as error:
                if self._is_closed:
                    return
                # the process has no free file descriptor or thread at the moment
                self._log(f"cannot accept a connection: {error}")
                time.sleep(_PAUSE_S)

    def close(self) -> None:
        """Close the port and end `serve`; repeated calls are allowed."""
        self._is_closed = True
        # close alone does not wake a thread that waits in accept
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _make_room(self, raw: socket.socket, client: str) -> None:
        """Register a connection that is not authenticated yet; if too many, close the oldest."""
        with self._opening:
            while len(self._unproven) >= _MAX_UNPROVEN:
                oldest = next(iter(self._unproven))
                self._log(f"{self._unproven.pop(oldest)} is disconnected: not authenticated")
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._unproven[raw] = client

    def _handle(self, raw: socket.socket, client: str) -> None:
        with raw:
            try:
                try:
                    connection, message = self._authenticate(raw)
                finally:
                    with self._opening:
                        self._unproven.pop(raw, None)
                if not self._busy.acquire(blocking=False):
                    self._log(f"{client} is refused: another client is connected")
                    silent_s = time.monotonic() - self._heard_s
                    error = (
                        f"it serves another client now, whose last request was {silent_s:.0f} s ago"
                    )
                    connection.send({"ok": False, "kind": BUSY, "error": error}, {})
                    return
                try:
                    self._log(f"{client} has connected")
                    connection.timeout_s = self._idle_timeout_s
                    self._converse(connection, message)
                finally:
                    self._busy.release()
            except WireError as error:
                self._log(f"{client} is disconnected: {error}")

    def _authenticate(self, raw: socket.socket) -> tuple[Connection, Message | MalformedError]:
        """Wait for the client's first message, which proves that the client has the key.

        Return the connection and this message; if the message is authentic but has a wrong format,
        return the connection and the error.

        Raises:
            WireError: no authentic message arrived in time.
        """
        until_s = time.monotonic() + _PROOF_S
        raw.settimeout(_PROOF_S)
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                raw.setsockopt(socket.IPPROTO_TCP, option, value)
        connection = Connection(raw, self._key, is_server=True, until_s=until_s)
        try:
            return connection, connection.receive(until_s=until_s, max_bytes=MAX_UNPROVEN_BYTES)
        except MalformedError as error:
            return connection, error
        except NotAuthenticError:
            # The client cannot verify this answer, so it reports that the keys differ.
            with contextlib.suppress(WireError):
                connection.send({"ok": False}, {})
            raise

    def _converse(self, connection: Connection, message: Message | MalformedError) -> None:
        """Answer the messages of a client until the client disconnects.

        A malformed message is answered with an error.

        Raises:
            WireError: the client has disconnected.
        """
        self._robot, self._has_begun = self._interface, False  # discard the previous client's
        while True:
            self._heard_s = time.monotonic()
            if isinstance(message, MalformedError):
                answer = self._failed(message)
            else:
                answer = self._answer(message)
                # so that an answer is never used for another question
                answer[0]["question"] = message[0].get("question")
            try:
                connection.send(*answer)
            except WireError:
                raise
            except Exception as error:  # the agent's answer cannot be sent
                connection.send(*self._failed(error))
            try:
                message = connection.receive()
            except MalformedError as error:
                message = error

    def _answer(self, message: Message) -> Message:
        """Return the answer to a request; an error of the agent becomes an answer, too."""
        data, arrays = message
        try:
            do = data.get("do")
            if do == "hello":
                return self._hello(data), {}
            if do == "reset":
                self._agent.reset(self._observation(arrays))
                self._has_begun = True
                return {"ok": True}, {}
            if do == "act":
                observation = self._observation(arrays)
                if not self._has_begun:  # the agent may still have the state of another client
                    self._agent.reset(observation)
                    self._has_begun = True
                return self._act(observation)
            raise ValueError(f"unknown request {do!r}; known: hello, reset, act")
        # Any error of a policy is returned: the client ends its episode with it.
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Message:
        """Return the message that reports an error to the client, and log the error."""
        kind, message = type(error).__name__, plain(str(error))[:_MAX_ERROR_CHARACTERS]
        self._log(f"{kind}: {message}")
        return {"ok": False, "kind": kind, "error": message}, {}

    def _hello(self, data: dict[str, Any]) -> dict[str, Any]:
        robot = Interface.from_dict(data.get("interface"))
        _, note = fit_interface(self._interface, robot, self._agent.name)
        self._robot = robot
        return {
            "ok": True,
            "name": self._agent.name,
            "weights_hash": self._agent.weights_hash,
            "note": note,
            "origin": getattr(self._agent, "origin", {}),
        }

    def _act(self, observation: Observation) -> Message:
        proposal = self._agent.act(observation)
        arrays: dict[str, NDArray[Any]] = {"actions": proposal.actions}
        if proposal.label is not None:
            arrays["label"] = proposal.label
        header = {
            "ok": True,
            "surprise": proposal.surprise,
            "timings_s": dict(proposal.timings_s),
            "end": proposal.end,
        }
        return header, arrays

    def _observation(self, arrays: dict[str, NDArray[Any]]) -> Observation:
        """Check the received arrays, and return them as an observation for the agent."""
        expected: dict[str, tuple[str, tuple[int, ...]]] = {
            f"image_{camera.name}": ("uint8", (camera.height, camera.width, 3))
            for camera in self._interface.cameras
        }
        expected["proprio"] = ("float32", (len(self._robot.proprio),))
        found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
        if found != expected:
            raise ValueError(f"an observation must have {expected}, got {found}")
        return Observation(
            stamp_s=0.0,
            frames={
                name: Frame(camera=name, image=arrays[f"image_{name}"], stamp_s=0.0, sequence=0)
                for name in self._interface.camera_names
            },
            state=_unknown_state(),
            proprio=arrays["proprio"][proprio_columns(self._interface, self._robot)],
        )


def _unknown_state() -> RobotState:
    """Return a robot state without values, because the client does not send the arm's state."""
    nothing = np.zeros(0)
    return RobotState(
        stamp_s=0.0,
        joint_positions_rad=nothing,
        joint_velocities_rad_s=nothing,
        joint_torques_nm=nothing,
        external_torques_nm=nothing,
        gripper=None,
        mode="other",
        errors=(),
        command_success_rate=0.0,
    )
