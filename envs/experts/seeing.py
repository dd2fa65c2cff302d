"""What every scripted expert needs to read the privileged state."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalogue import Variant
from ..scene import Scene

Floats = NDArray[np.float64]


def slices(variant: Variant) -> dict[str, slice]:
    """Give where each reading and each measured quantity stands in `observation["state"]`."""
    arm, task = variant.arm, variant.task
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
    parts = [part for part in variant.protocol.state if part != "task"]
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
    """Give `T_base_world` [4 4]."""
    cos_yaw, sin_yaw = np.cos(scene.base_yaw_rad), np.sin(scene.base_yaw_rad)
    T_base_world = np.eye(4)
    T_base_world[:2, :2] = [[cos_yaw, sin_yaw], [-sin_yaw, cos_yaw]]
    T_base_world[:3, 3] = -T_base_world[:3, :3] @ scene.base_position_m
    return T_base_world
