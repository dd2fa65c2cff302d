"""Record of user stops and reflexes that a person must acknowledge before the arm moves again."""

from ..robot import RobotState


class Attention:
    """Record of the user stops and reflexes of one arm that no person has acknowledged yet.

    A reflex is a stop of the robot's controller, for example after a collision. All code that reads
    the states of the arm shares one `Attention` object. A user stop counts until it is
    acknowledged, even if the button is released earlier.

    Attributes:
        user_stopped: True if a state since the last acknowledgement showed a user stop.
        reflexed: True if a state since the last acknowledgement or recovery showed a reflex.
    """

    def __init__(self) -> None:
        self.user_stopped = self.reflexed = False
        # True while the robot's state still shows a reflex that was handled.
        self._recovering = False

    @property
    def cause(self) -> str | None:
        """Return a text that names the event to acknowledge; None if there is no event."""
        if self.user_stopped:
            return "the user stop was pressed"
        return "the robot stopped itself in a reflex" if self.reflexed else None

    def notice(self, state: RobotState) -> None:
        """Record a user stop or a reflex if this state of the robot shows one."""
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
