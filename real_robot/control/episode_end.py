"""The end of an episode: its reason, and a message for a person."""

from collections.abc import Sequence

from ..cameras.camera import Camera, CameraError
from ..episode import REASONS, Reason
from ..robot import RobotState
from ..safety.layer import Decision

# The beginning of a cause of the safety layer, and the reason that belongs to it.
_REASONS_OF_CAUSES: tuple[tuple[str, Reason], ...] = (
    ("the action", "policy"),
    ("the frame", "camera"),
    ("the robot's state is", "connection"),
    ("the robot's state has", "connection"),
    ("the clock", "error"),
)


class EpisodeEnd(Exception):
    """An exception that ends the running episode, with a reason and a message.

    An unknown reason, from an operator or an agent, becomes `error`; the message names it.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        if reason not in REASONS:
            message = f"{reason!r} is not a reason to end ({', '.join(REASONS)}): {message}"
            reason = "error"
        self.reason: Reason = reason
        self.message = str(message)


def halted(state: RobotState) -> Reason | None:
    """Return the reason that the robot's mode implies; None if the robot follows targets."""
    if state.mode == "user_stopped":
        return "user_stop"
    if state.mode == "guiding":
        return "operator"
    return "reflex" if state.mode == "reflex" or state.errors else None


def stopped(
    decision: Decision, state: RobotState, agent: str, cameras: Sequence[Camera]
) -> EpisodeEnd:
    """Return the end of an episode that the safety layer stopped, with its reason and causes."""
    cause = "; ".join(decision.causes)
    if decision.verdict == "end":
        return EpisodeEnd(halted(state) or "safety", cause)
    found = [reason for words, reason in _REASONS_OF_CAUSES if decision.causes[0].startswith(words)]
    reason: Reason = found[0] if found else "safety"
    if reason == "policy":
        cause = f"{agent}: {cause}"
    if reason == "camera":
        problems = [_problem(camera) for camera in cameras]
        cause = "; ".join([cause, *(problem for problem in problems if problem)])
    return EpisodeEnd(reason, cause)


def _problem(camera: Camera) -> str | None:
    """Return the camera's own message about why it has no new frame; None when it has one."""
    try:
        camera.read(0.0)
    except CameraError as error:
        return str(error)
    return None
