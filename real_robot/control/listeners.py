"""Call the listeners of an episode (such as the viewer), and remove a listener that fails."""

from collections.abc import Callable, Sequence
from typing import Any

from ..episode import EpisodeRecord, Listener, Step


class Listeners:
    """Listeners of one episode; a listener that raises an error is removed.

    The notes of the episode then contain the name of this listener.
    """

    def __init__(self, listeners: Sequence[Listener], notes: dict[str, Any]) -> None:
        self._listeners, self._notes = list(listeners), notes

    def begin(self, task: str, agent: str) -> None:
        """Notify the listeners that an episode begins."""
        self._notify(lambda listener: listener.begin(task, agent))

    def step(self, step: Step) -> None:
        """Notify the listeners of a completed step."""
        self._notify(lambda listener: listener.step(step))

    def end(self, record: EpisodeRecord) -> None:
        """Notify the listeners that the episode is over."""
        self._notify(lambda listener: listener.end(record))

    def _notify(self, call: Callable[[Listener], None]) -> None:
        for listener in list(self._listeners):
            try:
                call(listener)
            # An error in a viewer must not end the control of the arm.
            except Exception as error:
                self._listeners.remove(listener)
                name = type(listener).__name__
                self._notes.setdefault("listeners_lost", []).append(f"{name}: {error}")
