"""Messages between client and worker: JSON with its length before it."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO, Callable

_LENGTH = struct.Struct(">I")


def write_frame(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message to a stream."""
    body = json.dumps(message).encode()
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


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
