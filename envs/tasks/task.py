"""What a task is: a scene, a start, rewards, success, and what only a simulator can measure."""

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
    """Say what there is to do; one file per task, one instance per arm and protocol."""

    @property
    def name(self) -> str:
        """Name the task."""
        ...

    @property
    def hold_s(self) -> float:
        """Say how long success must last without a break."""
        ...

    @property
    def state(self) -> tuple[str, ...]:
        """Return which of what is measured is in the privileged state, in order."""
        ...

    @property
    def things(self) -> tuple[str, ...]:
        """Name the boxes and fixtures that the task is about, which move together."""
        ...

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Return where other things may stand without being in the way."""
        ...

    def middle(self, start: Start) -> Floats:
        """Return where the middle of what the task is about is [3]."""
        ...

    def vary(self, start: Start, scale: float, shift_m: Floats, yaw_rad: float) -> Start:
        """Return the start with the object resized, moved by [3] metres, and turned."""
        ...

    def scene(self, arm: Arm) -> Scene:
        """Describe everything around an arm."""
        ...

    def sample_start(self, arm: Arm, rng: np.random.Generator) -> Start:
        """Draw where everything is when an episode begins."""
        ...

    def measure(self, simulator: Simulator, arm: Arm) -> Measured:
        """Ask the simulator for all that rewards, success and state need, each [*b n] or [*b]."""
        ...

    def rewards(self, measured: Measured, action: Floats) -> dict[str, Floats]:
        """Return the reward's named terms of one control step."""
        ...

    def at_goal(self, measured: Measured) -> NDArray[np.bool_]:
        """Return whether the goal is reached now."""
        ...

    def failed(self, measured: Measured) -> NDArray[np.bool_]:
        """Return whether the task can no longer be done."""
        ...

    def sizes(self, arm: Arm) -> dict[str, int]:
        """Return how many numbers each measured quantity has."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmTask:
    """What the settings of every task here have in common.

    Attributes:
        start_arm_rad: joints of the arm at the start.
        start_hand: positions of the hand's servos at the start, rad or m.
        arm_noise_rad: the arm starts within this around `start_arm_rad`, evenly.
        hand_noise: the hand starts within this around `start_hand`, evenly, within its limits.
        hold_s: how long success must last without a break.
        reach_m: how much each fingertip's nearness is worth, in the order of the arm's fingertips.
        state: what of `measure` is in the privileged state.
        cameras: the cameras that policies may use.
        viewer: the camera for people.
        timestep_s: of the physics.
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
    """Name every number of the task's part of the privileged state."""
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
    """Return how many control steps in a row must be at the goal."""
    return max(1, math.ceil(task.hold_s * rate_hz - 1e-9))


def draw_joints(
    arm: Arm, rng: np.random.Generator, joints_rad: Sequence[float], noise_rad: float
) -> Floats:
    """Draw the arm's joints [j] evenly around a pose, within the limits."""
    noise = rng.uniform(-noise_rad, noise_rad, len(arm.servos))
    return np.clip(np.array(joints_rad) + noise, arm.lower_rad, arm.upper_rad)


def draw_hand(arm: Arm, rng: np.random.Generator, hand: Sequence[float], noise: float) -> Floats:
    """Draw the hand's servos [h] evenly around a pose, within the limits."""
    drawn = np.array(hand) + rng.uniform(-noise, noise, len(arm.hand_servos))
    lower, upper = np.array([(servo.lower, servo.upper) for servo in arm.hand_servos]).T
    return np.clip(drawn, lower, upper)


@lru_cache(maxsize=16)
def tool_palm_and_tips(
    hand_body: str, tool_m: Vector, palm_m: Vector, tips: tuple[Fingertip, ...]
) -> tuple[tuple[str, ...], Floats]:
    """Return the bodies that carry tool, palm and fingertips, and their offsets [2+f 3] in them."""
    bodies = (hand_body, hand_body, *(tip.body for tip in tips))
    return bodies, np.array([tool_m, palm_m, *(tip.offset_m for tip in tips)])
