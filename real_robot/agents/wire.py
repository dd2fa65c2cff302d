"""Messages between a control PC and a policy server: authenticated, counted, and no pickle.

A message on the wire:

    length   uint32, of all that follows
    mac      32 bytes: HMAC-SHA256 with the shared key over session, direction, count and body
    body     uint32 length of the header, the header as JSON, the arrays' bytes one after the other

The session is two random nonces, one from each side, so nothing of an earlier session is taken;
within it each direction counts its messages, so none can be repeated, left out or sent back. What
is said is not secret: who needs that puts the connection into an SSH tunnel or WireGuard.
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

GREETING = b"toto-policy-1\n"
_BUSY = b"toto-policy-x\n"  # as long: an earlier server's word for that somebody else is served
BUSY = "busy"  # the kind of error with which a server says so to who has proved the key
KEY_BYTES, NONCE_BYTES = 32, 32
MAX_MESSAGE_BYTES = 32 * 2**20
# Of a client that has not proved the key yet.
MAX_UNPROVEN_BYTES = 2**20
_MAX_HEADER_BYTES = 2**20
_MAC_BYTES = 32
_LENGTH = struct.Struct("<I")
_COUNT = struct.Struct("<Q")
# What may travel; anything else is refused.
_DTYPES = ("uint8", "float32", "float64")

Message = tuple[dict[str, Any], dict[str, NDArray[Any]]]


class WireError(RuntimeError):
    """Return why the other side is not understood, or not believed."""


class ClosedError(WireError):
    """The other side is gone."""


class BusyError(WireError):
    """The server serves somebody else."""


class NonsenseError(WireError):
    """What came is authentic and makes no sense; the next message may."""


class NotAuthenticError(WireError):
    """What came was not written with this key, in this session, at this place."""


class Connection:
    """Send and receive messages; one side in, one side out, in any order.

    Attributes:
        timeout_s: how long a message may take, all of it; None: for ever.
    """

    def __init__(
        self, raw: socket.socket, key: bytes, *, is_server: bool, until_s: float | None = None
    ) -> None:
        """Exchange nonces; the first message proves the key.

        Args:
            raw: connected; its timeout becomes that of each message.
            key: shared.
            is_server: which of the two sides this is.
            until_s: when, on the monotonic clock, the nonces must be there; None: as a message.

        Raises:
            WireError: the other side is something else, or gone.
        """
        self._raw, self._key = raw, key
        self.timeout_s = raw.gettimeout()
        until_s = self._until_s() if until_s is None else until_s
        self._num_sent = self._num_received = 0
        ours = os.urandom(NONCE_BYTES)
        _send(raw, GREETING + ours)
        greeting = _receive(raw, len(GREETING), until_s)
        if greeting == _BUSY:
            raise BusyError("somebody else is served now")
        if greeting != GREETING:
            raise WireError(f"the other side does not speak {GREETING.decode().strip()}")
        theirs = _receive(raw, NONCE_BYTES, until_s)
        self._session = theirs + ours if is_server else ours + theirs
        self._out, self._in = (b"s", b"c") if is_server else (b"c", b"s")

    def send(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Send plain data and arrays.

        Raises:
            ValueError: an array of a kind that does not travel, or too much in all.
            WireError: the other side is gone.
        """
        described = {}
        parts = []
        for name, array in arrays.items():
            if array.dtype.name not in _DTYPES:
                raise ValueError(f"{name}: {array.dtype} does not travel: {', '.join(_DTYPES)} do")
            described[name] = {"dtype": array.dtype.name, "shape": list(array.shape)}
            parts.append(np.ascontiguousarray(array).tobytes())
        text = json.dumps({"data": dict(header), "arrays": described}).encode()
        body = b"".join([_LENGTH.pack(len(text)), text, *parts])
        if len(body) + _MAC_BYTES > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(body)} bytes is too long ({MAX_MESSAGE_BYTES})")
        mac = self._mac(self._out, self._num_sent, body)
        self._num_sent += 1
        self._raw.settimeout(self.timeout_s)
        _send(self._raw, _LENGTH.pack(len(body) + _MAC_BYTES) + mac + body)

    def receive(
        self, *, until_s: float | None = None, max_bytes: int = MAX_MESSAGE_BYTES
    ) -> Message:
        """Wait for a message, and return it once it is proved.

        Args:
            until_s: when, on the monotonic clock, all of it must be there; None: `timeout_s` from
                now on, however slowly it drips.
            max_bytes: a longer one is not read.

        Raises:
            ClosedError: the other side is gone.
            NotAuthenticError: it is of another key, changed, repeated or left out.
            NonsenseError: it is proved and makes no sense.
            WireError: it is too long, or did not come in time.
        """
        until_s = self._until_s() if until_s is None else until_s
        (length,) = _LENGTH.unpack(_receive(self._raw, _LENGTH.size, until_s))
        if not _MAC_BYTES + _LENGTH.size <= length <= max_bytes:
            raise WireError(f"a message of {length} bytes is not taken (most: {max_bytes})")
        mac = _receive(self._raw, _MAC_BYTES, until_s)
        body = _receive(self._raw, length - _MAC_BYTES, until_s)
        expected = self._mac(self._in, self._num_received, body)
        if not hmac.compare_digest(mac, expected):
            raise NotAuthenticError(
                "a message is not authentic: another key, or it was changed or repeated"
            )
        self._num_received += 1
        return _parse(body)

    def abort(self) -> None:
        """Disconnect while another thread waits for a message: it hears that the side is gone."""
        with contextlib.suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Disconnect."""
        self._raw.close()

    def _until_s(self) -> float | None:
        return None if self.timeout_s is None else time.monotonic() + self.timeout_s

    def _mac(self, direction: bytes, count: int, body: bytes) -> bytes:
        said = self._session + direction + _COUNT.pack(count) + body
        return hmac.digest(self._key, said, hashlib.sha256)


def _parse(body: bytes) -> Message:
    """Take a proved body apart; it is still checked, since a friend may be wrong."""
    (length,) = _LENGTH.unpack_from(body)
    if length > min(_MAX_HEADER_BYTES, len(body) - _LENGTH.size):
        raise NonsenseError(f"a header of {length} bytes is not taken")
    start = _LENGTH.size + length
    try:
        header = json.loads(body[_LENGTH.size : start])
        data, described = header["data"], header["arrays"]
        arrays: dict[str, NDArray[Any]] = {}
        for name, kind in described.items():
            if kind["dtype"] not in _DTYPES:
                raise ValueError(f"{name} is of {kind['dtype']}")
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
            raise ValueError(f"{len(body) - start} bytes belong to nothing")
        if not isinstance(data, dict):
            raise ValueError("its data are no mapping")
    # nested too deep, sizes beyond all numbers, a list for a mapping: whatever it is, it is refused
    except Exception as error:
        raise NonsenseError(f"a message makes no sense: {type(error).__name__}: {error}") from error
    return data, arrays


def read_key(path: Path) -> bytes:
    """Read a key file.

    Raises:
        FileNotFoundError: there is none; with how to get one.
        ValueError: others may read it, or it is no key.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no key in {path}: the policy server makes one when it starts; copy it (scp -p)"
        )
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ValueError(f"others may read {path} (mode {mode:04o}): chmod 600 {path}")
    text = path.read_text().strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} is no key of {KEY_BYTES} bytes in hexadecimal")
    return key


def make_key(path: Path) -> bytes:
    """Write a new key that only its owner may read, and give it.

    Raises:
        FileExistsError: there is one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = os.urandom(KEY_BYTES)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key.hex() + "\n")
    try:
        os.link(aside, path)  # whole or not there, and never over another's
    finally:
        aside.unlink()
    return key


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`.

    Raises:
        ValueError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise ValueError(f"expected HOST:PORT, got {text!r}")
    return host, int(port)


def _send(raw: socket.socket, data: bytes) -> None:
    try:
        raw.sendall(data)
    except TimeoutError as error:
        raise WireError("the other side takes nothing more in time") from error
    except OSError as error:
        raise ClosedError(f"the other side is gone: {error}") from error


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
            raise ClosedError(f"the other side is gone: {error}") from error
        if count == 0:
            raise ClosedError("the other side closed the connection")
        got += count
    return bytes(data)
