"""The clock of the control loop; tests replace it."""

import threading
import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """The interface of a clock."""

    def now_s(self) -> float:
        """Return the current time, on the clock of all timestamps."""
        ...

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait until the event is set or until `until_s`; return whether the event is set."""
        ...


class MonotonicClock:
    """The clock `time.monotonic`, which robots and cameras use."""

    def now_s(self) -> float:
        """Return the current time."""
        return time.monotonic()

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait until the event is set or until `until_s`; return whether the event is set."""
        left_s = max(0.0, until_s - time.monotonic())
        if news is not None:
            return news.wait(left_s)
        time.sleep(left_s)
        return False
