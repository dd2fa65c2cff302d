"""A wish to stop, of a scheduler or by Ctrl-C, heard by all ranks between two steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .parallel import Ranks

__all__ = ["StopSignals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Take note of Ctrl-C, and of SIGTERM and SIGUSR1, which schedulers send before they kill.

    A second Ctrl-C does what it did before.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._asked = False
        self._interrupt: Any = signal.default_int_handler

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen for the length of a block; signals reach the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        self._interrupt = before[signal.SIGINT]
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def any_asked(self) -> bool:
        """Return whether any rank was asked to stop; all ranks must call it."""
        if self._ranks.mesh is None:
            return self._asked
        asked = torch.tensor(float(self._asked), device=self._ranks.device)
        return bool(self._ranks.total(asked).item())

    def _ask(self, number: int, *_: object) -> None:
        self._asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._interrupt)
            if self._ranks.first:
                # not print: a signal may come while something else is printed
                os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")
