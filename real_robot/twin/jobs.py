"""Calls from other threads that the physics thread runs between two steps."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait


class Jobs:
    """A queue of calls for one thread."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], object], Future[object]]] = deque()

    def call(self, work: Callable[[], object], timeout_s: float = 5.0) -> object:
        """Run a function in the physics thread between two steps, and return its result.

        Raises:
            TimeoutError: the physics thread does not answer.
        """
        future: Future[object] = Future()
        self._waiting.append((work, future))
        if not wait([future], timeout_s).done:
            raise TimeoutError(f"the physics thread did not answer within {timeout_s} s")
        return future.result()

    def run(self) -> None:
        """Run all waiting calls, in the physics thread."""
        while self._waiting:
            work, future = self._waiting.popleft()
            try:
                future.set_result(work())
            except Exception as error:  # raised again in the caller's thread
                future.set_exception(error)
