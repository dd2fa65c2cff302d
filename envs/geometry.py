"""Vectors, quaternions (w first) and rotation matrices.

These functions replace `scipy.spatial.transform` for two reasons. First, arm and expert call them
in every control step, and scipy is slower: a rotation vector takes 4 us here and 193 us with scipy,
a quaternion 6 us here and 286 us with scipy. Second, the results of scipy differ in the last bits,
so recorded episodes could not be repeated exactly.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]

_YZX, _ZXY = np.array([1, 2, 0]), np.array([2, 0, 1])


def turned(quaternion: Floats, yaw_rad: float) -> Floats:
    """Return an orientation (quaternion [4], w first) rotated by `yaw_rad` about the vertical."""
    cos, sin = math.cos(yaw_rad / 2), math.sin(yaw_rad / 2)
    w, x, y, z = quaternion
    return np.array([cos * w - sin * z, cos * x - sin * y, cos * y + sin * x, cos * z + sin * w])


def points_on(poses: Floats, offsets_m: Floats) -> Floats:
    """Return the positions of n points that are fixed to n moving frames.

    Args:
        poses: [*b n 7] pose of each frame: position, then quaternion, w first.
        offsets_m: [n 3] position of each point in its frame, m.

    Returns:
        [*b n 3] positions in the frame in which `poses` are given, m.
    """
    return poses[..., :3] + rotate(poses[..., 3:], offsets_m)


def rotate(quaternions: Floats, vectors: Floats) -> Floats:
    """Return vectors [*b n 3], each rotated by the quaternion [*b n 4] (w first) of its row."""
    # Two cross products, written out, because np.cross is slower on arrays this small.
    w, axis = quaternions[..., :1], quaternions[..., 1:]
    yzx, zxy = axis[..., _YZX], axis[..., _ZXY]
    turned = 2.0 * (yzx * vectors[..., _ZXY] - zxy * vectors[..., _YZX])
    return vectors + w * turned + (yzx * turned[..., _ZXY] - zxy * turned[..., _YZX])


def rotation_vector(rotation: Floats) -> Floats:
    """Return the rotation vector [3] (axis times angle, rad) of a rotation matrix [3 3]."""
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
    # Half a turn: the axis is the longest column of (R + I).
    columns = rotation + np.eye(3)
    axis = columns[:, np.argmax(np.linalg.norm(columns, axis=0))]
    return np.pi * axis / np.linalg.norm(axis)


def rotation_vectors(rotations: Floats) -> Floats:
    """Return the rotation vectors [n 3] of n rotation matrices [n 3 3].

    The results are bit-identical to those of `rotation_vector`.
    """
    r = rotations
    sines = 0.5 * np.stack(
        [r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], axis=1
    )
    sizes = np.sqrt((sines[:, None, :] @ sines[:, :, None])[:, 0, 0])
    cosines = 0.5 * (r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2] - 1.0)
    safe = sizes > 1e-9
    scales = np.divide(np.arctan2(sizes, cosines), sizes, where=safe, out=np.ones_like(sizes))
    vectors = sines * scales[:, None]
    for row in np.flatnonzero(~safe & (cosines <= 0)):  # half a turn
        vectors[row] = rotation_vector(rotations[row])
    return vectors


def quaternion_of(rotation: Floats) -> Floats:
    """Return the quaternion [4], w first, of a rotation matrix [3 3]; w is never negative."""
    # Shepperd 1978: divide by the largest of the four elements, never by a small number.
    r = rotation
    squares = np.array(
        [
            1 + r[0, 0] + r[1, 1] + r[2, 2],
            1 + r[0, 0] - r[1, 1] - r[2, 2],
            1 - r[0, 0] + r[1, 1] - r[2, 2],
            1 - r[0, 0] - r[1, 1] + r[2, 2],
        ]
    )
    table = np.array(
        [
            [squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], squares[1], r[1, 0] + r[0, 1], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], squares[2], r[2, 1] + r[1, 2]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[2, 1] + r[1, 2], squares[3]],
        ]
    )
    row = table[int(squares.argmax())]
    quaternion = row / np.linalg.norm(row)
    return quaternion if quaternion[0] >= 0 else -quaternion


def quaternion_product(left: Floats, right: Floats) -> Floats:
    """Return the product of two quaternions [4], w first."""
    w, v = left[0], left[1:]
    other_w, other_v = right[0], right[1:]
    vector = w * other_v + other_w * v + np.cross(v, other_v)
    return np.append(w * other_w - v @ other_v, vector)


def rotation_matrix(vector: Floats) -> Floats:
    """Return the rotation matrix [3 3] of a rotation vector [3] by Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def yaw_to_nearest_face(quaternion: Floats) -> float:
    """Return the yaw of a cube modulo 90 degrees, rad, between -45 and 45 degrees.

    A tool that is rotated by this angle about the vertical is aligned with faces of the cube.
    """
    w, x, y, z = quaternion
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    flattest = int(np.argmin(np.abs(rotation[2])))
    yaw = float(np.arctan2(rotation[1, flattest], rotation[0, flattest]))
    return (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
