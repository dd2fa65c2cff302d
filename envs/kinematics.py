"""Kinematics of an arm in closed form: where the hand is, and which joints bring it elsewhere."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arms import Arm

Floats = NDArray[np.float64]


def forward_kinematics(arm: Arm, joint_positions: ArrayLike) -> Floats:
    """Give `T_base_hand` [4 4] for joint positions [j] in rad."""
    return _chain(arm, np.asarray(joint_positions, dtype=np.float64))[-1]


def tool_pose(arm: Arm, joint_positions: ArrayLike) -> Floats:
    """Give `T_base_tcp` [4 4]: the tool point of the arm, turned like the hand."""
    T_base_tcp = forward_kinematics(arm, joint_positions).copy()
    T_base_tcp[:3, 3] += T_base_tcp[:3, :3] @ arm.tool_offset_m
    return T_base_tcp


def solve_ik(
    arm: Arm,
    T_base_tcp: ArrayLike,
    start: ArrayLike,
    *,
    rest: ArrayLike,
    num_iterations: int = 30,
    damping: float = 0.05,
    rest_gain: float = 0.05,
    rotation_weight: float = 0.3,
) -> tuple[Floats, float, float]:
    """Find joint positions that bring the tool to a pose: damped least squares.

    Args:
        arm: whose kinematics and limits.
        T_base_tcp: [4 4] wanted pose.
        start: [j] where the search begins.
        rest: [j] towards which the free motion of a redundant arm is pulled.
        num_iterations: how many Newton-like steps to take.
        damping: in metres; larger is calmer near singular poses and slower.
        rest_gain: how strongly the free motion is pulled, per iteration.
        rotation_weight: metres of position error that one radian of rotation error is worth.

    Returns:
        Joint positions [j] within limits, and what is left: position error (m) and angle (rad).
    """
    T_base_tcp = np.asarray(T_base_tcp, dtype=np.float64)
    rest = np.asarray(rest, dtype=np.float64)
    lower, upper = np.array(arm.lower_rad), np.array(arm.upper_rad)
    joints = np.clip(np.asarray(start, dtype=np.float64), lower, upper)
    weights = np.array([1.0] * 3 + [rotation_weight] * 3)
    identity = np.eye(len(joints))
    for iteration in range(num_iterations + 1):
        error, jacobian = _error_and_jacobian(arm, T_base_tcp, joints)
        if iteration == num_iterations:
            break
        weighted = weights[:, None] * jacobian
        gram = weighted @ weighted.T + damping**2 * np.eye(6)
        inverse = np.linalg.solve(gram, weighted).T  # damped pseudo-inverse, j 6
        step = inverse @ (weights * error)
        step += (identity - inverse @ weighted) @ (rest_gain * (rest - joints))
        joints = np.clip(joints + step, lower, upper)
    return joints, float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))


def _error_and_jacobian(arm: Arm, T_base_tcp: Floats, joints: Floats) -> tuple[Floats, Floats]:
    frames = _chain(arm, joints)
    hand = frames[-1]
    point = hand[:3, 3] + hand[:3, :3] @ arm.tool_offset_m
    axes = frames[:-1, :3, 2]  # j 3
    jacobian = np.concatenate([_cross(axes, point - frames[:-1, :3, 3]), axes], axis=1).T
    rotation = T_base_tcp[:3, :3] @ hand[:3, :3].T
    error = np.concatenate([T_base_tcp[:3, 3] - point, rotation_vector(rotation)])
    return error, jacobian


def rotation_vector(rotation: Floats) -> Floats:
    """Give the axis times the angle (rad) of a rotation matrix [3 3]."""
    sine = 0.5 * np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    size = float(np.linalg.norm(sine))
    cosine = 0.5 * (float(np.trace(rotation)) - 1.0)
    angle = float(np.arctan2(size, cosine))
    if size > 1e-9:
        return sine * (angle / size)
    if cosine > 0:
        return sine
    # Half a turn: the axis is the column of (R + I) that is longest.
    columns = rotation + np.eye(3)
    axis = columns[:, np.argmax(np.linalg.norm(columns, axis=0))]
    return np.pi * axis / np.linalg.norm(axis)


def _chain(arm: Arm, joints: Floats) -> Floats:
    """Give the frames of all joints and last of the hand, [j+1 4 4], in the base's frame."""
    frames = np.empty((len(arm.link_frames) + 1, 4, 4))
    frame = np.eye(4)
    for index, (link, angle) in enumerate(zip(arm.link_frames, joints, strict=True)):
        frame = frame @ _link_transform(link.a_m, link.d_m, link.alpha_rad, angle)
        frames[index] = frame
    frames[-1] = frame @ _link_transform(0.0, arm.flange_m, 0.0, arm.hand_yaw_rad)
    return frames


def _link_transform(a_m: float, d_m: float, alpha_rad: float, angle_rad: float) -> Floats:
    # Craig's convention: Rot_x(alpha) Trans_x(a) Rot_z(theta) Trans_z(d).
    cos_t, sin_t = np.cos(angle_rad), np.sin(angle_rad)
    cos_a, sin_a = np.cos(alpha_rad), np.sin(alpha_rad)
    return np.array(
        [
            [cos_t, -sin_t, 0.0, a_m],
            [sin_t * cos_a, cos_t * cos_a, -sin_a, -d_m * sin_a],
            [sin_t * sin_a, cos_t * sin_a, cos_a, d_m * cos_a],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _cross(left: Floats, right: Floats) -> Floats:
    # np.cross costs 30 us on arrays this small.
    return np.stack(
        [
            left[:, 1] * right[:, 2] - left[:, 2] * right[:, 1],
            left[:, 2] * right[:, 0] - left[:, 0] * right[:, 2],
            left[:, 0] * right[:, 1] - left[:, 1] * right[:, 0],
        ],
        axis=1,
    )
