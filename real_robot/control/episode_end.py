"""Why an episode ended: whose fault it was, as a reason and in words for a person."""

from collections.abc import Sequence

from ..cameras.camera import Camera, CameraError
from ..episode import REASONS, Reason
from ..robot import RobotState
from ..safety.layer import Decision

# What the safety layer says first when it stops, and whose fault that is.
_BLAME: tuple[tuple[str, Reason], ...] = (
    ("the action", "policy"),
    ("the frame", "camera"),
    ("the robot's state is", "connection"),
    ("the robot's state has", "connection"),
    ("the clock", "error"),
)


class EpisodeEnd(Exception):
    """End the episode that runs, for a reason and in words.

    A reason that is none, of an operator's or an agent's own making, is an `error`, and named.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        if reason not in REASONS:
            message = f"{reason!r} is no reason to end ({', '.join(REASONS)}); said was: {message}"
            reason = "error"
        self.reason: Reason = reason
        self.message = str(message)


def halted(state: RobotState) -> Reason | None:
    """Return the reason that is in the robot's mode; None when it follows."""
    if state.mode == "user_stopped":
        return "user_stop"
    if state.mode == "guiding":
        return "operator"
    return "reflex" if state.mode == "reflex" or state.errors else None


def stopped(
    decision: Decision, state: RobotState, agent: str, cameras: Sequence[Camera]
) -> EpisodeEnd:
    """Return why the safety layer decided to stop or to end, and whose fault it is."""
    cause = "; ".join(decision.causes)
    if decision.verdict == "end":
        return EpisodeEnd(halted(state) or "safety", cause)
    found = [reason for words, reason in _BLAME if decision.causes[0].startswith(words)]
    reason: Reason = found[0] if found else "safety"
    if reason == "policy":
        cause = f"{agent}: {cause}"
    if reason == "camera":
        told = [_problem(camera) for camera in cameras]
        cause = "; ".join([cause, *(words for words in told if words)])
    return EpisodeEnd(reason, cause)


def _problem(camera: Camera) -> str | None:
    """Say what a camera itself says of its not being fresh."""
    try:
        camera.read(0.0)
    except CameraError as error:
        return str(error)
    return None
