"""Let an agent act for a client elsewhere: the server behind `policy_server`. Needs no torch."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface

from ..cameras.camera import Frame
from ..episode import Agent, Observation
from ..robot import RobotState
from .fitting import fit_interface, proprio_columns
from .wire import Connection, Message, NotAuthenticError, WireError, turn_away

_GREET_S = 5.0


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
        self._busy = threading.Lock()
        self._listening = socket.create_server((host, port))
        self.address: tuple[str, int] = self._listening.getsockname()[:2]

    def serve(self) -> None:
        """Serve until `close`; a second client is turned away while there is a first."""
        while True:
            try:
                raw, (host, port, *_) = self._listening.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._greet, args=(raw, f"{host}:{port}"), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        # close alone does not wake who waits in accept
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _greet(self, raw: socket.socket, who: str) -> None:
        with raw:
            raw.settimeout(_GREET_S)
            if not self._busy.acquire(blocking=False):
                self._tell(f"{who} is turned away: another client is there")
                with contextlib.suppress(WireError):
                    turn_away(raw)
                return
            try:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(raw, self._key, is_server=True)
                message = self._first(connection)
                raw.settimeout(self._idle_timeout_s)
                self._tell(f"{who} has come")
                while True:
                    connection.send(*self._answer(message))
                    message = connection.receive()
            except WireError as error:
                self._tell(f"{who} is gone: {error}")
            finally:
                self._busy.release()

    def _first(self, connection: Connection) -> Message:
        """Wait for the message that proves the key."""
        try:
            return connection.receive()
        except NotAuthenticError:
            # The client cannot believe this answer either, and so knows that the keys differ.
            with contextlib.suppress(WireError):
                connection.send({"ok": False}, {})
            raise

    def _answer(self, message: Message) -> Message:
        """Do what is asked; what fails is the client's to hear."""
        data, arrays = message
        try:
            do = data.get("do")
            if do == "hello":
                return self._hello(data), {}
            if do == "reset":
                self._agent.reset(self._observation(arrays))
                return {"ok": True}, {}
            if do == "act":
                return self._act(self._observation(arrays))
            raise ValueError(f"unknown request {do!r}; known: hello, reset, act")
        # Whatever a policy raises, the client ends its episode with it.
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}")
            return {"ok": False, "kind": type(error).__name__, "error": str(error)}, {}

    def _hello(self, data: dict[str, Any]) -> dict[str, Any]:
        robot = Interface.from_dict(data.get("interface"))
        _, note = fit_interface(self._interface, robot, self._agent.name)
        self._robot = robot
        return {
            "ok": True,
            "name": self._agent.name,
            "weights_hash": self._agent.weights_hash,
            "note": note,
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
    """Give the state of an arm of which nothing is known here."""
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
