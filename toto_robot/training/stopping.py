"""Handle Ctrl-C and the stop signals of schedulers, so that all ranks stop after the same step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .parallel import Ranks

__all__ = ["StopSignals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """A handler of stop requests: Ctrl-C, SIGTERM and SIGUSR1.

    Schedulers send SIGTERM or SIGUSR1 before they kill a job. A second Ctrl-C interrupts the
    process at once.

    Attributes:
        asked: True if this rank received a stop request.
        number: the last signal that this rank received; SIGTERM if there was none.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.asked = False
        self.number: int = signal.SIGTERM
        self._interrupt: Any = signal.default_int_handler

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle the signals inside a `with` block. Outside the main thread, do nothing."""
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

    def _ask(self, number: int, *_: object) -> None:
        self.asked, self.number = True, number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._interrupt)
            if self._ranks.first:
                # `print` is not safe here, because the signal may arrive during another print
                os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")
