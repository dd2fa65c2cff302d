"""Describe a ChArUco board, and detect its corners in an image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.geometry import Floats

from ..cameras.camera import Image
from ..cameras.opencv import opencv

MIN_CORNERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """Size of a ChArUco board, which is a chessboard with a marker in each white square.

    Attributes:
        columns: number of squares along the width.
        rows: number of squares along the height.
        square_m: length of a square's edge, as measured on the print, m.
        marker_m: length of a marker's edge, m.
        dictionary: OpenCV's name of the set of markers, for example `DICT_5X5_100`.
    """

    columns: int
    rows: int
    square_m: float
    marker_m: float
    dictionary: str

    def __post_init__(self) -> None:
        if self.columns < 3 or self.rows < 3:
            raise ValueError(
                f"a board needs at least 3 x 3 squares, got {self.columns} x {self.rows}"
            )
        if not 0 < self.marker_m < self.square_m:
            raise ValueError(
                f"marker_m must be positive and less than square_m, got {self.marker_m} and "
                f"{self.square_m}"
            )

    def build(self) -> Any:
        """Return OpenCV's object for this board.

        Raises:
            ValueError: OpenCV has no set of markers with the name `dictionary`.
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
    """The n corners of the board that were found in one image.

    Attributes:
        corners_m: positions [n 3] in the frame of the board, m.
        pixels: positions [n 2] in the image, pixels: x to the right, y down.
    """

    corners_m: Floats
    pixels: Floats


def find_board(board: Board, image: Image) -> View:
    """Return the corners of the board in an image [h w 3], uint8 RGB.

    Raises:
        ValueError: fewer than `MIN_CORNERS` corners are found; the message has their number.
    """
    cv2 = opencv("calibrations")
    grid = board.build()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    corners, numbers, _, _ = cv2.aruco.CharucoDetector(grid).detectBoard(grey)
    found = 0 if numbers is None else len(numbers)
    if found < MIN_CORNERS:
        total = (board.columns - 1) * (board.rows - 1)
        raise ValueError(
            f"{found} of the board's {total} corners are found, at least {MIN_CORNERS} are needed: "
            "is it the right board, well lit, in focus and near enough?"
        )
    points, pixels = grid.matchImagePoints(corners, numbers)
    return View(
        corners_m=np.asarray(points, dtype=np.float64).reshape(-1, 3),
        pixels=np.asarray(pixels, dtype=np.float64).reshape(-1, 2),
    )
