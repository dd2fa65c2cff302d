"""Queue of functions from other threads, which the physics thread calls between two steps."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait


class Jobs:
    """Queue of functions that one thread calls for other threads."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], object], Future[object]]] = deque()

    def call(self, work: Callable[[], object], timeout_s: float = 5.0) -> object:
        """Have the physics thread call a function between two steps, and return the result.

        An exception that the function raises is raised again here.

        Raises:
            TimeoutError: the function has not returned within `timeout_s`.
        """
        future: Future[object] = Future()
        self._waiting.append((work, future))
        if not wait([future], timeout_s).done:
            raise TimeoutError(f"the physics thread did not answer within {timeout_s} s")
        return future.result()

    def run(self) -> None:
        """Call all waiting functions; only the physics thread calls this method."""
        while self._waiting:
            work, future = self._waiting.popleft()
            try:
                future.set_result(work())
            except Exception as error:  # raised again in the caller's thread
                future.set_exception(error)
