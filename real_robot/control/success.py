"""Whether the task is done: asked beside the loop, and believed when it stays so."""

from collections.abc import Callable

from ..episode import COMPLETE, Reason
from .worker import Worker

Check = Callable[[], bool | None]


class SuccessCheck:
    """Ask a check once a tick, in a thread of its own.

    Attributes:
        done_step: the tick at which the task was done; None while it is not.
        problem: what the check failed with; None when it did not.
    """

    def __init__(self, check: Check | None, num_yes: int) -> None:
        """Begin.

        Args:
            check: says whether the task is done now; None where nobody knows.
            num_yes: how many answers in a row must be yes.
        """
        self.done_step: int | None = None
        self.problem: str | None = None
        self._needed, self._num_yes = num_yes, 0
        self._newest: bool | None = None
        self._worker: Worker[None, bool | None] | None = None
        if check is not None:
            self._worker = Worker(lambda _: check(), "check")

    def look(self, num_steps: int) -> None:
        """Take the newest answer in, and ask again; `num_steps` ticks are over."""
        if self._worker is None or self.problem is not None:
            return
        try:
            answers = self._worker.take()
        except Exception as error:
            # Who cannot tell success does not make a failure of it: the episode goes on.
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
        """Return an episode's success when it ended so; None where nobody can tell."""
        if self.done_step is not None or reason == "success":
            return True
        if reason == "failure":
            return False
        # One that was cut short has not failed: nobody knows how it would have ended.
        return False if reason in COMPLETE and self._newest is not None else None

    def close(self, timeout_s: float) -> bool:
        """End the thread; say whether it did."""
        return self._worker is None or self._worker.close(timeout_s)
