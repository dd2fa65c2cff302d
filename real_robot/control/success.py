"""Success detection: a check that runs beside the loop and must hold for several ticks."""

from collections.abc import Callable

from ..episode import COMPLETE, Reason
from .worker import Worker

Check = Callable[[], bool | None]


class SuccessCheck:
    """A check of success that is called once per tick, in its own thread.

    Attributes:
        done_step: the tick at which the task was done; None before.
        problem: the error of a check that failed; None without one.
    """

    def __init__(self, check: Check | None, num_yes: int) -> None:
        """Start the thread.

        Args:
            check: returns whether the task is done now, None if unknown; None: there is no check.
            num_yes: number of answers in a row that must be True.
        """
        self.done_step: int | None = None
        self.problem: str | None = None
        self._needed, self._num_yes = num_yes, 0
        self._newest: bool | None = None
        self._worker: Worker[None, bool | None] | None = None
        if check is not None:
            self._worker = Worker(lambda _: check(), "check")

    def update(self, num_steps: int) -> None:
        """Read the newest answers, and call the check again; `num_steps` ticks are over."""
        if self._worker is None or self.problem is not None:
            return
        try:
            answers = self._worker.take()
        except Exception as error:
            # A check that fails is not a failed task: the episode continues.
            self.problem = f"{type(error).__name__}: {error}"
            return
        self._worker.ask(None)
        for answer in answers:
            if answer is not None:
                self._newest = answer
                self._num_yes = self._num_yes + 1 if answer else 0
        if self._num_yes >= self._needed and self.done_step is None:
            self.done_step = num_steps

    def verdict(self, reason: Reason) -> bool | None:
        """Return the success of an episode that ended for `reason`; None if unknown."""
        if self.done_step is not None or reason == "success":
            return True
        if reason == "failure":
            return False
        # The outcome of a truncated episode is unknown.
        return False if reason in COMPLETE and self._newest is not None else None

    def close(self, timeout_s: float) -> bool:
        """End the thread; return whether it ended in time."""
        return self._worker is None or self._worker.close(timeout_s)
