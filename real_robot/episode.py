"""The data of an episode on an arm, which the parts of the loop exchange.

Observation    frames and state at a tick             from the loop to an Agent
Proposal       the actions of an agent                from an Agent to the loop
Step           all data of a tick                     from the loop to its listeners
EpisodeRecord  the steps, and how the episode ended   recorded and evaluated
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.geometry import Floats
from toto_robot.files import plain

from .cameras.camera import Frame
from .robot import RobotState, Target
from .safety.layer import Decision

# How an episode ended. Episodes with a reason in `COMPLETE` are complete; others are truncated.
Reason = Literal[
    "success",  # by the check or the operator
    "failure",  # by the operator or the agent
    "time",  # the greatest number of steps was reached
    "operator",  # a person ended it
    "interrupted",  # Ctrl-C or SIGTERM
    "safety",  # the safety layer stopped it
    "reflex",  # the robot stopped itself
    "user_stop",  # the user stop was pressed
    "connection",  # the connection to the robot was lost
    "camera",  # a camera was disconnected or froze
    "policy",  # the policy failed or was too slow, or the connection to its server was lost
    "error",  # anything else: a bug
]
REASONS: tuple[Reason, ...] = get_args(Reason)
COMPLETE: tuple[Reason, ...] = ("success", "failure", "time", "operator")
# The key of a record's notes with the fault of the connection to a policy server: such an episode
# is no evidence for or against the policy.
TRANSPORT_FAULT = "transport_fault"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observation:
    """The observation at a tick.

    Attributes:
        stamp_s: time when the tick began.
        frames: newest frame of each camera, in the interface's order.
        state: newest state of the robot.
        proprio: float32 [p] proprioception; the interface names its columns.
    """

    stamp_s: float
    frames: Mapping[str, Frame]
    state: RobotState
    proprio: NDArray[np.float32]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return it as an environment does: `image_<camera>` uint8 [h w 3], and `proprio` [p]."""
        images = {f"image_{name}": frame.image for name, frame in self.frames.items()}
        return {**images, "proprio": self.proprio}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Proposal:
    """The answer of an agent to an observation.

    Attributes:
        actions: float32 [n a] actions; row i is for the time `observed_s + i * period`. One row for
            an agent without action chunks.
        observed_s: timestamp of the observation.
        label: float32 [a] action that a policy shall learn, if it differs from the executed action
            (an expert with disturbances); None: the executed action.
        surprise: surprisal of the frames, if the agent computes it.
        timings_s: seconds of each stage, such as `encoder` and `policy`.
        end: reason and message if the agent ends the episode; else None.
    """

    actions: NDArray[np.float32]
    observed_s: float
    label: NDArray[np.float32] | None = None
    surprise: float | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
    end: tuple[Reason, str] | None = None

    def __post_init__(self) -> None:
        if self.actions.ndim != 2 or self.actions.dtype != np.float32 or not len(self.actions):
            raise ValueError(
                f"actions must be float32 [n a], got {self.actions.dtype} {self.actions.shape}"
            )
        for name, value in (("observed_s", self.observed_s), *self.timings_s.items()):
            if not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number of seconds, got {value!r:.60}")
        if self.surprise is not None:
            if not isinstance(self.surprise, Real):
                raise ValueError(f"surprise must be a number or None, got {self.surprise!r:.60}")
            float(self.surprise)  # raises if an integer is too large for a float
        if self.end is not None:
            if not isinstance(self.end, tuple) or len(self.end) != 2:
                raise ValueError(f"end must be a reason and a message, got {self.end!r:.60}")
            if self.end[0] not in REASONS:
                raise ValueError(f"unknown reason {self.end[0]!r}; known: {', '.join(REASONS)}")


@runtime_checkable
class Agent(Protocol):
    """The interface of an agent: a local or remote policy, a scripted expert, or a person.

    `act` may take long, and may raise: the loop runs it in its own thread.
    """

    @property
    def name(self) -> str:
        """Return one line for logs and records, such as the policy or the person's device."""
        ...

    @property
    def weights_hash(self) -> str | None:
        """Return the hash of policy and encoder together; None for an agent without weights."""
        ...

    def reset(self, observation: Observation) -> None:
        """Begin an episode with its first observation."""
        ...

    def act(self, observation: Observation) -> Proposal:
        """Return the next actions."""
        ...

    def close(self) -> None:
        """Release devices and connections; repeated calls are allowed."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """All data of a tick.

    Attributes:
        index: index of the tick, from 0.
        observation: the observation.
        action: float32 [a] requested action, averaged over overlapping chunks; NaN before the first
            answer, and where an answer is NaN.
        label: float32 [a] action that a policy shall learn.
        requested: the action as a target, before the safety layer.
        decision: decision of the safety layer.
        sent_rad: [j] positions that the robot's driver reports as sent; None when nothing was sent.
        surprise: surprisal that the agent reports; None without one.
        late_s: delay of the beginning of the tick after its planned time, s.
        timings_s: seconds of each stage: `observe`, the agent's stages, `wait`, `safety`, `send`,
            and `age`, the time from the oldest frame to the command.
    """

    index: int
    observation: Observation
    action: NDArray[np.float32]
    label: NDArray[np.float32]
    requested: Target
    decision: Decision
    sent_rad: Floats | None
    surprise: float | None
    late_s: float
    timings_s: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpisodeRecord:
    """The record of a complete or truncated episode.

    Attributes:
        task: description of the task, in words.
        agent: name of the agent.
        weights_hash: hash of the agent's weights; None without weights.
        steps: all ticks.
        reason: how the episode ended.
        message: the cause in words, for a person.
        success: whether the task was done; None if unknown.
        started: start time on the wall clock, ISO 8601.
        notes: plain data for JSON: object pose, seed, versions, config.
    """

    task: str
    agent: str
    weights_hash: str | None
    steps: tuple[Step, ...]
    reason: Reason
    message: str
    success: bool | None
    started: str
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"unknown reason {self.reason!r}; known: {', '.join(REASONS)}")
        for name in ("task", "agent", "message"):  # from people, servers, errors; are printed
            object.__setattr__(self, name, plain(str(getattr(self, name))))

    def without_images(self) -> "EpisodeRecord":
        """Return the record without its frames, to keep many records in memory."""
        steps = (
            replace(step, observation=replace(step.observation, frames={})) for step in self.steps
        )
        return replace(self, steps=tuple(steps))


@runtime_checkable
class Listener(Protocol):
    """The interface of a listener, called while an episode runs; its methods must return at once.

    Examples are a viewer and the printing of steps.
    """

    def begin(self, task: str, agent: str) -> None:
        """Begin an episode."""
        ...

    def step(self, step: Step) -> None:
        """Process a step at the end of its tick."""
        ...

    def end(self, record: EpisodeRecord) -> None:
        """Process the end of an episode; the arm is at rest."""
        ...


@runtime_checkable
class Scene(Protocol):
    """The interface of the scene around an arm, which a twin provides."""

    def place(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Place the object, in the frame of the arm's base, and return when it is at rest."""
        ...

    def object_pose(self) -> tuple[float, float, float, float, float, float, float] | None:
        """Return position (m, in the frame of the arm's base) and quaternion, w first; or None."""
        ...

    def succeeded(self) -> bool | None:
        """Return whether the task is done now; None if unknown."""
        ...
