"""Ctrl-C and SIGTERM while an arm moves: the first ends the episode, the second stops the arm."""

import signal
import threading
from types import FrameType
from typing import Any, Self

from .episode_end import EpisodeEnd

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A `with` block that records signals, and restores the previous handlers at its end.

    The first signal is only recorded. The second one raises KeyboardInterrupt, once, and only
    before `settle`: afterwards the arm is at rest, and the record must not be lost. Outside the
    main thread, signals cannot be caught and nothing is recorded.

    Attributes:
        name: name of the first signal; None before it.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._is_settled = False

    def raise_if_interrupted(self) -> None:
        """Raise EpisodeEnd if there was a signal."""
        if self.name is not None:
            raise EpisodeEnd("interrupted", f"{self.name} ended the episode")

    def settle(self) -> None:
        """Only record signals from now on."""
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
