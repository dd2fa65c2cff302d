"""Network messages between the computer of the arm (client) and a policy server.

The messages are authenticated and numbered, and are not pickled. A message consists of:

    length   uint32, the number of bytes that follow
    mac      32 bytes: HMAC-SHA256 with the shared key over session, direction, message
             number and body
    body     uint32 length of the header, the header as JSON, then the bytes of the arrays

Client and server each send a random number (nonce) at the start. The two nonces identify the
session, so a message of an earlier session is refused. Messages are numbered, separately for each
direction. A message that is repeated, missing or sent back to its sender is therefore detected.
Messages are not encrypted. If they must be secret, use an SSH tunnel or WireGuard.
"""

import contextlib
import hashlib
import hmac
import json
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toto_robot.moved import moved_names

GREETING = b"toto-policy-1\n"
_BUSY = b"toto-policy-x\n"  # an older server sends this instead of GREETING if it is busy
# The kind of error with which a server reports to an authenticated client that it is busy.
BUSY = "busy"
KEY_BYTES, NONCE_BYTES = 32, 32
MAX_MESSAGE_BYTES = 32 * 2**20
# The greatest length of a message from a client that is not authenticated yet.
MAX_UNPROVEN_BYTES = 2**20
_MAX_HEADER_BYTES = 2**20
_MAC_BYTES = 32
_LENGTH = struct.Struct("<I")
_COUNT = struct.Struct("<Q")
# The types of arrays that can be sent; others are refused.
_DTYPES = ("uint8", "float32", "float64")

Message = tuple[dict[str, Any], dict[str, NDArray[Any]]]


class WireError(RuntimeError):
    """Error in the communication between client and policy server."""


class ClosedError(WireError):
    """Error: the other side has closed the connection."""


class BusyError(WireError):
    """Error: the server is busy with another client."""


class MalformedError(WireError):
    """Error: a message is authentic but has a wrong format; the next message may be valid."""


class NotAuthenticError(WireError):
    """Error: a message was made with another key, belongs to another session or is out of order."""


