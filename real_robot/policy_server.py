"""`python -m real_robot.policy_server`: let a policy act from another machine than the robot's.

python -m real_robot.policy_server policy=runs/train/policy
python -m real_robot.deploy policy=server:127.0.0.1:5555 robot=twin     # in another shell

It listens on loopback unless told otherwise, and believes nobody without the key (see `wire`). The
robot's machine sends pictures and proprioception, nothing else, and takes actions back, which its
safety layer judges like any other's.
"""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface
from toto_robot.cli import command

from .agents import PolicyConfig, StudentAgent
from .cameras.camera import Frame
from .episode import Agent, Observation
from .fitting import fit_interface
from .remote import interface_from_plain
from .robot import RobotState
from .wire import (
    Connection,
    Message,
    NotAuthenticError,
    WireError,
    make_key,
    read_key,
    turn_away,
)

_GREET_S = 5.0
_LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Say what acts for whom.

    Attributes:
        policy: a checkpoint's folder.
        host: the address to listen on; loopback for this machine alone.
        port: 0 for a free one.
        idle_timeout_s: a client that says nothing for so long is let go.
        acting: where and how the policy runs; `key_file` is made if it is not there.
    """

    policy: str
    host: str
    port: int
    idle_timeout_s: float
    acting: PolicyConfig


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
        robot = interface_from_plain(data.get("interface"))
        _, note = fit_interface(self._interface, robot, self._agent.name)
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
        wanted["proprio"] = ("float32", (len(self._interface.proprio),))
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
            proprio=arrays["proprio"],
        )


def policy_server(config: ServerConfig, out: Path) -> None:
    """Serve a policy until Ctrl-C."""
    import torch

    from policies.student import read_card

    acting = config.acting
    if acting.key_file.exists():
        key = read_key(acting.key_file)
    else:
        key = make_key(acting.key_file)
        print(
            f"a new key was written to {acting.key_file}, mode 0600: the robot's machine needs it"
        )
    torch.set_num_threads(acting.num_threads)
    folder = Path(config.policy)
    try:
        interface = read_card(folder).interface
        agent = StudentAgent(
            folder,
            interface,
            device=acting.device,
            encoder=acting.encoder,
            surprise=acting.surprise,
        )
        server = PolicyServer(
            agent,
            interface,
            key,
            host=config.host,
            port=config.port,
            idle_timeout_s=config.idle_timeout_s,
            tell=lambda line: print(line, flush=True),
        )
    except (OSError, ValueError) as error:
        sys.exit(f"policy_server: {error}")
    if not config.host.startswith(_LOOPBACK):
        print(
            f"note: {config.host} is not loopback. Messages are authenticated and not encrypted: "
            "who shares the network can see the pictures. An SSH tunnel hides them."
        )
    host, port = server.address
    print(f"{agent.name}, weights {agent.weights_hash[:12]}, at {host}:{port}; Ctrl-C ends it")
    print(f"use: python -m real_robot.deploy policy=server:{host}:{port}", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        print("ended")
    finally:
        server.close()


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


main = command("policy_server", ServerConfig)(policy_server)

if __name__ == "__main__":
    main()
