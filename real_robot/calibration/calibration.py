"""What a camera's lens does, and where the camera is: from pictures of a ChArUco board.

Lens: a dozen or more pictures of the board, tilted and in every corner. Place: pictures from poses
of the arm that turn the hand about two axes at least. A camera on the hand looks at a board that
lies still; a camera that stands looks at a board that the hand holds.

    views = [find_board(board, image) for image in images]
    intrinsics = calibrate_lens(views, height=480, width=640)
    boards = [board_pose(view, intrinsics) for view in views]
    mounting = calibrate_mounting(T_base_hand, boards, parent="hand")
    save(Calibration(camera="hand", intrinsics=intrinsics, mounting=mounting), path)

Frames are named from parent to child: `T_base_hand` brings points of the hand's frame to the
base's. A camera's z looks ahead, its y down, as in OpenCV.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from envs.geometry import rotation_vector

from ..cameras.camera import Image, middle
from ..cameras.opencv import opencv

Floats = NDArray[np.float64]
Parent = Literal["hand", "base"]
_NEAR_M = 0.01

MIN_CORNERS = 8
MIN_LENS_VIEWS = 5
MIN_MOUNTING_VIEWS = 4
# Singular values of the turns' axes: below this they are about one axis only, for what can be read.
_MIN_SPREAD = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """A ChArUco board: squares of a chess board with a marker in every white one.

    Attributes:
        columns: squares along its width.
        rows: squares along its height.
        square_m: edge of a square, as measured on the print.
        marker_m: edge of a marker.
        dictionary: OpenCV's name of the markers, for example `DICT_5X5_100`.
    """

    columns: int
    rows: int
    square_m: float
    marker_m: float
    dictionary: str

    def __post_init__(self) -> None:
        if self.columns < 3 or self.rows < 3:
            raise ValueError(
                f"a board has 3 squares each way or more, got {self.columns} x {self.rows}"
            )
        if not 0 < self.marker_m < self.square_m:
            raise ValueError(
                f"a marker must be smaller than a square: {self.marker_m} m in {self.square_m} m"
            )

    def build(self) -> Any:
        """Give OpenCV's object of it.

        Raises:
            ValueError: OpenCV has no such dictionary.
        """
        cv2 = opencv("calibrations")
        number = vars(cv2.aruco).get(self.dictionary)
        if not self.dictionary.startswith("DICT_") or number is None:
            known = ", ".join(sorted(name for name in vars(cv2.aruco) if name.startswith("DICT_")))
            raise ValueError(f"no dictionary {self.dictionary!r}; known: {known}")
        return cv2.aruco.CharucoBoard(
            (self.columns, self.rows),
            self.square_m,
            self.marker_m,
            cv2.aruco.getPredefinedDictionary(number),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """The board's corners in one picture.

    Attributes:
        corners_m: [n 3] on the board.
        pixels: [n 2] in the picture, x to the right and y down.
    """

    corners_m: Floats
    pixels: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Intrinsics:
    """What a camera's lens does.

    Attributes:
        height: of the pictures it was found in, pixels.
        width: of the pictures it was found in, pixels.
        focal_px: along x and y.
        centre_px: x and y of the optical axis; (0, 0) is the middle of the first pixel.
        distortion: OpenCV's k1 k2 p1 p2 k3.
        residual_px: root mean square distance of the corners from where they should be.
        focal_deviation_px: standard deviation of the focal length: large when views are too alike.
        num_views: pictures used.
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
        """Give the camera matrix [3 3]."""
        (fx, fy), (cx, cy) = self.focal_px, self.centre_px
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    def fitted(self, height: int, width: int) -> "Intrinsics":
        """Give those of pictures that `real_robot.cameras.camera.fit` cut and scaled."""
        top, left, cut_height, cut_width = middle(self.height, self.width, height, width)
        x, y = width / cut_width, height / cut_height
        (fx, fy), (cx, cy) = self.focal_px, self.centre_px
        # scaling keeps the pictures' edges, which are half a pixel beside the middles
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
    """Where a camera is.

    Attributes:
        parent: `hand` for a camera that the hand carries, `base` for one that stands.
        T_parent_camera: [4][4].
        residual_m: root mean square by which the views disagree on where the board is.
        residual_rad: and on how it is turned.
        num_views: pictures used.
    """

    parent: Parent
    T_parent_camera: tuple[tuple[float, ...], ...]
    residual_m: float
    residual_rad: float
    num_views: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """All that is known of one camera; `mounting` is None until it was found."""

    camera: str
    intrinsics: Intrinsics
    mounting: Mounting | None


def find_board(board: Board, image: Image) -> View:
    """Find the board in a picture [h w 3], uint8 RGB.

    Raises:
        ValueError: fewer than `MIN_CORNERS` corners are seen; saying how many.
    """
    cv2 = opencv("calibrations")
    grid = board.build()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    corners, numbers, _, _ = cv2.aruco.CharucoDetector(grid).detectBoard(grey)
    found = 0 if numbers is None else len(numbers)
    if found < MIN_CORNERS:
        total = (board.columns - 1) * (board.rows - 1)
        raise ValueError(
            f"{found} of the board's {total} corners are seen, at least {MIN_CORNERS} are needed: "
            "is it the right board, lit, sharp and near enough?"
        )
    places, pixels = grid.matchImagePoints(corners, numbers)
    return View(
        corners_m=np.asarray(places, dtype=np.float64).reshape(-1, 3),
        pixels=np.asarray(pixels, dtype=np.float64).reshape(-1, 2),
    )


