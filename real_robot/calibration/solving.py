"""Compute a camera's intrinsics and mounting from the corners of a board in several images."""

from collections.abc import Sequence

import numpy as np

from envs.geometry import Floats, rotation_vector

from ..cameras.opencv import opencv
from .board import View
from .calibration import Intrinsics, Mounting, Parent

MIN_LENS_VIEWS = 5
MIN_MOUNTING_VIEWS = 4
# If the second singular value of the hand's rotations is below this, rad, they share one axis.
_MIN_SPREAD = 0.1


def calibrate_lens(views: Sequence[View], *, height: int, width: int) -> Intrinsics:
    """Compute the intrinsics of a camera from the corners of the board in several images.

    Args:
        views: corners of the board in each image.
        height: height of the images, pixels.
        width: width of the images, pixels.

    Raises:
        ValueError: there are fewer than `MIN_LENS_VIEWS` views.
    """
    cv2 = opencv("calibrations")
    if len(views) < MIN_LENS_VIEWS:
        raise ValueError(f"{len(views)} views, at least {MIN_LENS_VIEWS} are needed")
    residual, matrix, distortion, _, _, deviations, _, _ = cv2.calibrateCameraExtended(
        [view.corners_m.astype(np.float32)[:, None] for view in views],
        [view.pixels.astype(np.float32)[:, None] for view in views],
        (width, height),
        None,
        None,
    )
    return Intrinsics(
        height=height,
        width=width,
        focal_px=(float(matrix[0, 0]), float(matrix[1, 1])),
        centre_px=(float(matrix[0, 2]), float(matrix[1, 2])),
        distortion=tuple(float(value) for value in np.ravel(distortion)),
        residual_px=float(residual),
        focal_deviation_px=float(np.ravel(deviations)[:2].max()),
        num_views=len(views),
    )


def board_pose(view: View, intrinsics: Intrinsics) -> Floats:
    """Return the pose of the board in the frame of the camera, `T_camera_board` [4 4].

    Raises:
        ValueError: OpenCV finds no pose that fits the corners.
    """
    cv2 = opencv("calibrations")
    found, rotation, translation = cv2.solvePnP(
        view.corners_m, view.pixels, intrinsics.matrix, np.array(intrinsics.distortion)
    )
    if not found:
        raise ValueError("no pose of the board fits the view")
    T_camera_board = np.eye(4)
    T_camera_board[:3, :3] = cv2.Rodrigues(rotation)[0]
    T_camera_board[:3, 3] = np.ravel(translation)
    return T_camera_board


def calibrate_mounting(
    T_base_hand: Sequence[Floats], T_camera_board: Sequence[Floats], *, parent: Parent
) -> Mounting:
    """Compute the pose of the camera on the hand or beside the arm (hand-eye calibration).

    The method uses all pairs of images: F. Park and B. Martin, Robot sensor calibration: solving
    AX = XB on the Euclidean group, IEEE Transactions on Robotics and Automation 10(5), 1994. It is
    implemented here because OpenCV 5 does not contain `calibrateHandEye`.

    Args:
        T_base_hand: pose [4 4] of the hand in the frame of the base, at each image.
        T_camera_board: pose [4 4] of the board in the frame of the camera, in each image.
        parent: where the camera is mounted, `hand` or `base`.

    Raises:
        ValueError: there are too few images, the two lists have different lengths, or the hand
            rotates about one axis only.
    """
    if len(T_base_hand) != len(T_camera_board):
        raise ValueError(f"{len(T_base_hand)} hand poses but {len(T_camera_board)} board poses")
    if len(T_base_hand) < MIN_MOUNTING_VIEWS:
        raise ValueError(f"{len(T_base_hand)} views, at least {MIN_MOUNTING_VIEWS} are needed")
    others = _others(T_base_hand, parent)
    pairs = [(i, j) for i in range(len(others)) for j in range(i)]
    motions = [np.linalg.inv(others[j]) @ others[i] for i, j in pairs]
    camera_motions = [T_camera_board[j] @ np.linalg.inv(T_camera_board[i]) for i, j in pairs]
    rotations = np.array([rotation_vector(motion[:3, :3]) for motion in motions])
    camera_rotations = np.array([rotation_vector(motion[:3, :3]) for motion in camera_motions])
    spread = np.linalg.svd(rotations, compute_uv=False) / np.sqrt(len(pairs))
    if spread[1] < _MIN_SPREAD:
        raise ValueError(
            f"the hand rotates about one axis only (spread {spread.round(3)} rad, the second must "
            f"be at least {_MIN_SPREAD}): rotate it about two axes by at least 20 degrees"
        )
    rotation = _nearest_rotation(rotations.T @ camera_rotations)
    system = np.concatenate([motion[:3, :3] - np.eye(3) for motion in motions])
    offsets = np.concatenate(
        [
            rotation @ camera_motion[:3, 3] - motion[:3, 3]
            for motion, camera_motion in zip(motions, camera_motions, strict=True)
        ]
    )
    T_parent_camera = np.eye(4)
    T_parent_camera[:3, :3] = rotation
    T_parent_camera[:3, 3] = np.linalg.lstsq(system, offsets, rcond=None)[0]
    residual_m, residual_rad = _disagreement(
        place_boards(T_base_hand, T_camera_board, T_parent_camera, parent)
    )
    return Mounting(
        parent=parent,
        T_parent_camera=tuple(tuple(float(x) for x in row) for row in T_parent_camera),
        residual_m=residual_m,
        residual_rad=residual_rad,
        num_views=len(others),
    )


def place_boards(
    T_base_hand: Sequence[Floats],
    T_camera_board: Sequence[Floats],
    T_parent_camera: Floats,
    parent: Parent,
) -> Floats:
    """Return the poses of the board [n 4 4] that follow from the n images.

    The poses are in the frame in which the board is fixed, so they differ only by the errors of the
    calibration.
    """
    return np.array(
        [
            other @ T_parent_camera @ board
            for other, board in zip(_others(T_base_hand, parent), T_camera_board, strict=True)
        ]
    )


def mean_pose(poses: Floats) -> Floats:
    """Return the mean [4 4] of poses [n 4 4] that are nearly equal."""
    mean = np.eye(4)
    mean[:3, :3] = _nearest_rotation(poses[:, :3, :3].sum(axis=0))
    mean[:3, 3] = poses[:, :3, 3].mean(axis=0)
    return mean


def _others(T_base_hand: Sequence[Floats], parent: Parent) -> list[Floats]:
    """Return the pose `T_other_parent` [4 4] at each image.

    If the camera is mounted on the hand (parent), `other` is the base, and vice versa. The board is
    fixed in the frame `other`: T_other_parent @ T_parent_camera @ T_camera_board is constant.
    """
    if parent == "hand":
        return list(T_base_hand)
    return [np.linalg.inv(pose).astype(np.float64) for pose in T_base_hand]


def _disagreement(poses: Floats) -> tuple[float, float]:
    """Return how much poses [n 4 4] deviate from their mean: root mean squares, m and rad."""
    mean = mean_pose(poses)
    offsets = poses[:, :3, 3] - mean[:3, 3]
    angles = [np.linalg.norm(rotation_vector(mean[:3, :3].T @ pose[:3, :3])) for pose in poses]
    return (
        float(np.sqrt((offsets**2).sum(axis=1).mean())),
        float(np.sqrt(np.mean(np.square(angles)))),
    )


def _nearest_rotation(matrix: Floats) -> Floats:
    """Return the rotation matrix [3 3] that is nearest to a matrix, by least squares."""
    left, _, right = np.linalg.svd(matrix)
    return left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
