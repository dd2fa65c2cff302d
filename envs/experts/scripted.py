"""What every scripted expert shares: it reads the privileged state and brings its tool to goals."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arms.kinematics import solve_ik
from ..catalogue import Variant, variant
from ..geometry import Floats
from ..simulation.scene import Scene


def slices(chosen: Variant) -> dict[str, slice]:
    """Return where each reading and each measured quantity stands in `observation["state"]`."""
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


def see(observation: Mapping[str, NDArray[Any]], where: Mapping[str, slice]) -> dict[str, Floats]:
    """Take the privileged state apart.

    Raises:
        ValueError: when the observation has no `state`.
    """
    if "state" not in observation:
        raise ValueError(
            "the expert needs observation['state']: make the environment with privileged=True"
        )
    state = np.asarray(observation["state"], dtype=np.float64)
    return {name: state[part] for name, part in where.items()}


def base_transform(scene: Scene) -> Floats:
    """Return `T_base_world` [4 4]."""
    cos_yaw, sin_yaw = np.cos(scene.base_yaw_rad), np.sin(scene.base_yaw_rad)
    T_base_world = np.eye(4)
    T_base_world[:2, :2] = [[cos_yaw, sin_yaw], [-sin_yaw, cos_yaw]]
    T_base_world[:3, 3] = -T_base_world[:3, :3] @ scene.base_position_m
    return T_base_world


# Share of the way to the goal that the joint targets go in one control step.
_GAIN = 0.4
_MAX_ACTION = 0.95


class ScriptedExpert:
    """Read the state of an environment in the `robot` protocol, and move its arm; no memory."""

    def __init__(self, env_id: str) -> None:
        """Look the environment up."""
        self._variant = variant(env_id)
        self._arm = self._variant.arm
        self._rest = np.array(self._variant.task.start_arm_rad)
        self._base = base_transform(self._variant.task.scene(self._arm))
        self._slices = slices(self._variant)

    def reset(self) -> None:
        """Do nothing: there is no memory."""

    def _see(self, observation: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
        return see(observation, self._slices)

    def _in_base(self, position: Floats) -> Floats:
        """Return a position [3] of the world in the frame of the arm's base."""
        return (self._base @ np.append(position, 1.0))[:3]

    def _towards(self, goal: Floats, targets: Floats) -> Floats:
        """Return the arm's part of the action [j] that brings the tool nearer to `T_base_tool`."""
        joints, _, _ = solve_ik(self._arm, goal, targets, rest=self._rest, num_iterations=10)
        change = _GAIN * (joints - targets) / self._variant.protocol.arm_increment_rad
        return change * min(1.0, _MAX_ACTION / max(float(np.abs(change).max()), 1e-9))
