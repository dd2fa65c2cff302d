"""Reasons and messages for the end of an episode."""

from collections.abc import Sequence

from ..cameras.camera import Camera, CameraError
from ..episode import REASONS, Reason
from ..robot import RobotState
from ..safety.layer import Decision

# First words of a cause that the safety layer reports, and the reason of the episode's end.
_REASONS_OF_CAUSES: tuple[tuple[str, Reason], ...] = (
    ("the action", "policy"),
    ("the frame", "camera"),
    ("the robot's state is", "connection"),
    ("the robot's state has", "connection"),
    ("the clock", "error"),
)


class EpisodeEnd(Exception):
    """Exception that ends the running episode, with a reason and a message.

    An operator or an agent may pass a reason that is not in `Reason`. The reason is then `error`,
    and the message contains the unknown reason.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        if reason not in REASONS:
            message = f"{reason!r} is not a reason to end ({', '.join(REASONS)}): {message}"
            reason = "error"
        self.reason: Reason = reason
        self.message = str(message)


def halted(state: RobotState) -> Reason | None:
    """Return why the robot does not follow targets (from its mode); None if it follows them."""
    if state.mode == "user_stopped":
        return "user_stop"
    if state.mode == "guiding":
        return "operator"
    return "reflex" if state.mode == "reflex" or state.errors else None


def stopped(
    decision: Decision, state: RobotState, agent: str, cameras: Sequence[Camera]
) -> EpisodeEnd:
    """Return the exception that ends an episode after the safety layer has stopped the arm.

    Args:
        decision: decision of the safety layer, with its causes.
        state: newest state of the robot.
        agent: name of the agent, for the message.
        cameras: the cameras; their problems are added to the message.
    """
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
    """Return the camera's message about why it has no new frame; None if it has a new frame."""
    try:
        camera.read(0.0)
    except CameraError as error:
        return str(error)
    return None
