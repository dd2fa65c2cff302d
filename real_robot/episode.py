"""Data of an episode on an arm, and the protocols of the objects that exchange these data.

A time step is one cycle of the control loop. The loop exchanges these data:

Observation    frames and robot state at a time step      from the loop to an Agent
Proposal       the actions that an agent has computed     from an Agent to the loop
Step           all data of a time step                    from the loop to each Listener
EpisodeRecord  all steps, and how the episode ended       result of the loop
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

# Why an episode ended. An episode whose reason is in `COMPLETE` is complete; others are truncated.
Reason = Literal[
    "success",  # reported by the success check or the operator
    "failure",  # reported by the operator or the agent
    "time",  # the greatest number of steps was reached
    "operator",  # a person ended the episode without a result
    "interrupted",  # Ctrl-C, SIGTERM or SIGHUP
    "safety",  # the safety layer stopped the arm
    "reflex",  # the robot stopped itself
    "user_stop",  # the user stop was pressed
    "connection",  # the connection to the robot was lost
    "camera",  # a camera was disconnected or froze
    "policy",  # the policy failed or was too slow, or the connection to its server was lost
    "error",  # anything else: a bug
]
REASONS: tuple[Reason, ...] = get_args(Reason)
COMPLETE: tuple[Reason, ...] = ("success", "failure", "time", "operator")
# Key in a record's notes. It holds the fault of the connection to a policy server. An episode that
# ended by this fault says nothing about the policy, so its trial is repeated.
TRANSPORT_FAULT = "transport_fault"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observation:
    """Frames and robot state at the beginning of a time step.

    Attributes:
        stamp_s: time at which the time step began, s of `time.monotonic()`.
        frames: newest frame of each camera, by name, in the order of `Interface.cameras`.
        state: newest state of the robot.
        proprio: proprioception, float32 [p]: p numbers, whose names are `Interface.proprio`.
    """

    stamp_s: float
    frames: Mapping[str, Frame]
    state: RobotState
    proprio: NDArray[np.float32]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the observation with the keys of the simulated environments.

        The keys are `image_<camera>`, uint8 [h w 3] (height, width, RGB), and `proprio`, float32
        [p].
        """
        images = {f"image_{name}": frame.image for name, frame in self.frames.items()}
        return {**images, "proprio": self.proprio}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Proposal:
    """Actions that an agent has computed from an observation.

    Attributes:
        actions: action chunk, float32 [n a]: n time steps, a numbers per action. Row i is for the
            time `observed_s + i * period`. An agent without action chunks returns one row.
        observed_s: timestamp of the observation.
        label: action that a policy should learn, float32 [a]. It differs from the executed action
            if disturbances are added to an expert's actions. None means the executed action.
        surprise: surprisal of the frames, nats per token; None if the agent does not compute it.
        timings_s: duration of each stage of the computation, s, by name (such as `encoder`).
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
    """Object that chooses actions: a local or remote policy, a scripted expert, or a person.

    The loop calls an agent in a separate thread. `act` may therefore be slow, and may raise errors.
    """

    @property
    def name(self) -> str:
        """Return one line for logs and records, such as the policy or the person's device."""
        ...

    @property
    def weights_hash(self) -> str | None:
        """Return one hash of the weights of policy and encoder; None without weights."""
        ...

    def reset(self, observation: Observation) -> None:
        """Prepare the agent for a new episode.

        Args:
            observation: the first observation of the episode.
        """
        ...

    def act(self, observation: Observation) -> Proposal:
        """Return the next action, or action chunk, for an observation."""
        ...

    def close(self) -> None:
        """Release devices and connections; repeated calls are allowed."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """All data of one time step.

    Attributes:
        index: number of the time step, from 0.
        observation: frames and robot state at the beginning of the time step.
        action: requested action, float32 [a]: a numbers, averaged if action chunks overlap. All
            numbers are NaN if no action was ready in time.
        label: action that a policy should learn, float32 [a]; all numbers are NaN if no action was
            ready in time.
        requested: joint positions and gripper width that the action requests, before the safety
            layer changes them.
        decision: decision of the safety layer.
        sent_rad: joint positions [j] that the robot's driver reports as sent, rad, one value per
            joint; None if nothing was sent.
        surprise: surprisal of the frames, nats per token; None if the agent does not compute it, or
            gave no new answer in this time step.
        late_s: time from the planned to the real beginning of the time step, s.
        timings_s: duration of each stage, s: `observe`, the agent's stages, `wait`, `safety` and
            `send`. The key `age` has the time from the oldest frame to the command.
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
        task: description of the task, as text.
        agent: name of the agent.
        weights_hash: hash of the agent's weights; None for an agent without weights.
        steps: all time steps.
        reason: why the episode ended, one of `Reason`.
        message: explanation of the end for a person.
        success: whether the task was done; None if unknown.
        started: start time on the wall clock, UTC, ISO 8601.
        notes: further data that JSON can represent, such as object pose, seed, versions and config.
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
        # These texts come from people, servers and errors: keep printable characters only.
        for name in ("task", "agent", "message"):
            object.__setattr__(self, name, plain(str(getattr(self, name))))

    def without_images(self) -> "EpisodeRecord":
        """Return a copy without the frames, so that many records fit into memory."""
        steps = (
            replace(step, observation=replace(step.observation, frames={})) for step in self.steps
        )
        return replace(self, steps=tuple(steps))


@runtime_checkable
class Listener(Protocol):
    """Object that the loop calls during an episode, such as the viewer; it must return at once."""

    def begin(self, task: str, agent: str) -> None:
        """Process the beginning of an episode; `agent` is the name of the agent."""
        ...

    def step(self, step: Step) -> None:
        """Process the data of a time step, after its command was sent."""
        ...

    def end(self, record: EpisodeRecord) -> None:
        """Process the end of an episode; the arm is at rest."""
        ...


@runtime_checkable
class Scene(Protocol):
    """Scene around an arm, in which the pose of the object can be set and read: a digital twin."""

    def place(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Move the object to a pose in the frame of the arm's base; return when it is at rest."""
        ...

    def object_pose(self) -> tuple[float, float, float, float, float, float, float] | None:
        """Return the pose of the object in the frame of the arm's base; None if it is unknown.

        The pose is the position x, y, z, m, and the orientation as a quaternion w, x, y, z.
        """
        ...

    def succeeded(self) -> bool | None:
        """Return whether the task is done now; None if unknown."""
        ...
