"""The base class of the scripted experts, and functions that read the privileged state.

The privileged state is `observation["state"]`: true joint positions, targets and object poses.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arms.kinematics import solve_ik, solve_ik_many
from ..catalogue import Variant, variant
from ..geometry import Floats
from ..simulation.scene import Scene


def slices(chosen: Variant) -> dict[str, slice]:
    """Return a mapping from the name of each quantity in `observation["state"]` to its slice."""
    arm, task = chosen.arm, chosen.task
    num_arm, num_hand = len(arm.servos), len(arm.hand_servos)
    num_joints = num_arm + len(arm.hand_joint_names)
    sizes: dict[str, int] = {
        "arm_position": num_arm,
        "arm_velocity": num_arm,
        "arm_target": num_arm,
        "hand_position": num_hand,
        "hand_command": num_hand,
        "scaled_position": num_joints,
        "scaled_velocity": num_joints,
        **task.sizes(arm),
    }
    parts = [part for part in chosen.protocol.state if part != "task"]
    found, start = {}, 0
    for name in (*parts, *task.state):
        found[name] = slice(start, start + sizes[name])
        start += sizes[name]
    return found


def split_state(
    observation: Mapping[str, NDArray[Any]], where: Mapping[str, slice]
) -> dict[str, Floats]:
    """Return the measured quantities in `observation["state"]`, by name.

    Args:
        observation: an observation with `state`.
        where: the slice of each quantity, as returned by `slices`.

    Raises:
        ValueError: the observation has no `state`, or its `state` is of another protocol.
    """
    if "state" not in observation:
        raise ValueError(
            "the expert needs observation['state']: make the environment with privileged=True"
        )
    state = np.asarray(observation["state"], dtype=np.float64)
    length = max(part.stop for part in where.values())
    if state.shape[-1] != length:
        raise ValueError(
            f"the scripted expert needs a state of {length} numbers, got {state.shape[-1]}: make "
            "the environment with protocol='robot', or give the policy a teacher"
        )
    return {name: state[..., part] for name, part in where.items()}


def base_transform(scene: Scene) -> Floats:
    """Return `T_base_world` [4 4]: it maps points from the world frame to the arm's base frame."""
    cos_yaw, sin_yaw = np.cos(scene.base_yaw_rad), np.sin(scene.base_yaw_rad)
    T_base_world = np.eye(4)
    T_base_world[:2, :2] = [[cos_yaw, sin_yaw], [-sin_yaw, cos_yaw]]
    T_base_world[:3, 3] = -T_base_world[:3, :3] @ scene.base_position_m
    return T_base_world


# Share of the distance to the goal that the joint targets move in one control step.
_GAIN = 0.4
_MAX_ACTION = 0.95


class ScriptedExpert:
    """The base class of the scripted experts, for environments with the protocol `robot`.

    The action of an expert depends only on the current observation.
    """

    def __init__(self, env_id: str) -> None:
        """Look up arm, task and protocol of the environment `env_id`."""
        self._variant = variant(env_id)
        self._arm = self._variant.arm
        self._rest = np.array(self._variant.task.start_arm_rad)
        self._base = base_transform(self._variant.task.scene(self._arm))
        self._slices = slices(self._variant)

    def reset(self) -> None:
        """Do nothing, because the expert has no memory."""

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for one observation, or [n a] for a batch, bit-identically.

        The first elements are the increments of the arm's joints, the others move the hand.

        Raises:
            ValueError: the observation has no `state`.
        """
        seen = split_state(observation, self._slices)
        targets = seen["arm_target"]
        if targets.ndim == 1:
            goals, hands = self._plan(seen)
            joints, _, _ = solve_ik(self._arm, goals, targets, rest=self._rest, num_iterations=10)
        else:
            rows = range(len(targets))
            plans = [self._plan({name: part[row] for name, part in seen.items()}) for row in rows]
            goals, hands = (np.stack(part) for part in zip(*plans, strict=True))
            joints = solve_ik_many(self._arm, goals, targets, rest=self._rest, num_iterations=10)
        change = _GAIN * (joints - targets) / self._variant.protocol.arm_increment_rad
        largest = np.maximum(np.abs(change).max(axis=-1, keepdims=True), 1e-9)
        change = change * np.minimum(1.0, _MAX_ACTION / largest)
        return np.concatenate([change, hands], axis=-1).astype(np.float32)

    def _plan(self, seen: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        """Return where the arm should move, and the action elements of the hand.

        Args:
            seen: quantities of the privileged state, by name.

        Returns:
            The goal pose `T_base_tcp` [4 4] of the tool in the frame of the arm's base, towards
            which the arm moves, and the action elements [h] of the hand.
        """
        raise NotImplementedError

    def _in_base(self, position: Floats) -> Floats:
        """Return a position [3], given in the world frame, in the frame of the arm's base."""
        return (self._base @ np.append(position, 1.0))[:3]
