"""Read image files as upright RGB images, whole or as square crops.

All image files are decoded here. The module does not import torch, so it also runs on a robot's
computer without torch.
"""

import struct
from pathlib import Path

import cv2
import numpy as np

from ..downloads import with_disguise
from .walk import require_regular

__all__ = [
    "IMAGE_RESIZER",
    "IMAGE_SUFFIXES",
    "decode_image",
    "random_crop",
    "read_crops",
    "read_image",
    "read_square",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IMAGE_RESIZER = f"opencv {cv2.__version__} area, enlarging cubic"
_MAX_PIXELS = (
    1 << 28
)  # a larger size means a damaged or malicious header, and decoders would allocate the memory
_MAX_BYTES = 8 * _MAX_PIXELS  # uncompressed, four channels of 16 bits


def read_crops(
    path: Path, size: int, crops: int, generator: np.random.Generator, *, mirror: bool = True
) -> np.ndarray:
    """Return random square crops of an image, uint8 [crops size size 3]; see `random_crop`.

    Raises:
        ValueError: the file is not a readable image.
    """
    image = read_image(path)
    result = np.empty((crops, size, size, 3), np.uint8)
    for i in range(crops):
        result[i] = random_crop(image, size, generator, mirror=mirror)
    return result


def random_crop(
    image: np.ndarray, size: int, generator: np.random.Generator, *, mirror: bool
) -> np.ndarray:
    """Return a random square crop of an image [h w 3], uint8 [size size 3].

    The side of a crop is drawn log-uniformly between ``size`` and the shortest side of the image,
    and then resized to ``size``. If the shortest side of the image is smaller than ``size``, it is
    the side of the crop. With ``mirror``, the crop is mirrored with a probability of 1/2.
    """
    height, width = image.shape[:2]
    shortest = min(height, width)
    side = round(np.exp(generator.uniform(np.log(min(size, shortest)), np.log(shortest))))
    top, left = (int(generator.integers(extent - side + 1)) for extent in (height, width))
    crop = image[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    crop = cv2.resize(crop, (size, size), interpolation=interpolation)
    return crop[:, ::-1] if generator.random() < 0.5 and mirror else crop


def read_square(path: Path, size: int, down: float, across: float) -> np.ndarray:
    """Resize the shortest side of an image to ``size``, and crop a square: uint8 [size size 3].

    The paper's section 3.4 describes this step for images.

    Args:
        path: the image file.
        size: side of the square, pixels.
        down: vertical position of the crop, in [0, 1). 0 is the top.
        across: horizontal position of the crop, in [0, 1). 0 is the left.

    Raises:
        ValueError: the file is not a readable image.
    """
    image = read_image(path)
    scale = size / min(image.shape[:2])
    height, width = (max(size, round(side * scale)) for side in image.shape[:2])
    interpolation = cv2.INTER_AREA if scale <= 1 else cv2.INTER_CUBIC
    image = cv2.resize(image, (width, height), interpolation=interpolation)
    top, left = int(down * (height - size + 1)), int(across * (width - size + 1))
    return image[top : top + size, left : left + size].copy()


def read_image(path: Path) -> np.ndarray:
    """Read a whole image, and return it upright, uint8 [h w 3].

    Raises:
        ValueError: the file is not a readable image. The message names the file.
    """
    require_regular(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path}: not a readable image (of {path.stat().st_size} bytes)")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    try:
        return decode_image(data)
    except ValueError as error:
        raise ValueError(f"{path}: {with_disguise(path, error)}") from error


def decode_image(data: bytes) -> np.ndarray:
    """Decode the bytes of an image file to an upright image, uint8 [h w 3].

    Bytes after the end of the image are ignored.

    Raises:
        ValueError: the bytes are not an image, are truncated, or their header states more than
            2^28 pixels.
    """
    # Checked first: the decoders fill missing data with grey and report no error.
    height, width, complete = _outline(data)
    if height * width > _MAX_PIXELS:
        raise ValueError(f"not a readable image (its header states {width} x {height} pixels)")
    if not complete:
        raise ValueError(f"not a readable image (truncated after {len(data)} bytes)")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except Exception as error:  # an OpenCV error, or out of memory
        raise ValueError(f"not a readable image ({error})") from error
    if image is None:
        raise ValueError("not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _outline(data: bytes) -> tuple[int, int, bool]:
    """Return height and width from the header (0 if unknown), and whether the file is complete."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_outline(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_outline(data)
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return abs(height), abs(width), True
    return 0, 0, True


def _png_outline(data: bytes) -> tuple[int, int, bool]:
    """Return height, width and completeness of a PNG file.

    The function reads the headers of all chunks until IEND (PNG specification, section 5).
    """
    width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return height, width, True
        at += 12 + int.from_bytes(data[at : at + 4])
    return height, width, False


def _jpeg_outline(data: bytes) -> tuple[int, int, bool]:
    """Return height, width and completeness of a JPEG file.

    The function reads all segments until the end marker (ITU-T T.81, annex B). Other data may
    follow the end marker.
    """
    height, width, at = 0, 0, 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker == 0xD9:
            return height, width, True
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # inside the coded data
            at += 2
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack(">HH", data[at + 5 : at + 9].ljust(4, b"\0"))
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return height, width, False
