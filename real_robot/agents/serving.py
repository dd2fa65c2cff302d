"""Let an agent act for a client elsewhere: the server behind `policy_server`. Needs no torch."""

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
    Message,
    NonsenseError,
    NotAuthenticError,
    WireError,
)

_PAUSE_S = 0.05
_MAX_WORDS = 2000  # of an error: a client's own nonsense may be in it
_PROOF_S = 5.0  # for all that comes before the key is proved
# So many connections may be open without a proof; a further one takes the oldest one's place, since
# who has the key needs a moment only.
_MAX_UNPROVEN = 16


class PolicyServer:
    """Let an agent act for one client at a time.

    Attributes:
        address: host and port where it listens.
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
        tell: Callable[[str], object] = print,
    ) -> None:
        """Listen.

        Args:
            agent: acts; sees pictures and `proprio`, of the robot's state nothing else.
            interface: what it was trained for.
            key: shared with the clients.
            host: where to listen.
            port: 0 for a free one.
            idle_timeout_s: a client that says nothing for so long is let go.
            tell: hears who comes and goes, and what goes wrong.
        """
        self._agent, self._interface, self._key = agent, interface, key
        self._robot = interface  # of the client, from its hello on
        self._idle_timeout_s, self._tell = idle_timeout_s, tell
        self._has_begun = False  # whether the client has begun an episode
        self._busy = threading.Lock()
        self._opening = threading.Lock()
        self._unproven: dict[socket.socket, str] = {}  # oldest first; under `_opening`
        self._is_closed = False
        self._listening = socket.create_server((host, port))
        self.address: tuple[str, int] = self._listening.getsockname()[:2]

    def serve(self) -> None:
        """Serve until `close`; a second client is turned away while there is a first."""
        while True:
            try:
                raw, (host, port, *_) = self._listening.accept()
                who = f"{host}:{port}"
                self._make_room(raw, who)
                threading.Thread(target=self._greet, args=(raw, who), daemon=True).start()
            except (OSError, RuntimeError) as error:
                if self._is_closed:
                    return
                # no file or no thread is left for a moment
                self._tell(f"no connection: {error}")
                time.sleep(_PAUSE_S)

    def close(self) -> None:
        """Stop listening."""
        self._is_closed = True
        # close alone does not wake who waits in accept
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _make_room(self, raw: socket.socket, who: str) -> None:
        """Count a new connection among those without a proof, and end the oldest if need be."""
        with self._opening:
            while len(self._unproven) >= _MAX_UNPROVEN:
                oldest = next(iter(self._unproven))
                self._tell(f"{self._unproven.pop(oldest)} has to go: it has not proved the key")
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._unproven[raw] = who

    def _greet(self, raw: socket.socket, who: str) -> None:
        with raw:
            try:
                try:
                    connection, message = self._proved(raw)
                finally:
                    with self._opening:
                        self._unproven.pop(raw, None)
                if not self._busy.acquire(blocking=False):
                    self._tell(f"{who} is turned away: another client is there")
                    connection.send({"ok": False, "kind": BUSY, "error": "somebody is served"}, {})
                    return
                try:
                    self._tell(f"{who} has come")
                    connection.timeout_s = self._idle_timeout_s
                    self._converse(connection, message)
                finally:
                    self._busy.release()
            except WireError as error:
                self._tell(f"{who} is gone: {error}")

    def _proved(self, raw: socket.socket) -> tuple[Connection, Message | NonsenseError]:
        """Wait for the message that proves the key; return what it says.

        Raises:
            WireError: there was no proof in time.
        """
        until_s = time.monotonic() + _PROOF_S
        raw.settimeout(_PROOF_S)
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(raw, self._key, is_server=True, until_s=until_s)
        try:
            return connection, connection.receive(until_s=until_s, max_bytes=MAX_UNPROVEN_BYTES)
        except NonsenseError as error:
            return connection, error
        except NotAuthenticError:
            # The client cannot believe this answer either, and so knows that the keys differ.
            with contextlib.suppress(WireError):
                connection.send({"ok": False}, {})
            raise

    def _converse(self, connection: Connection, message: Message | NonsenseError) -> None:
        """Answer a client until it is gone, also what makes no sense.

        Raises:
            WireError: it is.
        """
        self._robot, self._has_begun = self._interface, False  # nothing of the client before
        while True:
            if isinstance(message, NonsenseError):
                answer = self._failed(message)
            else:
                answer = self._answer(message)
                # so that an answer is never taken for that to another question
                answer[0]["question"] = message[0].get("question")
            try:
                connection.send(*answer)
            except WireError:
                raise
            except Exception as error:  # what the agent says does not travel
                connection.send(*self._failed(error))
            try:
                message = connection.receive()
            except NonsenseError as error:
                message = error

    def _answer(self, message: Message) -> Message:
        """Do what is asked; what fails is the client's to hear."""
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
                if not self._has_begun:  # the agent may remember the client before
                    self._agent.reset(observation)
                    self._has_begun = True
                return self._act(observation)
            raise ValueError(f"unknown request {do!r}; known: hello, reset, act")
        # Whatever a policy raises, the client ends its episode with it.
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Message:
        """Return what a client hears of an error."""
        kind, words = type(error).__name__, plain(str(error))[:_MAX_WORDS]
        self._tell(f"{kind}: {words}")
        return {"ok": False, "kind": kind, "error": words}, {}

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
        """Check what came against the interface, and give it as an agent takes it."""
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {
            f"image_{camera.name}": ("uint8", (camera.height, camera.width, 3))
            for camera in self._interface.cameras
        }
        wanted["proprio"] = ("float32", (len(self._robot.proprio),))
        found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
        if found != wanted:
            raise ValueError(f"an observation must have {wanted}, got {found}")
        return Observation(
            stamp_s=0.0,
            frames={
                name: Frame(camera=name, image=arrays[f"image_{name}"], stamp_s=0.0, sequence=0)
                for name in self._interface.camera_names
            },
            state=_nobody(),
            proprio=arrays["proprio"][proprio_columns(self._interface, self._robot)],
        )


def _nobody() -> RobotState:
    """Return the state of an arm of which nothing is known here."""
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
