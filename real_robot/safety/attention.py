"""What a person must look at: from when anybody sees it until a person acknowledges it."""

from ..robot import RobotState


class Attention:
    """Remember user stops and reflexes that were seen; one for an arm, whoever reads its states.

    A user stop that was pressed and released again counts as much as one that is still pressed.

    Attributes:
        user_stopped: whether a user stop was seen since the last acknowledgement.
        reflexed: whether a reflex was seen since the last acknowledgement or recovery.
    """

    def __init__(self) -> None:
        self.user_stopped = self.reflexed = False
        self._recovering = False  # the reflex that is still in the robot's state is known

    @property
    def cause(self) -> str | None:
        """Return what a person must look at; None when there is nothing."""
        if self.user_stopped:
            return "the user stop was pressed"
        return "the robot stopped itself in a reflex" if self.reflexed else None

    def notice(self, state: RobotState) -> None:
        """Take in a state of the robot."""
        has_reflex = state.mode == "reflex" or bool(state.errors)
        if state.mode == "user_stopped":
            self.user_stopped = True
        elif has_reflex and not self._recovering:
            self.reflexed = True
        self._recovering = self._recovering and has_reflex

    def recover(self) -> None:
        """Note that the robot is now recovered from its reflex, without a person."""
        self.reflexed, self._recovering = False, True

    def acknowledge(self) -> None:
        """Note that a person has looked."""
        self.user_stopped = self.reflexed = False
        self._recovering = True
