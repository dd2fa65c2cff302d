"""The main loop of the worker: read a command, run it, write its result."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from .frames import frame, read_frame

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer commands until the client closes the pipe."""
    # The kernel kills this process when the thread of the client that started it ends.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client decides what Ctrl-C does
    requests, replies = _take_pipes()
    commands = Commands()
    while True:
        try:
            request = read_frame(requests.read)
        except EOFError:
            break
        try:
            reply = {"result": getattr(commands, "do_" + request.pop("command"))(**request)}
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            reply = {"error": message, "traceback": traceback.format_exc()}
        replies.write(frame(reply))
        replies.flush()
    os._exit(0)  # Isaac Gym can crash while Python shuts down


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the streams of commands and replies.

    Isaac Gym prints to stdout, also from C++, so the descriptor 1 becomes a copy of stderr.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, replies


class Commands:
    """The commands of the client; each method `do_<command>` returns its result as JSON."""

    def do_hello(self) -> dict[str, Any]:
        """Import Isaac Gym and torch, in this order, and return the versions."""
        from isaacgym import gymapi
        import isaacgym
        import numpy as np
        import torch

        cuda = torch.cuda.is_available()
        return {
            "python": platform.python_version(),
            "executable": sys.executable,
            "isaacgym": str(getattr(isaacgym, "__file__", "")),
            "fake": bool(getattr(gymapi, "__fake__", False)),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "numpy": np.__version__,
        }

    def do_create(self, plan: str) -> None:
        """Create the worlds.

        Args:
            plan: path of the JSON file with the plan.
        """
        from .worlds import Worlds

        self._worlds = Worlds(json.loads(Path(plan).read_text()))

    def do_attach(self, name: str, layout: dict[str, Any]) -> None:
        """Attach the shared memory."""
        from .slots import Slots

        self._slots = Slots(layout, name)
        self._worlds.attach(self._slots.arrays)

    def do_follow(self, num_targets: int, num_steps: int) -> list[int]:
        """Simulate; return the indices of the worlds whose physics diverged."""
        return self._worlds.follow(num_targets, num_steps)

    def do_draw(self) -> None:
        """Render all cameras of all worlds into the shared memory."""
        self._worlds.draw()

    def do_paint(self, rows: list[int], colors: list[dict[str, list[float]]]) -> None:
        """Change colours of bodies in the worlds `rows`."""
        self._worlds.paint(rows, colors)

    def do_share(self) -> dict[str, Any]:
        """Return the CUDA IPC handles of the image buffers, by camera."""
        return self._worlds.share()
