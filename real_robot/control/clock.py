"""The loop's clock, so that a test can bring its own."""

import threading
import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Tell the time, and let it pass."""

    def now_s(self) -> float:
        """Return the time on the clock of all stamps."""
        ...

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait until the event, if any, is set or the time has come; say whether it is set."""
        ...


class MonotonicClock:
    """`time.monotonic`, the clock of robots and cameras."""

    def now_s(self) -> float:
        """Return the time."""
        return time.monotonic()

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait until the event, if any, is set or the time has come."""
        left_s = max(0.0, until_s - time.monotonic())
        if news is not None:
            return news.wait(left_s)
        time.sleep(left_s)
        return False
