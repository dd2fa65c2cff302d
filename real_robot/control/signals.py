"""Handle Ctrl-C, SIGTERM, and SIGHUP, which a closed terminal sends.

During an episode, the first signal ends the episode, and the second signal stops the arm at once.
At other times, the signals raise KeyboardInterrupt, so that the arm is stopped on the way out.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from .episode_end import EpisodeEnd

_HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()  # not on Windows
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *_HANGUP)


class Interrupts:
    """Context manager that catches the signals, and restores the old handlers at its end.

    The first signal is only recorded. The second signal raises KeyboardInterrupt; further signals
    have no effect. SIGHUP is never a second signal, because a closed terminal often sends it twice.
    A SIGHUP that the process ignores, as after `nohup`, stays ignored. After `settle`, no signal
    raises an exception, because the arm is at rest and the record must not be lost. Python can
    catch signals only in the main thread; in another thread, this context manager has no effect.

    Attributes:
        name: name of the first signal, `Ctrl-C`, `SIGTERM` or `SIGHUP`; None before it.
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
        self._before = _handle(_SIGNALS, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            if not self._is_settled and number not in _HANGUP:
                self._is_settled = True
                raise KeyboardInterrupt
            return
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM and SIGHUP, as at Ctrl-C.

    Without it, they end the process at once. Further signals of these two kinds have no effect, so
    that they do not interrupt the stop of the arm. In a thread other than the main thread, this
    context manager has no effect.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = _handle((signal.SIGTERM, *_HANGUP), interrupt)
    try:
        yield
    finally:
        _restore(before)


def _handle(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]
) -> dict[signal.Signals, Any]:
    """Set the handler of the signals, but not of an ignored SIGHUP, and return the old ones."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    ignored = [number for number in _HANGUP if signal.getsignal(number) is signal.SIG_IGN]
    wanted = [number for number in numbers if number not in ignored]
    return {number: signal.signal(number, handler) for number in wanted}


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
