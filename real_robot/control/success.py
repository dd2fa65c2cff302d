"""Detection of success during an episode, with a check function in a separate thread.

The task counts as done after several positive answers in a row.
"""

from collections.abc import Callable

from ..episode import COMPLETE, Reason
from .worker import Worker

Check = Callable[[], bool | None]


class SuccessCheck:
    """Success check that runs in a separate thread, about once per time step.

    Attributes:
        done_step: number of time steps after which the task was done; None until it is done.
        problem: error message if the check function raised an error, else None.
    """

    def __init__(self, check: Check | None, num_yes: int) -> None:
        """Start the thread.

        Args:
            check: function that returns True if the task is done now, False if not, and None if
                unknown. None instead of a function: success is not checked.
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
        """Read the newest answers, and start the check again.

        Args:
            num_steps: number of time steps of the episode until now.
        """
        if self._worker is None or self.problem is not None:
            return
        try:
            answers = self._worker.take()
        except Exception as error:
            # An error of the check does not mean that the task failed: the episode continues.
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
        """Return whether an episode that ended for `reason` succeeded; None if unknown."""
        if self.done_step is not None or reason == "success":
            return True
        if reason == "failure":
            return False
        # The outcome of a truncated episode is unknown.
        return False if reason in COMPLETE and self._newest is not None else None

    def close(self, timeout_s: float) -> bool:
        """End the thread, and return whether it ended within `timeout_s`."""
        return self._worker is None or self._worker.close(timeout_s)
