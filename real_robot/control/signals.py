"""Ctrl-C and SIGTERM while an arm moves: the first asks for an end, the second ends at once."""

import signal
import threading
from types import FrameType
from typing import Any, Self

from .episode_end import EpisodeEnd

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Note signals while a `with` block runs, and put the handlers back that were there.

    The first is noted. The second raises KeyboardInterrupt, once, and only until `settle`: from
    then on the arm is at rest, and the record of what it did must not be lost. Outside of the main
    thread signals cannot be caught: there it notes nothing.

    Attributes:
        name: of the first signal; None while there was none.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._is_settled = False

    def ended(self) -> None:
        """End the episode if there was a signal.

        Raises:
            EpisodeEnd: there was.
        """
        if self.name is not None:
            raise EpisodeEnd("interrupted", f"{self.name} ended the episode")

    def settle(self) -> None:
        """Only note signals from now on."""
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
