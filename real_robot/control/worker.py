"""A thread that answers questions, so that who asks never waits: for agents and checks."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ..scheduling import drop_priority

Q = TypeVar("Q")
A = TypeVar("A")


class Worker(Generic[Q, A]):
    """Answer the newest question in a thread of its own.

    A question that comes while another one is answered waits; a newer one takes its place. Who asks
    may have real-time priority, who answers has none.

    Attributes:
        news: set when there is an answer, or an error, that was not taken yet.
    """

    def __init__(self, function: Callable[[Q], A], name: str) -> None:
        self.news = threading.Event()
        self._function = function
        self._asked = threading.Condition()
        # below: under `_asked`
        self._question: tuple[Q] | None = None
        self._answers: list[A] = []
        self._error: BaseException | None = None
        self._is_closed = False
        # A daemon: an agent that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, question: Q) -> None:
        """Ask, and go on."""
        with self._asked:
            self._question = (question,)
            self._asked.notify()

    def take(self) -> list[A]:
        """Return the answers that have come and were not taken yet, oldest first.

        Raises:
            Exception: whatever the function raised; from then on at every call.
        """
        with self._asked:
            if isinstance(self._error, Exception):
                raise self._error
            if self._error is not None:  # SystemExit and the like are not to end who asks
                raise RuntimeError(f"it ended itself: {self._error!r}") from self._error
            answers, self._answers = self._answers, []
            self.news.clear()
        return answers

    def close(self, timeout_s: float) -> bool:
        """End the thread; say whether it did, or is still busy with a question."""
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
            # Whatever it is, who asked hears of it.
            except BaseException as error:
                with self._asked:
                    self._error = error
                    self.news.set()
                return
            with self._asked:
                self._answers.append(answer)
                self.news.set()
