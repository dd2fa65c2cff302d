"""The `Task` protocol: a scene, a start, measurements, rewards and success of one task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm, Fingertip
from ..geometry import Floats, Vector
from ..simulation.scene import Camera, Scene, Space, Start
from ..simulation.simulator import Simulator

Measured = Mapping[str, Floats]

_AXES = {3: "xyz", 4: "wxyz"}


class Task(Protocol):
    """A manipulation task; one file per task, one instance per arm and protocol."""

    @property
    def name(self) -> str:
        """Name of the task."""
        ...

    @property
    def hold_s(self) -> float:
        """Time for which the goal must be held without interruption, seconds."""
        ...

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the measured quantities in the privileged state, in order."""
        ...

    @property
    def things(self) -> tuple[str, ...]:
        """Names of the task's boxes and fixtures, which are displaced together."""
        ...

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Free spaces, where distractors do not obstruct the task."""
        ...

    def middle(self, start: Start) -> Floats:
        """Return the centre [3] of the task's object."""
        ...

    def vary(self, start: Start, scale: float, shift_m: Floats, yaw_rad: float) -> Start:
        """Return the start with the object resized, moved by [3] metres, and rotated."""
        ...

    def scene(self, arm: Arm) -> Scene:
        """Return the scene around an arm."""
        ...

    def sample_start(self, arm: Arm, rng: np.random.Generator) -> Start:
        """Draw the start of an episode."""
        ...

    def measure(self, simulator: Simulator, arm: Arm) -> Measured:
        """Return the quantities that rewards, success and state need, each [*b n] or [*b]."""
        ...

    def rewards(self, measured: Measured, action: Floats) -> dict[str, Floats]:
        """Return the named reward terms of one control step."""
        ...

    def at_goal(self, measured: Measured) -> NDArray[np.bool_]:
        """Return whether the current state is at the goal."""
        ...

    def failed(self, measured: Measured) -> NDArray[np.bool_]:
        """Return whether the task can no longer succeed."""
        ...

    def sizes(self, arm: Arm) -> dict[str, int]:
        """Return the number of elements of each measured quantity."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmTask:
    """Settings that all tasks here share.

    Attributes:
        start_arm_rad: start positions of the arm's joints [j], rad.
        start_hand: start positions of the hand's servos [h], rad or m.
        arm_noise_rad: the start of each arm joint is drawn uniformly within plus or minus this
            value of `start_arm_rad`, rad.
        hand_noise: the start of each hand servo is drawn uniformly within plus or minus this value
            of `start_hand` (rad or m), and within the servo's limits.
        hold_s: time for which the goal must be held without interruption, seconds; rounded up to
            whole control steps.
        reach_m: weight of each fingertip's reach reward, in the order of the arm's fingertips.
        state: names of the measured quantities in the privileged state.
        cameras: the cameras that policies can use.
        viewer: the camera of `render()`.
        timestep_s: time step of the physics, s.
    """

    start_arm_rad: tuple[float, ...]
    start_hand: tuple[float, ...]
    arm_noise_rad: float
    hand_noise: float
    hold_s: float = 1 / 6
    reach_m: tuple[float, ...]
    state: tuple[str, ...]
    cameras: tuple[Camera, ...]
    viewer: Camera
    timestep_s: float


def state_names(task: Task, arm: Arm) -> tuple[str, ...]:
    """Return a name for each element of the task's part of the privileged state."""
    sizes = task.sizes(arm)
    unknown = [name for name in task.state if name not in sizes]
    if unknown:
        raise ValueError(f"{task.name} does not measure {unknown}; it measures {', '.join(sizes)}")
    names: list[str] = []
    for quantity in task.state:
        size = sizes[quantity]
        if size == 1:
            names.append(quantity)
        else:
            names += [f"{quantity}_{axis}" for axis in _AXES[size]]
    return tuple(names)


def num_hold_steps(task: Task, rate_hz: float) -> int:
    """Return the number of consecutive control steps at the goal that make a success."""
    return max(1, math.ceil(task.hold_s * rate_hz - 1e-9))


def draw_joints(
    arm: Arm, rng: np.random.Generator, joints_rad: Sequence[float], noise_rad: float
) -> Floats:
    """Draw the arm's joint positions [j] uniformly around a pose, within the limits."""
    noise = rng.uniform(-noise_rad, noise_rad, len(arm.servos))
    return np.clip(np.array(joints_rad) + noise, arm.lower_rad, arm.upper_rad)


def draw_hand(arm: Arm, rng: np.random.Generator, hand: Sequence[float], noise: float) -> Floats:
    """Draw the hand's servo positions [h] uniformly around a pose, within the limits."""
    drawn = np.array(hand) + rng.uniform(-noise, noise, len(arm.hand_servos))
    lower, upper = np.array([(servo.lower, servo.upper) for servo in arm.hand_servos]).T
    return np.clip(drawn, lower, upper)


@lru_cache(maxsize=16)
def tool_palm_and_tips(
    hand_body: str, tool_m: Vector, palm_m: Vector, tips: tuple[Fingertip, ...]
) -> tuple[tuple[str, ...], Floats]:
    """Return the bodies of tool, palm and fingertips, and the points' offsets [2+f 3] in them."""
    bodies = (hand_body, hand_body, *(tip.body for tip in tips))
    return bodies, np.array([tool_m, palm_m, *(tip.offset_m for tip in tips)])
