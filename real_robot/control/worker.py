"""Background thread for a slow function, used for agents and success checks."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ..scheduling import drop_priority

Q = TypeVar("Q")
A = TypeVar("A")


class Worker(Generic[Q, A]):
    """Background thread that calls a function with the newest argument (the question).

    At most one question waits while the function runs; a newer question replaces it. The
    calling thread may have real-time priority; the background thread has normal priority.

    Attributes:
        news: event that is set while there is an answer or an error that `take` has not returned.
    """

    def __init__(self, function: Callable[[Q], A], name: str) -> None:
        self.news = threading.Event()
        self._function = function
        self._asked = threading.Condition()
        # the following attributes are guarded by `_asked`
        self._question: tuple[Q] | None = None
        self._answers: list[A] = []
        self._error: BaseException | None = None
        self._is_closed = False
        # A daemon: an agent that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, question: Q) -> None:
        """Pass an argument of the function (a question) to the thread, without waiting."""
        with self._asked:
            self._question = (question,)
            self._asked.notify()

    def take(self) -> list[A]:
        """Return the results of the function since the previous call of `take`, oldest first.

        Raises:
            Exception: the function raised this error. The thread has ended, and every later call
                raises the error again.
            RuntimeError: the function raised an error that is no `Exception`, such as SystemExit.
        """
        with self._asked:
            if isinstance(self._error, Exception):
                raise self._error
            if self._error is not None:  # SystemExit must not end the calling thread
                raise RuntimeError(f"the thread was ended by {self._error!r}") from self._error
            answers, self._answers = self._answers, []
            self.news.clear()
        return answers

    def close(self, timeout_s: float) -> bool:
        """End the thread, and return whether it ended within `timeout_s`."""
        with self._asked:
            self._is_closed = True
            self._asked.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        drop_priority()
        while True:
            with self._asked:
                self._asked.wait_for(lambda: self._is_closed or self._question is not None)
                if self._is_closed or self._question is None:
                    return
                (question,), self._question = self._question, None
            try:
                answer = self._function(question)
            # Any error is passed to the calling thread by `take`.
            except BaseException as error:
                with self._asked:
                    self._error = error
                    self.news.set()
                return
            with self._asked:
                self._answers.append(answer)
                self.news.set()
