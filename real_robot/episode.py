"""An episode on an arm, as data: what every part of the loop gives to the next.

Observation  what was seen at a tick                 the loop gives it to an Agent
Proposal     what an agent wants                     an Agent gives it to the loop
Step         all that there was to a tick            the loop gives it to its listeners
EpisodeRecord  the steps, and how it ended           what is recorded, and judged
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

# How an episode ended. Those of `COMPLETE` ran as they should; the others were cut short.
Reason = Literal[
    "success",  # the check or the operator said so
    "failure",  # likewise
    "time",  # the most steps were taken
    "operator",  # a person ended it
    "interrupted",  # Ctrl-C or SIGTERM
    "safety",  # the safety layer stopped it
    "reflex",  # the robot stopped itself
    "user_stop",  # the user stop was pressed
    "connection",  # the robot was lost
    "camera",  # a camera was lost or froze
    "policy",  # the policy failed, answered nonsense, or its server was lost
    "error",  # anything else: a bug
]
REASONS: tuple[Reason, ...] = get_args(Reason)
COMPLETE: tuple[Reason, ...] = ("success", "failure", "time", "operator")
# The key of a record's notes that says what was wrong on the way to a policy's server: an episode
# with it says nothing of the policy.
TRANSPORT_FAULT = "transport_fault"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observation:
    """What was seen at a tick.

    Attributes:
        stamp_s: when the tick began.
        frames: the newest of each camera, in the interface's order.
        state: the robot's newest.
        proprio: float32 [p], as the interface names it.
    """

    stamp_s: float
    frames: Mapping[str, Frame]
    state: RobotState
    proprio: NDArray[np.float32]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what an environment would: `image_<camera>` uint8 [h w 3], and `proprio` [p]."""
        images = {f"image_{name}": frame.image for name, frame in self.frames.items()}
        return {**images, "proprio": self.proprio}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Proposal:
    """What an agent wants to do.

    Attributes:
        actions: float32 [n a]; row i is for the time `observed_s + i * period`. One row of an agent
            that looks anew at every tick.
        observed_s: the stamp of the observation that it answers.
        label: float32 [a], what is to be learned from this step, where that is not what is done:
            an expert that is disturbed on purpose. None: the action itself.
        surprise: how unusual the frames were, if the agent can tell.
        timings_s: seconds by stage, such as `encoder` and `policy`.
        end: why the agent wants to end the episode, and its words; None to go on.
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
            float(self.surprise)  # raises of an integer beyond all floats, as no record takes it
        if self.end is not None:
            if not isinstance(self.end, tuple) or len(self.end) != 2:
                raise ValueError(f"end must be a reason and words, got {self.end!r:.60}")
            if self.end[0] not in REASONS:
                raise ValueError(f"unknown reason {self.end[0]!r}; known: {', '.join(REASONS)}")


@runtime_checkable
class Agent(Protocol):
    """Choose actions: a policy here or elsewhere, a scripted expert, a person.

    `act` may take long, and may raise: the loop runs it in a thread of its own.
    """

    @property
    def name(self) -> str:
        """One line for logs and records: which policy, which person's device."""
        ...

    @property
    def weights_hash(self) -> str | None:
        """Return the hash of what chooses, policy and encoder together; None where nothing is."""
        ...

    def reset(self, observation: Observation) -> None:
        """Begin an episode, whose first observation this is."""
        ...

    def act(self, observation: Observation) -> Proposal:
        """Return what to do next."""
        ...

    def close(self) -> None:
        """Free devices and connections; more than once is fine."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """All that there was to a tick.

    Attributes:
        index: 0 for the first.
        observation: what was seen.
        action: float32 [a], what was wished, blended of chunks where there are any; NaN where no
            answer has come yet, and where the answer was no number.
        label: float32 [a], what is to be learned.
        requested: the action as a target, before the safety layer.
        decision: what the safety layer made of it.
        sent_rad: [j], what the driver says that it sent; None when nothing was.
        surprise: the agent's, if it tells.
        late_s: how much later than planned the tick began.
        timings_s: seconds by stage: `observe`, the agent's stages, `wait`, `safety`, `send`, and
            `age`, from the oldest frame's stamp to the command.
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
    """An episode from begin to end; aborted ones, too.

    Attributes:
        task: what was to be done, in words.
        agent: the agent's name.
        weights_hash: of what chose the actions.
        steps: every tick.
        reason: how it ended.
        message: the cause in words, for a person.
        success: None where nobody judged.
        started: ISO 8601, on the wall clock.
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
        for name in ("task", "agent", "message"):  # of people, servers and errors: to be printed
            object.__setattr__(self, name, plain(str(getattr(self, name))))

    def without_pictures(self) -> "EpisodeRecord":
        """Return the record without its frames, for who keeps many."""
        steps = (
            replace(step, observation=replace(step.observation, frames={})) for step in self.steps
        )
        return replace(self, steps=tuple(steps))


@runtime_checkable
class Listener(Protocol):
    """Hear of every step while an episode runs: a viewer, a progress line. Must return at once."""

    def begin(self, task: str, agent: str) -> None:
        """An episode begins."""
        ...

    def step(self, step: Step) -> None:
        """A tick is over."""
        ...

    def end(self, record: EpisodeRecord) -> None:
        """An episode is over, and the arm at rest."""
        ...


@runtime_checkable
class Scene(Protocol):
    """The objects around an arm, as a twin knows them, or as an operator is told to place them."""

    def place(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Put the object there, in the frame of the arm's base; returns when it lies still."""
        ...

    def object_pose(self) -> tuple[float, float, float, float, float, float, float] | None:
        """Return position (m, in the frame of the arm's base) and quaternion, w first; or None."""
        ...

    def succeeded(self) -> bool | None:
        """Return whether the task is done now; None where nobody but a person can tell."""
        ...
