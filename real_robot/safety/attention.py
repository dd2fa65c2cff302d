"""User stops and reflexes that a person must acknowledge before the arm moves again."""

from ..robot import RobotState


class Attention:
    """The unacknowledged user stops and reflexes of one arm.

    One object is shared by all code that reads the states of the arm. A user stop that was pressed
    and released counts in the same way as one that is still pressed.

    Attributes:
        user_stopped: True if a state since the last acknowledgement showed a user stop.
        reflexed: True if a state since the last acknowledgement or recovery showed a reflex.
    """

    def __init__(self) -> None:
        self.user_stopped = self.reflexed = False
        self._recovering = False  # the reflex still in the robot's state was already handled

    @property
    def cause(self) -> str | None:
        """Return the event that a person must acknowledge, as text; None without an event."""
        if self.user_stopped:
            return "the user stop was pressed"
        return "the robot stopped itself in a reflex" if self.reflexed else None

    def notice(self, state: RobotState) -> None:
        """Record a user stop or a reflex that a state of the robot shows."""
        has_reflex = state.mode == "reflex" or bool(state.errors)
        if state.mode == "user_stopped":
            self.user_stopped = True
        elif has_reflex and not self._recovering:
            self.reflexed = True
        self._recovering = self._recovering and has_reflex

    def recover(self) -> None:
        """Record that the robot recovers from its reflex without a person."""
        self.reflexed, self._recovering = False, True

    def acknowledge(self) -> None:
        """Record that a person has checked the arm."""
        self.user_stopped = self.reflexed = False
        self._recovering = True
