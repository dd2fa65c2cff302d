"""Forward and inverse kinematics of an arm."""

import functools

import numpy as np
from numpy.typing import ArrayLike

from ..geometry import Floats, rotation_vector, rotation_vectors
from .arm import Arm, LinkFrame


def forward_kinematics(arm: Arm, joint_positions: ArrayLike) -> Floats:
    """Return `T_base_hand` [4 4], the pose of the hand in the frame of the arm's base.

    Args:
        arm: the arm.
        joint_positions: [j] positions of the j joints, rad.

    Raises:
        ValueError: the number of positions is not the number of joints.
    """
    return _chain(arm, np.asarray(joint_positions, dtype=np.float64))[-1]


def tool_pose(arm: Arm, joint_positions: ArrayLike) -> Floats:
    """Return `T_base_tcp` [4 4], the pose of the tool centre point in the frame of the arm's base.

    Args:
        arm: the arm.
        joint_positions: [j] positions of the j joints, rad.

    Raises:
        ValueError: the number of positions is not the number of joints.
    """
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
    """Compute joint positions at which the tool has a given pose (inverse kinematics).

    The method is damped least squares: a sequence of Gauss-Newton steps from `start`.

    Args:
        arm: the arm, with kinematics and limits.
        T_base_tcp: [4 4] target pose of the tool centre point in the frame of the arm's base.
        start: [j] initial positions of the j joints, rad.
        rest: [j] preferred joint positions, rad. A redundant arm reaches a pose with many joint
            positions; motion in the null space moves the joints towards `rest`.
        num_iterations: number of Gauss-Newton steps.
        damping: damping of each step, m; a larger value is more stable near singularities but needs
            more steps.
        rest_gain: fraction of the difference to `rest` that is corrected per step.
        rotation_weight: a rotation error of 1 rad counts as much as a position error of this many
            metres.

    Returns:
        Joint positions [j] within the limits, rad; the position error that remains, m; the rotation
        error that remains, rad.
    """
    target, first = (np.asarray(one, dtype=np.float64) for one in (T_base_tcp, start))
    joints, error = _descend(
        arm, target, first, rest, num_iterations, damping, rest_gain, rotation_weight
    )
    return joints, float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))


def solve_ik_many(
    arm: Arm,
    T_base_tcp: Floats,
    start: Floats,
    *,
    rest: ArrayLike,
    num_iterations: int = 30,
    damping: float = 0.05,
    rest_gain: float = 0.05,
    rotation_weight: float = 0.3,
) -> Floats:
    """Return the joint positions [n j] of `solve_ik` for n target poses, bit-identically.

    Args:
        arm: the arm, with kinematics and limits.
        T_base_tcp: [n 4 4] target poses.
        start: [n j] initial positions of the j joints, rad.
        rest: see `solve_ik`, as the other arguments.
        num_iterations: number of Gauss-Newton steps.
        damping: damping of each step, m.
        rest_gain: fraction of the difference to `rest` that is corrected per step.
        rotation_weight: weight of a rotation error, m/rad.
    """
    return _descend(
        arm, T_base_tcp, start, rest, num_iterations, damping, rest_gain, rotation_weight
    )[0]


def _descend(
    arm: Arm,
    T_base_tcp: Floats,
    start: Floats,
    rest: ArrayLike,
    num_iterations: int,
    damping: float,
    rest_gain: float,
    rotation_weight: float,
) -> tuple[Floats, Floats]:
    """Return the joint positions [*b j] after all Gauss-Newton steps, and the errors [*b 6]."""
    lower, upper = np.array(arm.lower_rad), np.array(arm.upper_rad)
    joints = np.clip(start, lower, upper)
    weights = np.array([1.0] * 3 + [rotation_weight] * 3)
    identity = np.eye(joints.shape[-1])
    for iteration in range(num_iterations + 1):
        error, jacobian = _error_and_jacobian(arm, T_base_tcp, joints)
        if iteration == num_iterations:
            break
        weighted = weights[:, None] * jacobian
        gram = weighted @ weighted.swapaxes(-1, -2) + damping**2 * np.eye(6)
        inverse = np.linalg.solve(gram, weighted).swapaxes(-1, -2)  # damped pseudo-inverse, j 6
        step = (inverse @ (weights * error)[..., None])[..., 0]
        towards_rest = rest_gain * (np.asarray(rest, dtype=np.float64) - joints)
        step += ((identity - inverse @ weighted) @ towards_rest[..., None])[..., 0]
        joints = np.clip(joints + step, lower, upper)
    return joints, error


