"""The calibration of a camera: its intrinsics, and its pose on the hand or beside the arm.

Both are computed from images of a ChArUco board. The intrinsics need a dozen images or more, with
the board tilted and in every corner of the image. The pose (mounting) needs images from arm poses
that rotate the hand about at least two axes. If the camera is on the hand, the board must not move.
If the camera is fixed, the gripper holds the board.

    views = [find_board(board, image) for image in images]
    intrinsics = calibrate_lens(views, height=480, width=640)
    boards = [board_pose(view, intrinsics) for view in views]
    mounting = calibrate_mounting(T_base_hand, boards, parent="hand")
    save(Calibration(camera="hand", intrinsics=intrinsics, mounting=mounting), path)

The matrix `T_base_hand` is the pose of the hand in the frame of the base: it maps points from the
frame of the hand to the frame of the base. Other transforms are named in the same way. The z axis
of a camera points forward and its y axis down, as in OpenCV.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from envs.geometry import Floats
from toto_robot.files import write_json
from toto_robot.moved import moved_names

from ..cameras.fit import middle

Parent = Literal["hand", "base"]
_NEAR_M = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Intrinsics:
    """Intrinsics of a camera.

    Attributes:
        height: height of the calibration images, pixels.
        width: width of the calibration images, pixels.
        focal_px: focal length along x and y, pixels.
        centre_px: x and y of the principal point, pixels; (0, 0) is the centre of the first pixel.
        distortion: OpenCV's distortion coefficients k1, k2, p1, p2, k3.
        residual_px: root-mean-square reprojection error of the corners, pixels.
        focal_deviation_px: standard deviation of the focal length, pixels. It is large if the
            images show the board in similar poses.
        num_views: number of images.
    """

    height: int
    width: int
    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    distortion: tuple[float, ...]
    residual_px: float
    focal_deviation_px: float
    num_views: int

    @property
    def matrix(self) -> Floats:
        """Return the camera matrix [3 3]."""
        (fx, fy), (cx, cy) = self.focal_px, self.centre_px
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    def fitted(self, height: int, width: int) -> "Intrinsics":
        """Return the intrinsics for images that were cropped and scaled to this size, in pixels.

        The images must come from `real_robot.cameras.fit.fit`.
        """
        top, left, cut_height, cut_width = middle(self.height, self.width, height, width)
        x, y = width / cut_width, height / cut_height
        (fx, fy), (cx, cy) = self.focal_px, self.centre_px
        # Scaling keeps the edges of the image in place. An edge is half a pixel outside the centre
        # of the first pixel.
        return replace(
            self,
            height=height,
            width=width,
            focal_px=(fx * x, fy * y),
            centre_px=((cx - left + 0.5) * x - 0.5, (cy - top + 0.5) * y - 0.5),
            residual_px=self.residual_px * max(x, y),
            focal_deviation_px=self.focal_deviation_px * max(x, y),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Mounting:
    """Pose of a camera on the hand or beside the arm (result of the hand-eye calibration).

    Attributes:
        parent: `hand` for a camera on the hand, `base` for a fixed camera.
        T_parent_camera: pose of the camera in the frame of `parent`, a matrix [4][4].
        residual_m: each image gives a position of the board; root-mean-square deviation of these
            positions from their mean, m.
        residual_rad: the same for the orientation of the board, rad.
        num_views: number of images.
    """

    parent: Parent
    T_parent_camera: tuple[tuple[float, ...], ...]
    residual_m: float
    residual_rad: float
    num_views: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Calibration of one camera; `mounting` is None until the camera's pose is calibrated."""

    camera: str
    intrinsics: Intrinsics
    mounting: Mounting | None


def save(calibration: Calibration, path: Path) -> None:
    """Write a calibration as a JSON file; the file is complete even if the program is killed."""
    write_json(path, asdict(calibration))


def load(path: Path) -> Calibration:
    """Load a calibration that `save` wrote.

    Raises:
        ValueError: the file is missing, or does not contain a calibration.
    """
    try:
        data = json.loads(path.read_text())
        lens, mounting = data["intrinsics"], data["mounting"]
        for name in ("focal_px", "centre_px", "distortion"):
            lens[name] = tuple(lens[name])
        if mounting is not None:
            mounting["T_parent_camera"] = tuple(tuple(row) for row in mounting["T_parent_camera"])
        return Calibration(
            camera=data["camera"],
            intrinsics=Intrinsics(**lens),
            mounting=None if mounting is None else Mounting(**mounting),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a calibration: {type(error).__name__}: {error}") from error


def project(points: Floats, T_camera_base: Floats, lens: Intrinsics) -> Floats:
    """Return the positions [n 2] of n points in the image, pixels.

    A point behind the camera has NaN. The distortion is computed as in OpenCV: G. Bradski and A.
    Kaehler, Learning OpenCV, 2008, chapter 11.

    Args:
        points: the points [n 3] in the frame of the arm's base, m.
        T_camera_base: pose [4 4] of the base in the frame of the camera.
        lens: intrinsics of the camera.
    """
    local = points @ T_camera_base[:3, :3].T + T_camera_base[:3, 3]
    ahead = local[:, 2] > _NEAR_M
    x, y = (local[:, :2] / np.where(ahead, local[:, 2], 1.0)[:, None]).T
    k1, k2, p1, p2, k3 = (*lens.distortion, *(0.0,) * 5)[:5]
    r2 = x**2 + y**2
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    x, y = (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
        y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
    )
    (fx, fy), (cx, cy) = lens.focal_px, lens.centre_px
    pixels = np.column_stack([fx * x + cx, fy * y + cy])
    pixels[~ahead] = np.nan
    return pixels


__getattr__ = moved_names(
    __name__,
    {
        "Board": "real_robot.calibration.board:Board",
        "MIN_CORNERS": "real_robot.calibration.board:MIN_CORNERS",
        "View": "real_robot.calibration.board:View",
        "find_board": "real_robot.calibration.board:find_board",
        "MIN_LENS_VIEWS": "real_robot.calibration.solving:MIN_LENS_VIEWS",
        "MIN_MOUNTING_VIEWS": "real_robot.calibration.solving:MIN_MOUNTING_VIEWS",
        "board_pose": "real_robot.calibration.solving:board_pose",
        "calibrate_lens": "real_robot.calibration.solving:calibrate_lens",
        "calibrate_mounting": "real_robot.calibration.solving:calibrate_mounting",
    },
)
