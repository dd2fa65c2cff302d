"""Clock of the control loop; tests replace it by a simulated clock."""

import threading
import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Clock that the control loop uses to read the time, and to wait."""

    def now_s(self) -> float:
        """Return the current time, s, on the clock of all timestamps."""
        ...

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait until the event is set or until `until_s`; return whether the event is set.

        Args:
            news: the event; None waits until `until_s`, and the result is False.
            until_s: latest end of the waiting, s.
        """
        ...


class MonotonicClock:
    """Clock `time.monotonic`, from which robots and cameras also take their timestamps."""

    def now_s(self) -> float:
        """Return the current time."""
        return time.monotonic()

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait until the event is set or until `until_s`; return whether the event is set.

        Args:
            news: the event; None waits until `until_s`, and the result is False.
            until_s: latest end of the waiting, s.
        """
        left_s = max(0.0, until_s - time.monotonic())
        if news is not None:
            return news.wait(left_s)
        time.sleep(left_s)
        return False