class Connection:
    """Authenticated connection; both sides may send and receive messages at any time.

    Attributes:
        timeout_s: time limit for sending or receiving one message, s; None means no limit.
    """

    def __init__(
        self, raw: socket.socket, key: bytes, *, is_server: bool, until_s: float | None = None
    ) -> None:
        """Exchange nonces with the other side.

        The key is not checked here; each received message is checked with it.

        Args:
            raw: the connected socket; its timeout becomes the time limit of each message.
            key: the secret key that both sides share.
            is_server: True on the server's side, False on the client's side.
            until_s: deadline for the nonces, a time of the monotonic clock, s; None: the time
                limit of a message.

        Raises:
            BusyError: the server is busy with another client.
            WireError: the other side uses another protocol, has disconnected, or is too slow.
        """
        self._raw, self._key = raw, key
        self.timeout_s = raw.gettimeout()
        until_s = self._until_s() if until_s is None else until_s
        self._num_sent = self._num_received = 0
        ours = os.urandom(NONCE_BYTES)
        _send(raw, GREETING + ours)
        greeting = _receive(raw, len(GREETING), until_s)
        if greeting == _BUSY:
            raise BusyError("it serves another client now")
        if greeting != GREETING:
            raise WireError(f"the other side does not use the protocol {GREETING.decode().strip()}")
        theirs = _receive(raw, NONCE_BYTES, until_s)
        self._session = theirs + ours if is_server else ours + theirs
        self._out, self._in = (b"s", b"c") if is_server else (b"c", b"s")

    def send(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Send a message.

        Args:
            header: data that JSON can represent.
            arrays: NumPy arrays, by name.

        Raises:
            ValueError: an array has a type that cannot be sent, or the message is too long.
            WireError: the other side has disconnected, or the time limit has passed.
        """
        described = {}
        parts = []
        for name, array in arrays.items():
            if array.dtype.name not in _DTYPES:
                raise ValueError(
                    f"{name}: {array.dtype} cannot be sent; valid: {', '.join(_DTYPES)}"
                )
            described[name] = {"dtype": array.dtype.name, "shape": list(array.shape)}
            parts.append(np.ascontiguousarray(array).tobytes())
        text = json.dumps({"data": dict(header), "arrays": described}).encode()
        body = b"".join([_LENGTH.pack(len(text)), text, *parts])
        if len(body) + _MAC_BYTES > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"a message of {len(body)} bytes is too long (at most {MAX_MESSAGE_BYTES})"
            )
        mac = self._mac(self._out, self._num_sent, body)
        self._num_sent += 1
        self._raw.settimeout(self.timeout_s)
        _send(self._raw, _LENGTH.pack(len(body) + _MAC_BYTES) + mac + body)

    def receive(
        self, *, until_s: float | None = None, max_bytes: int = MAX_MESSAGE_BYTES
    ) -> Message:
        """Wait for a message, check that it is authentic, and return it.

        Args:
            until_s: deadline for the whole message, a time of the monotonic clock, s; None:
                `timeout_s` from now.
            max_bytes: greatest accepted length of the message.

        Raises:
            ClosedError: the other side has closed the connection.
            NotAuthenticError: the message was made with another key, was changed or repeated, or an
                earlier message is missing.
            MalformedError: the message is authentic but does not have the format that is described
                at the top of this module.
            WireError: the message is too long, or did not arrive in time.
        """
        until_s = self._until_s() if until_s is None else until_s
        (length,) = _LENGTH.unpack(_receive(self._raw, _LENGTH.size, until_s))
        if not _MAC_BYTES + _LENGTH.size <= length <= max_bytes:
            raise WireError(f"a message of {length} bytes is refused (at most {max_bytes})")
        mac = _receive(self._raw, _MAC_BYTES, until_s)
        body = _receive(self._raw, length - _MAC_BYTES, until_s)
        expected = self._mac(self._in, self._num_received, body)
        if not hmac.compare_digest(mac, expected):
            raise NotAuthenticError(
                "a message is not authentic: it has another key, or was changed or repeated"
            )
        self._num_received += 1
        return _parse(body)

    def abort(self) -> None:
        """Disconnect; a `receive` that waits in another thread then raises ClosedError."""
        with contextlib.suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Disconnect."""
        self._raw.close()

    def _until_s(self) -> float | None:
        return None if self.timeout_s is None else time.monotonic() + self.timeout_s

    def _mac(self, direction: bytes, count: int, body: bytes) -> bytes:
        signed = self._session + direction + _COUNT.pack(count) + body
        return hmac.digest(self._key, signed, hashlib.sha256)


def _parse(body: bytes) -> Message:
    """Check the body of an authentic message, and return its header and its arrays."""
    (length,) = _LENGTH.unpack_from(body)
    if length > min(_MAX_HEADER_BYTES, len(body) - _LENGTH.size):
        raise MalformedError(f"a header of {length} bytes is refused")
    start = _LENGTH.size + length
    try:
        header = json.loads(body[_LENGTH.size : start])
        data, described = header["data"], header["arrays"]
        arrays: dict[str, NDArray[Any]] = {}
        for name, kind in described.items():
            if kind["dtype"] not in _DTYPES:
                raise ValueError(f"{name} has the type {kind['dtype']}")
            shape = tuple(int(size) for size in kind["shape"])
            if any(size < 0 for size in shape):
                raise ValueError(f"{name} has shape {shape}")
            dtype = np.dtype(kind["dtype"])
            end = start + math.prod(shape) * dtype.itemsize
            if end > len(body):
                raise ValueError(f"{name} is longer than the message")
            array = np.frombuffer(body[start:end], dtype=dtype).reshape(shape)
            array.flags.writeable = False
            arrays[str(name)], start = array, end
        if start != len(body):
            raise ValueError(f"{len(body) - start} bytes belong to no array")
        if not isinstance(data, dict):
            raise ValueError("its data are not a mapping")
    # any error counts: too deep nesting, a size that overflows, a list instead of a mapping
    except Exception as error:
        raise MalformedError(f"a message is malformed: {type(error).__name__}: {error}") from error
    return data, arrays


def read_key(path: Path) -> bytes:
    """Return the key in a key file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: other users may read the file, or it does not contain a key.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no key file {path}: the policy server writes one when it starts; "
            "copy it (scp -p)"
        )
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ValueError(f"other users may read {path} (mode {mode:04o}): run chmod 600 {path}")
    text = path.read_text().strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} must contain a key of {KEY_BYTES} bytes in hexadecimal")
    return key


def make_key(path: Path) -> bytes:
    """Write a new key file that only its owner may read, and return the key.

    Raises:
        FileExistsError: the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = os.urandom(KEY_BYTES)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key.hex() + "\n")
    try:
        os.link(aside, path)  # complete or absent, and never overwrites a file
    finally:
        aside.unlink()
    return key


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`.

    Raises:
        ValueError: the text has another form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise ValueError(f"expected HOST:PORT, got {text!r}")
    return host, int(port)


def _send(raw: socket.socket, data: bytes) -> None:
    try:
        raw.sendall(data)
    except TimeoutError as error:
        raise WireError("the other side did not receive the message in time") from error
    except OSError as error:
        raise ClosedError(f"the other side has disconnected: {error}") from error


def _receive(raw: socket.socket, size: int, until_s: float | None) -> bytes:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        try:
            if until_s is not None:
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                raw.settimeout(left_s)
            count = raw.recv_into(view[got:])
        except TimeoutError as error:
            raise WireError("no answer came in time") from error
        except OSError as error:
            raise ClosedError(f"the other side has disconnected: {error}") from error
        if count == 0:
            raise ClosedError("the other side closed the connection")
        got += count
    return bytes(data)


__getattr__ = moved_names(__name__, {"NonsenseError": "real_robot.agents.wire:MalformedError"})