def _error_and_jacobian(arm: Arm, T_base_tcp: Floats, joints: Floats) -> tuple[Floats, Floats]:
    frames = _chain(arm, joints)
    hand = frames[..., -1, :, :]
    point = hand[..., :3, 3] + hand[..., :3, :3] @ arm.tool_offset_m
    axes = frames[..., :-1, :3, 2]  # *b j 3
    levers = point[..., None, :] - frames[..., :-1, :3, 3]
    jacobian = np.concatenate([_cross(axes, levers), axes], axis=-1).swapaxes(-1, -2)
    rotation = T_base_tcp[..., :3, :3] @ hand[..., :3, :3].swapaxes(-1, -2)
    vector = rotation_vector(rotation) if joints.ndim == 1 else rotation_vectors(rotation)
    error = np.concatenate([T_base_tcp[..., :3, 3] - point, vector], axis=-1)
    return error, jacobian


def joint_frames(arm: Arm, joint_positions: ArrayLike) -> Floats:
    """Return the poses of all j joints and of the hand in the frame of the arm's base.

    Args:
        arm: the arm.
        joint_positions: [... j] joint positions, rad.

    Returns:
        [... j+1 4 4] transforms: the joints, base first, then the hand.

    Raises:
        ValueError: the number of positions is not the number of joints.
    """
    return _chain(arm, np.asarray(joint_positions, dtype=np.float64))


def _chain(arm: Arm, joints: Floats) -> Floats:
    """Return the poses [... j+1 4 4] of the joints and, last, of the hand in the base frame."""
    num_joints = len(arm.link_frames)
    if joints.shape[-1:] != (num_joints,):
        raise ValueError(f"{arm.name} has {num_joints} joints, got positions {joints.shape}")
    links, T_last_hand = _constant_parts(arm.link_frames, arm.flange_m, arm.hand_yaw_rad)
    # Craig's convention: Rot_x(alpha) Trans_x(a) Rot_z(theta) Trans_z(d); `links` is all but theta.
    turned = np.empty((*joints.shape, 4, 4))
    cos_t, sin_t = np.cos(joints)[..., None], np.sin(joints)[..., None]
    turned[..., 0] = cos_t * links[..., 0] + sin_t * links[..., 1]
    turned[..., 1] = cos_t * links[..., 1] - sin_t * links[..., 0]
    turned[..., 2:] = links[..., 2:]
    frames = np.empty((*joints.shape[:-1], num_joints + 1, 4, 4))
    frame = turned[..., 0, :, :]
    frames[..., 0, :, :] = frame
    for index in range(1, num_joints):
        frame = frame @ turned[..., index, :, :]
        frames[..., index, :, :] = frame
    frames[..., -1, :, :] = frame @ T_last_hand
    return frames


@functools.lru_cache(maxsize=16)
def _constant_parts(
    link_frames: tuple[LinkFrame, ...], flange_m: float, hand_yaw_rad: float
) -> tuple[Floats, Floats]:
    """Return the transforms that do not depend on the joint positions.

    Returns:
        Two arrays: [j 4 4], the transform from each joint to the previous joint at joint position
        0, and [4 4], the transform from the hand to the last joint.
    """
    links = np.zeros((len(link_frames), 4, 4))
    for link, frame in zip(links, link_frames, strict=True):
        cos_a, sin_a = np.cos(frame.alpha_rad), np.sin(frame.alpha_rad)
        link[0, 0], link[0, 3] = 1.0, frame.a_m
        link[1, 1:] = cos_a, -sin_a, -frame.d_m * sin_a
        link[2, 1:] = sin_a, cos_a, frame.d_m * cos_a
        link[3, 3] = 1.0
    cos_y, sin_y = np.cos(hand_yaw_rad), np.sin(hand_yaw_rad)
    T_last_hand = np.eye(4)
    T_last_hand[:2, :2] = [[cos_y, -sin_y], [sin_y, cos_y]]
    T_last_hand[2, 3] = flange_m
    return links, T_last_hand


def _cross(left: Floats, right: Floats) -> Floats:
    # np.cross costs 30 us on arrays this small.
    return np.stack(
        [
            left[..., 1] * right[..., 2] - left[..., 2] * right[..., 1],
            left[..., 2] * right[..., 0] - left[..., 0] * right[..., 2],
            left[..., 0] * right[..., 1] - left[..., 1] * right[..., 0],
        ],
        axis=-1,
    )
