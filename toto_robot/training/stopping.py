"""A scheduler's wish to stop, heard by all ranks between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .parallel import Ranks

__all__ = ["StopSignals"]


class StopSignals:
    """Take note of SIGTERM and SIGUSR1, which schedulers send before they kill."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._asked = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen for the length of a block; signals reach the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR1)
        }
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

    def _ask(self, *_: object) -> None:
        self._asked = True
