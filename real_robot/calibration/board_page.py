"""Draw a calibration board as PDF and PNG, for printing at exact size."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toto_robot.files import write_aside

from ..cameras.opencv import opencv
from .board import Board

_INCH_M = 0.0254
_POINTS_PER_INCH = 72
_MIN_MODULE_PX = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PageConfig:
    """Settings of the printed page.

    Attributes:
        width_m: width of the paper, m.
        height_m: height of the paper, m.
        dpi: resolution of the image, dots per inch.
    """

    width_m: float
    height_m: float
    dpi: int

    def __post_init__(self) -> None:
        if not (self.width_m > 0 and self.height_m > 0 and self.dpi > 0):
            raise ValueError(f"width_m, height_m and dpi must be positive, got {self}")


def write_board(board: Board, page: PageConfig, folder: Path) -> tuple[Path, float]:
    """Write `board.pdf` and `board.png` into a folder.

    Return the path of the PDF, and the length of a square's edge in it, m. The length is a whole
    number of dots, so it may differ from `square_m` by up to half a dot.

    Raises:
        ValueError: the board does not fit on the paper, or its markers are too small to draw.
    """
    image, square_m = draw_page(board, page)
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / "board.png", _png(image, page.dpi))
    write_aside(folder / "board.pdf", _pdf(image, page.dpi))
    return folder / "board.pdf", square_m


def draw_page(board: Board, page: PageConfig) -> tuple[NDArray[np.uint8], float]:
    """Return the page as a grey image [h w], and the length of a square's edge in it, m.

    Raises:
        ValueError: the board does not fit on the paper, or its markers are too small to draw.
    """
    cv2 = opencv("boards")
    dots_per_m = page.dpi / _INCH_M
    square_px = round(board.square_m * dots_per_m)
    size = board.columns * square_px, board.rows * square_px
    paper = round(page.width_m * dots_per_m), round(page.height_m * dots_per_m)
    text_px = round(0.012 * dots_per_m)
    if size[0] > paper[0] or size[1] + 2 * text_px > paper[1]:
        raise ValueError(
            f"a board of {board.columns * board.square_m:.3f} x {board.rows * board.square_m:.3f} "
            f"m and a line of text do not fit on paper of {page.width_m} x {page.height_m} m: "
            "use smaller or fewer squares, or turn the paper"
        )
    markers = int(cv2.aruco.getPredefinedDictionary(_number(cv2, board)).markerSize) + 2
    if board.marker_m * dots_per_m < markers * _MIN_MODULE_PX:
        raise ValueError(f"at {page.dpi} dpi a marker of {board.marker_m} m is too small to draw")
    drawn = board.build().generateImage(size, marginSize=0)
    image = np.full((paper[1], paper[0]), 255, np.uint8)
    top, left = (paper[1] - size[1]) // 2, (paper[0] - size[0]) // 2
    image[top : top + size[1], left : left + size[0]] = drawn
    square_m = square_px / dots_per_m
    words = (
        f"{board.columns} x {board.rows} squares of {1000 * square_m:.2f} mm, {board.dictionary}; "
        f"print at 100 %, then measure: 5 squares must be {5000 * square_m:.1f} mm"
    )
    scale = page.dpi / 240
    place = (left, top + size[1] + round(0.75 * text_px))
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, words, place, font, scale, 0, max(1, page.dpi // 200), cv2.LINE_AA)
    return image, square_m


def _number(cv2: Any, board: Board) -> int:
    board.build()  # raises for an unknown dictionary
    return int(vars(cv2.aruco)[board.dictionary])


def _png(image: NDArray[np.uint8], dpi: int) -> bytes:
    """Return the bytes of a PNG file that contains the physical size of the image (chunk pHYs)."""
    written, data = opencv("boards").imencode(".png", image)
    assert written
    plain = data.tobytes()
    dots_per_m = round(dpi / _INCH_M)
    content = b"pHYs" + struct.pack(">IIB", dots_per_m, dots_per_m, 1)
    chunk = struct.pack(">I", 9) + content + struct.pack(">I", zlib.crc32(content))
    after_header = 8 + 25  # the signature, and IHDR
    return plain[:after_header] + chunk + plain[after_header:]


def _pdf(image: NDArray[np.uint8], dpi: int) -> bytes:
    """Return the bytes of a PDF file with one page that shows the image (ISO 32000-1, 7.5)."""
    height, width = image.shape
    page = " ".join(f"{pixels * _POINTS_PER_INCH / dpi:.4f}" for pixels in (width, height))
    across, up = page.split()
    draw = f"q {across} 0 0 {up} 0 0 cm /Board Do Q".encode()
    pixels = zlib.compress(image.tobytes(), 9)
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %s] /Contents 4 0 R "
        b"/Resources << /XObject << /Board 5 0 R >> >> >>" % page.encode(),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(draw), draw),
        b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceGray "
        b"/BitsPerComponent 8 /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream"
        % (width, height, len(pixels), pixels),
    )
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return (
        data
        + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
        + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (len(objects) + 1, len(data))
    )
