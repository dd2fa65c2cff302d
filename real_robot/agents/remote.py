"""Client of a policy server: `RemoteAgent` requests the actions of a policy on another machine."""

import dataclasses
import socket
import threading
import time
from pathlib import Path
from typing import Any

from envs.interface import Interface
from toto_robot.files import plain

from ..episode import Observation, Proposal
from .wire import (
    BUSY,
    BusyError,
    ClosedError,
    Connection,
    Message,
    NotAuthenticError,
    WireError,
    parse_address,
    read_key,
)

_RETRY_S = 0.1
_BUSY_S = 15.0  # longest time to wait until the server has finished a cancelled request


class RemoteAgent:
    """An agent that requests actions from a policy server.

    If an answer does not arrive in time, the session ends. A late answer is therefore never used
    for a later request. The next `reset` begins a new session.

    Attributes:
        note: note from the server if the policy was trained for another arm with the same
            kinematics, else None.
        origin: environments (`envs`) and task descriptions (`tasks`) of the policy's training, as
            the server reports them; empty if unknown.
        unanswered: message about a request that has no answer yet; None if there is no such
            request.
    """

    def __init__(
        self, address: str, key_file: Path, interface: Interface, *, timeout_s: float
    ) -> None:
        """Connect, authenticate, and check that the policy fits this robot.

        Args:
            address: the address of the server, `HOST:PORT`.
            key_file: path of a copy of the server's key file. Only its owner may read it.
            interface: the robot's action and observation spec.
            timeout_s: longest time to wait for an answer of the server, s.

        Raises:
            FileNotFoundError: the key file does not exist.
            ValueError: the key file or the address is invalid, or the policy needs other actions or
                observations than the robot has.
            ConnectionError: there is no server at the address, or the server has another key,
                serves another client, is too slow, or sends an invalid answer.
        """
        self._host_port = parse_address(address)
        self._key, self._key_file = read_key(key_file), key_file
        self._address, self._interface, self._timeout_s = address, interface, timeout_s
        self._asking = threading.Lock()
        self._connection: Connection | None = None  # closed by `_end` after any fault
        self._ended_by = "it was closed"
        self._num_asked = self._num_resets = 0
        self.unanswered: str | None = None
        self.origin: dict[str, list[str]] = {}
        name, self._hash, self.note = self._begin_session()
        self._name = f"{name} at {address}"

    @property
    def name(self) -> str:
        """Return the name of the policy, with the server's address."""
        return self._name

    @property
    def weights_hash(self) -> str | None:
        """Return the hash of the policy's weights that the server reports; None without weights."""
        return self._hash

    def reset(self, observation: Observation) -> None:
        """Reset the policy at the server, at the start of an episode.

        A new session begins if the previous session has ended, also if the server ended it: after a
        long pause, or at a restart. If a request of an earlier episode has no answer yet, it is
        cancelled.

        Raises:
            ConnectionError: the server is disconnected or too slow, or its answer is invalid.
            ValueError: the policy raised a ValueError at the server; the message contains it.
            RuntimeError: the policy raised another error at the server; the message contains it.
        """
        self._num_resets = this = self._num_resets + 1
        if not self._asking.acquire(blocking=False):
            if (connection := self._connection) is not None:
                connection.abort()
            self._asking.acquire()
        try:
            is_kept = self._connection is not None
            if not is_kept:
                self._begin_again()
        finally:
            self._asking.release()
        try:
            self._request({"do": "reset"}, observation)
        except ConnectionError as error:
            is_newest = this == self._num_resets  # otherwise, a later call cancelled this one
            if not (is_kept and is_newest and isinstance(error.__cause__, ClosedError)):
                raise
            with self._asking:
                self._begin_again()
            self._request({"do": "reset"}, observation)

    def act(self, observation: Observation) -> Proposal:
        """Return the actions that the server computes for an observation.

        Raises:
            ConnectionError: the server is disconnected or too slow, or its answer is invalid.
            ValueError: the policy raised a ValueError at the server; the message contains it.
            RuntimeError: the policy raised another error at the server; the message contains it.
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
            spent_s = time.monotonic() - begun_s
            timings_s["network"] = max(0.0, spent_s - sum(timings_s.values()))
            return dataclasses.replace(proposal, timings_s=timings_s)
        except Exception as error:
            raise self._invalid_answer(error) from error

    def close(self) -> None:
        """Disconnect from the server."""
        self._end("it was closed")

    def _begin_session(self) -> tuple[str, str | None, str | None]:
        """Connect and authenticate; return name, weights hash and note that the server sends.

        The hash and the note may be None; see `weights_hash` and `note`.
        """
        try:
            raw = socket.create_connection(self._host_port, timeout=self._timeout_s)
        except OSError as error:
            raise ConnectionError(f"no policy server at {self._address}: {error}") from error
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._connection = Connection(raw, self._key, is_server=False)
            hello = {"do": "hello", "interface": self._interface.to_dict()}
            data, _ = self._ask(hello, {})
        except NotAuthenticError as error:
            raw.close()
            raise ConnectionError(
                f"the policy server at {self._address} has another key than {self._key_file}: "
                "copy the server's key file"
            ) from error
        except WireError as error:
            raw.close()
            raise ConnectionError(f"the policy server at {self._address}: {error}") from error
        except BaseException as error:
            raw.close()
            self._end(str(error))
            raise
        try:
            origin = data.get("origin", {})
            self.origin = {str(key): [str(one) for one in values] for key, values in origin.items()}
            name, found, note = data["name"], data["weights_hash"], data["note"]
            if not (
                isinstance(name, str)
                and isinstance(found, str | None)
                and isinstance(note, str | None)
            ):
                raise TypeError("name, weights_hash and note must be strings")
            return plain(name), found, None if note is None else plain(note)
        except (KeyError, TypeError, AttributeError) as error:
            self._end("an invalid answer")
            raise self._invalid_answer(error) from error

    def _begin_again(self) -> None:
        """Begin a new session; retry for `_BUSY_S` while the server finishes a cancelled request.

        Raises:
            ConnectionError: the connection failed, or the server has another policy now.
        """
        until_s = time.monotonic() + _BUSY_S
        while True:
            try:
                _, found, _ = self._begin_session()
                break
            except ConnectionError as error:
                is_busy = isinstance(error.__cause__, BusyError)
                if not is_busy or time.monotonic() > until_s:
                    raise
            time.sleep(_RETRY_S)
        if found != self._hash:
            self._end("the server has another policy")
            raise ConnectionError(
                f"the policy server at {self._address} has another policy now: weights {found}, "
                f"previously {self._hash}"
            )

    def _end(self, why: str) -> None:
        connection, self._connection = self._connection, None
        self._ended_by = why
        if connection is not None:
            connection.abort()  # wakes a thread that waits for an answer
            connection.close()

    def _invalid_answer(self, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"the policy server at {self._address} sent an invalid answer: "
            f"{type(error).__name__}: {error}"
        )

    def _request(self, header: dict[str, Any], observation: Observation) -> Message:
        with self._asking:
            self.unanswered = f"the policy server at {self._address} has not answered yet"
            try:
                return self._ask(header, observation.arrays())
            except WireError as error:
                raise ConnectionError(f"the policy server at {self._address}: {error}") from error
            finally:
                self.unanswered = None

    def _ask(self, header: dict[str, Any], arrays: dict[str, Any]) -> Message:
        """Send a request, and return its answer; an error of the connection ends the session."""
        connection = self._connection
        if connection is None:
            raise ClosedError(f"the session has ended ({self._ended_by}); call reset() first")
        try:
            question = self._num_asked = self._num_asked + 1
            connection.send({**header, "question": question}, arrays)
            data, answer = connection.receive()
            if data.get("question", question) not in (
                question,
                None,
            ):  # an old server sends no number
                raise WireError(f"an answer to question {data['question']!r:.20}, not {question}")
        except BaseException as error:
            self._end(str(error))
            raise
        if data.get("ok") is not True:
            kind, message = data.get("kind"), str(data.get("error"))
            if kind == BUSY:
                self._end(message)
                raise BusyError(message)
            if kind == "ValueError":
                raise ValueError(f"the policy server at {self._address}: {message}")
            raise RuntimeError(f"the policy server at {self._address}: {kind}: {message}")
        return data, answer