def calibrate_lens(views: Sequence[View], *, height: int, width: int) -> Intrinsics:
    """Find what the lens does, from views in pictures of this size.

    Raises:
        ValueError: too few views.
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
    """Give `T_camera_board` [4 4].

    Raises:
        ValueError: no pose explains the view.
    """
    cv2 = opencv("calibrations")
    found, turn, place = cv2.solvePnP(
        view.corners_m, view.pixels, intrinsics.matrix, np.array(intrinsics.distortion)
    )
    if not found:
        raise ValueError("no pose of the board explains the view")
    T_camera_board = np.eye(4)
    T_camera_board[:3, :3] = cv2.Rodrigues(turn)[0]
    T_camera_board[:3, 3] = np.ravel(place)
    return T_camera_board


def calibrate_mounting(
    T_base_hand: Sequence[Floats], T_camera_board: Sequence[Floats], *, parent: Parent
) -> Mounting:
    """Find where the camera is, from the hand's and the board's pose [4 4] in each picture.

    F. Park and B. Martin, Robot sensor calibration: solving AX = XB on the Euclidean group, IEEE
    Transactions on Robotics and Automation 10(5), 1994, over all pairs of pictures. (OpenCV 5 has
    no `calibrateHandEye` any more.)

    Raises:
        ValueError: too few pictures, or turned about one axis only.
    """
    if len(T_base_hand) != len(T_camera_board):
        raise ValueError(f"{len(T_base_hand)} hand poses but {len(T_camera_board)} board poses")
    if len(T_base_hand) < MIN_MOUNTING_VIEWS:
        raise ValueError(f"{len(T_base_hand)} views, at least {MIN_MOUNTING_VIEWS} are needed")
    # T_other_parent: of the hand in the base's frame, or of the base in the hand's: the board then
    # rests in the other one, and T_other_parent @ T_parent_camera @ T_camera_board is constant.
    others = [pose if parent == "hand" else np.linalg.inv(pose) for pose in T_base_hand]
    pairs = [(i, j) for i in range(len(others)) for j in range(i)]
    motions = [np.linalg.inv(others[j]) @ others[i] for i, j in pairs]
    seen = [T_camera_board[j] @ np.linalg.inv(T_camera_board[i]) for i, j in pairs]
    turns = np.array([rotation_vector(motion[:3, :3]) for motion in motions])
    turns_seen = np.array([rotation_vector(motion[:3, :3]) for motion in seen])
    spread = np.linalg.svd(turns, compute_uv=False) / np.sqrt(len(pairs))
    if spread[1] < _MIN_SPREAD:
        raise ValueError(
            f"the hand was turned about one axis only (spread {spread.round(3)} rad, the second "
            f"must be {_MIN_SPREAD} or more): turn it about two, by 20 degrees or more"
        )
    left, _, right = np.linalg.svd(turns.T @ turns_seen)
    rotation = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    system = np.concatenate([motion[:3, :3] - np.eye(3) for motion in motions])
    places = np.concatenate(
        [
            rotation @ there[:3, 3] - motion[:3, 3]
            for motion, there in zip(motions, seen, strict=True)
        ]
    )
    T_parent_camera = np.eye(4)
    T_parent_camera[:3, :3] = rotation
    T_parent_camera[:3, 3] = np.linalg.lstsq(system, places, rcond=None)[0]
    boards = np.array(
        [
            other @ T_parent_camera @ board
            for other, board in zip(others, T_camera_board, strict=True)
        ]
    )
    residual_m, residual_rad = _disagreement(boards)
    return Mounting(
        parent=parent,
        T_parent_camera=tuple(tuple(float(x) for x in row) for row in T_parent_camera),
        residual_m=residual_m,
        residual_rad=residual_rad,
        num_views=len(others),
    )


def save(calibration: Calibration, path: Path) -> None:
    """Write it as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(asdict(calibration), indent=2) + "\n")
    partial.replace(path)


def load(path: Path) -> Calibration:
    """Read what `save` wrote.

    Raises:
        ValueError: it is not there, or is something else; naming the file.
    """
    try:
        data = json.loads(path.read_text())
        lens, place = data["intrinsics"], data["mounting"]
        for name in ("focal_px", "centre_px", "distortion"):
            lens[name] = tuple(lens[name])
        if place is not None:
            place["T_parent_camera"] = tuple(tuple(row) for row in place["T_parent_camera"])
        return Calibration(
            camera=data["camera"],
            intrinsics=Intrinsics(**lens),
            mounting=None if place is None else Mounting(**place),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no calibration: {type(error).__name__}: {error}") from error


def _disagreement(poses: Floats) -> tuple[float, float]:
    """Give by how much poses [n 4 4] that should be one differ from their mean: m and rad."""
    places = poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0)
    left, _, right = np.linalg.svd(poses[:, :3, :3].sum(axis=0))
    mean = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    angles = [np.linalg.norm(rotation_vector(mean.T @ pose[:3, :3])) for pose in poses]
    return (
        float(np.sqrt((places**2).sum(axis=1).mean())),
        float(np.sqrt(np.mean(np.square(angles)))),
    )


def project(points: Floats, T_camera_base: Floats, lens: Intrinsics) -> Floats:
    """Give the pixels [n 2] of points [n 3] in the base's frame; NaN for what is behind the lens.

    The distortion is OpenCV's: G. Bradski and A. Kaehler, Learning OpenCV, 2008, chapter 11.
    """
    there = points @ T_camera_base[:3, :3].T + T_camera_base[:3, 3]
    ahead = there[:, 2] > _NEAR_M
    x, y = (there[:, :2] / np.where(ahead, there[:, 2], 1.0)[:, None]).T
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
