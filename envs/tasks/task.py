"""The `Task` protocol: what defines a task, and functions that all tasks use."""

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
from ..simulation.simulator import Measurable

Measured = Mapping[str, Floats]

_AXES = {3: "xyz", 4: "wxyz"}


class Task(Protocol):
    """A manipulation task: scene, random starts, measured quantities, rewards and success.

    There is one class per task, and one instance for each combination of arm and protocol.
    """

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
        """Names of the measured quantities that the observation's `state` contains, in order."""
        ...

    @property
    def things(self) -> tuple[str, ...]:
        """Names of the boxes and fixtures that `ManipulationEnv.displace` moves together."""
        ...

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Areas in which distractors can be placed without obstructing the task."""
        ...

    def middle(self, start: Start) -> Floats:
        """Return the centre [3] of the task's object in the world frame, m."""
        ...

    def vary(self, start: Start, scale: float, shift_m: Floats, yaw_rad: float) -> Start:
        """Return the start with the task's object resized, moved and rotated.

        Args:
            start: the start.
            scale: factor for the edge lengths of the object.
            shift_m: [3] shift of the object, m.
            yaw_rad: rotation of the object about the vertical, rad.
        """
        ...

    def scene(self, arm: Arm) -> Scene:
        """Return the scene around an arm."""
        ...

    def sample_start(self, arm: Arm, rng: np.random.Generator) -> Start:
        """Draw the random start of an episode."""
        ...

    def measure(self, simulator: Measurable, arm: Arm) -> Measured:
        """Measure the quantities that `rewards`, `at_goal`, `failed` and the state need.

        Returns:
            Each quantity by name: a number [*b], a vector [*b n], or one vector for each of the f
            fingertips [*b f 3]. b is the axis of the worlds, if the simulator has many worlds.
        """
        ...

    def rewards(self, measured: Measured, action: Floats) -> dict[str, Floats]:
        """Return the reward terms of one control step, by name; their sum is the reward."""
        ...

    def at_goal(self, measured: Measured) -> NDArray[np.bool_]:
        """Return whether the success condition holds at this moment."""
        ...

    def failed(self, measured: Measured) -> NDArray[np.bool_]:
        """Return whether the task can no longer succeed."""
        ...

    def sizes(self, arm: Arm) -> dict[str, int]:
        """Return the number of elements of each quantity that `state` can contain, by name."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmTask:
    """The settings that the pick task and the cabinet task share.

    Attributes:
        start_arm_rad: [j] mean start positions of the arm's joints, rad.
        start_hand: [h] mean start positions of the hand's servos, rad or m.
        arm_noise_rad: the start position of each arm joint is drawn uniformly within plus or minus
            this value of `start_arm_rad`, rad.
        hand_noise: the start position of each hand servo is drawn uniformly within plus or minus
            this value of `start_hand`, rad or m, and clipped to the servo's limits.
        hold_s: time for which the goal must be held without interruption, seconds; rounded up to
            whole control steps.
        reach_m: weight of the reach reward of each fingertip, in the order of the arm's fingertips.
            The reward of a fingertip is weight / (constant + distance to the object).
        state: names of the measured quantities that the observation's `state` contains.
        cameras: the cameras that policies can use.
        viewer: the camera of `render()`, for videos.
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
    """Return one name per element of the task's quantities in the observation's `state`.

    Raises:
        ValueError: the task does not measure one of its `state` quantities.
    """
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
    """Return for how many consecutive control steps the goal must be held."""
    return max(1, math.ceil(task.hold_s * rate_hz - 1e-9))


def draw_joints(
    arm: Arm, rng: np.random.Generator, joints_rad: Sequence[float], noise_rad: float
) -> Floats:
    """Draw joint positions [j] of the arm, rad.

    They are uniform within plus or minus `noise_rad` of `joints_rad`, clipped to the joint limits.
    """
    noise = rng.uniform(-noise_rad, noise_rad, len(arm.servos))
    return np.clip(np.array(joints_rad) + noise, arm.lower_rad, arm.upper_rad)


def draw_hand(arm: Arm, rng: np.random.Generator, hand: Sequence[float], noise: float) -> Floats:
    """Draw servo positions [h] of the hand, rad or m.

    They are uniform within plus or minus `noise` of `hand`, clipped to the servo limits.
    """
    drawn = np.array(hand) + rng.uniform(-noise, noise, len(arm.hand_servos))
    lower, upper = np.array([(servo.lower, servo.upper) for servo in arm.hand_servos]).T
    return np.clip(drawn, lower, upper)


@lru_cache(maxsize=16)
def tool_palm_and_tips(
    hand_body: str, tool_m: Vector, palm_m: Vector, tips: tuple[Fingertip, ...]
) -> tuple[tuple[str, ...], Floats]:
    """Return where tool, palm and fingertips are fixed on the hand.

    Returns:
        The name of the body that carries each point, and the positions [2+f 3] of the points in the
        frames of these bodies, m: first the tool, then the palm, then the f fingertips.
    """
    bodies = (hand_body, hand_body, *(tip.body for tip in tips))
    return bodies, np.array([tool_m, palm_m, *(tip.offset_m for tip in tips)])
