"""Messages between client and worker: JSON with its length before it."""

from __future__ import annotations

import json
import struct
from typing import Any, Callable

_LENGTH = struct.Struct(">I")


def frame(message: dict[str, Any]) -> bytes:
    """Return the bytes of one message."""
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


def read_frame(read: Callable[[int], bytes]) -> dict[str, Any]:
    """Read one message.

    Args:
        read: a function that returns the given number of bytes, or fewer at the end of the stream.

    Raises:
        EOFError: the stream ended.
    """
    length = _exactly(read, _LENGTH.size)
    return json.loads(_exactly(read, _LENGTH.unpack(length)[0]))


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) < size:
        raise EOFError("the other process closed the pipe")
    return data
