"""Tell an episode's listeners of it, and leave out one that fails."""

from collections.abc import Callable, Sequence
from typing import Any

from ..episode import EpisodeRecord, Listener, Step


class Listeners:
    """Listeners of one episode; one that raises hears nothing more, and is noted."""

    def __init__(self, listeners: Sequence[Listener], notes: dict[str, Any]) -> None:
        self._listeners, self._notes = list(listeners), notes

    def begin(self, task: str, agent: str) -> None:
        """Tell that an episode begins."""
        self._tell(lambda listener: listener.begin(task, agent))

    def step(self, step: Step) -> None:
        """Tell that a tick is over."""
        self._tell(lambda listener: listener.step(step))

    def end(self, record: EpisodeRecord) -> None:
        """Tell that the episode is over."""
        self._tell(lambda listener: listener.end(record))

    def _tell(self, tell: Callable[[Listener], None]) -> None:
        for listener in list(self._listeners):
            try:
                tell(listener)
            # A viewer's trouble is no reason to leave an arm alone.
            except Exception as error:
                self._listeners.remove(listener)
                name = type(listener).__name__
                self._notes.setdefault("listeners_lost", []).append(f"{name}: {error}")
