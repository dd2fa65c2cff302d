"""Handle Ctrl-C and SIGTERM during an episode.

The first signal ends the episode. The second signal stops the arm at once.
"""

import signal
import threading
from types import FrameType
from typing import Any, Self

from .episode_end import EpisodeEnd

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Context manager that catches Ctrl-C and SIGTERM, and restores the old handlers at its end.

    The first signal is only recorded. The second signal raises KeyboardInterrupt; further signals
    have no effect. After `settle`, no signal raises an exception, because the arm is at rest and
    the record must not be lost. Python can catch signals only in the main thread; in another
    thread, this context manager has no effect.

    Attributes:
        name: name of the first signal, `Ctrl-C` or `SIGTERM`; None before it.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._is_settled = False

    def raise_if_interrupted(self) -> None:
        """Check whether a signal has arrived.

        Raises:
            EpisodeEnd: a signal has arrived.
        """
        if self.name is not None:
            raise EpisodeEnd("interrupted", f"{self.name} ended the episode")

    def settle(self) -> None:
        """Only record signals from now on, without raising KeyboardInterrupt."""
        self._is_settled = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            if not self._is_settled:
                self._is_settled = True
                raise KeyboardInterrupt
            return
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
