"""Work that other threads hand to the physics thread, done between two steps."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Job:
    work: Callable[[], object]
    done: threading.Event = field(default_factory=threading.Event)
    result: object = None
    error: Exception | None = None


class Jobs:
    """A queue of work for one thread."""

    def __init__(self) -> None:
        self._waiting: deque[_Job] = deque()

    def call(self, work: Callable[[], object], timeout_s: float = 5.0) -> object:
        """Have the physics thread do something between two steps, and return its result.

        Raises:
            TimeoutError: the physics does not run.
        """
        job = _Job(work)
        self._waiting.append(job)
        if not job.done.wait(timeout_s):
            raise TimeoutError(f"the physics thread did not answer within {timeout_s} s")
        if job.error is not None:
            raise job.error
        return job.result

    def run(self) -> None:
        """Do all that waits; for the physics thread."""
        while self._waiting:
            job = self._waiting.popleft()
            try:
                job.result = job.work()
            except Exception as error:  # it is the caller's
                job.error = error
            job.done.set()
