"""A policy that acts on another machine: `RemoteAgent`, the client of `policy_server`."""

import dataclasses
import socket
import time
from pathlib import Path
from typing import Any

from envs.interface import Interface

from ..episode import Observation, Proposal
from .wire import (
    Connection,
    Message,
    NotAuthenticError,
    WireError,
    parse_address,
    read_key,
)


class RemoteAgent:
    """Ask a policy server for actions.

    Attributes:
        note: what the server says of how the policy fits; None for nothing.
    """

    def __init__(
        self, address: str, key_file: Path, interface: Interface, *, timeout_s: float
    ) -> None:
        """Connect, prove the key, and see that the policy fits this robot.

        Args:
            address: `HOST:PORT`.
            key_file: the server's key, readable for its owner alone.
            interface: of the robot.
            timeout_s: how long the server may take to answer.

        Raises:
            FileNotFoundError: no key file.
            ValueError: the key file or the address is wrong, or the policy does not fit.
            ConnectionError: no server there, or it does not believe us.
        """
        host, port = parse_address(address)
        key = read_key(key_file)
        self._address, self._interface = address, interface
        try:
            raw = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise ConnectionError(f"no policy server at {address}: {error}") from error
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._connection = Connection(raw, key, is_server=False)
            data, _ = self._ask({"do": "hello", "interface": interface.to_dict()}, {})
        except NotAuthenticError as error:
            raw.close()
            raise ConnectionError(
                f"the policy server at {address} has another key than {key_file}: copy its own"
            ) from error
        except WireError as error:
            raw.close()
            raise ConnectionError(f"the policy server at {address}: {error}") from error
        except ValueError:
            raw.close()
            raise
        self._name = f"{data['name']} at {address}"
        self._hash: str | None = data["weights_hash"]
        self.note: str | None = data["note"]

    @property
    def name(self) -> str:
        """Which policy, and where."""
        return self._name

    @property
    def weights_hash(self) -> str | None:
        """Give the hash that the server tells."""
        return self._hash

    def reset(self, observation: Observation) -> None:
        """Begin an episode at the server."""
        self._request({"do": "reset"}, observation)

    def act(self, observation: Observation) -> Proposal:
        """Ask the server.

        Raises:
            ConnectionError: it is gone, too slow, or not to be believed.
            RuntimeError: its policy failed; with its words.
        """
        begun_s = time.monotonic()
        data, arrays = self._request({"do": "act"}, observation)
        try:
            timings_s = {str(name): float(value) for name, value in data["timings_s"].items()}
            end = data["end"]
            proposal = Proposal(
                actions=arrays["actions"],
                observed_s=observation.stamp_s,
                label=arrays.get("label"),
                surprise=None if data["surprise"] is None else float(data["surprise"]),
                end=None if end is None else (end[0], str(end[1])),
            )
            if proposal.actions.shape[1] != len(self._interface.action):
                raise ValueError(f"actions of shape {proposal.actions.shape}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConnectionError(
                f"the policy server at {self._address} answers nonsense: {error}"
            ) from error
        spent_s = time.monotonic() - begun_s
        timings_s["network"] = max(0.0, spent_s - sum(timings_s.values()))
        return dataclasses.replace(proposal, timings_s=timings_s)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def _request(self, header: dict[str, Any], observation: Observation) -> Message:
        try:
            return self._ask(header, observation.arrays())
        except WireError as error:
            raise ConnectionError(f"the policy server at {self._address}: {error}") from error

    def _ask(self, header: dict[str, Any], arrays: dict[str, Any]) -> Message:
        self._connection.send(header, arrays)
        data, answer = self._connection.receive()
        if data.get("ok") is not True:
            kind, words = data.get("kind"), str(data.get("error"))
            if kind == "ValueError":
                raise ValueError(f"the policy server at {self._address}: {words}")
            raise RuntimeError(f"the policy server at {self._address}: {kind}: {words}")
        return data, answer
