"""Work that other threads hand to the physics thread, done between two steps."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait


class Jobs:
    """A queue of work for one thread."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], object], Future[object]]] = deque()

    def call(self, work: Callable[[], object], timeout_s: float = 5.0) -> object:
        """Have the physics thread do something between two steps, and return its result.

        Raises:
            TimeoutError: the physics does not run.
        """
        future: Future[object] = Future()
        self._waiting.append((work, future))
        if not wait([future], timeout_s).done:
            raise TimeoutError(f"the physics thread did not answer within {timeout_s} s")
        return future.result()

    def run(self) -> None:
        """Do all that waits; for the physics thread."""
        while self._waiting:
            work, future = self._waiting.popleft()
            try:
                future.set_result(work())
            except Exception as error:  # it is the caller's
                future.set_exception(error)
