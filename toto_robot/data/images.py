"""Image files to square RGB crops."""

from pathlib import Path

import cv2
import numpy as np

__all__ = ["IMAGE_RESIZER", "IMAGE_SUFFIXES", "read_crops", "read_square"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IMAGE_RESIZER = f"opencv {cv2.__version__} area, enlarging cubic"


def read_crops(path: Path, size: int, crops: int, generator: np.random.Generator) -> np.ndarray:
    """Return random square crops of an image, uint8 [crops size size 3].

    A crop's side is drawn between ``size`` (or the whole shortest side, if that is smaller) and the
    shortest side, log-uniformly, and half of the crops are mirrored.

    Raises:
        ValueError: the file is not a readable image.
    """
    image = _read(path)
    height, width = image.shape[:2]
    shortest = min(height, width)
    result = np.empty((crops, size, size, 3), np.uint8)
    for i in range(crops):
        side = round(np.exp(generator.uniform(np.log(min(size, shortest)), np.log(shortest))))
        top, left = (int(generator.integers(extent - side + 1)) for extent in (height, width))
        crop = image[top : top + side, left : left + side]
        interpolation = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
        crop = cv2.resize(crop, (size, size), interpolation=interpolation)
        result[i] = crop[:, ::-1] if generator.random() < 0.5 else crop
    return result


def read_square(path: Path, size: int, down: float, across: float) -> np.ndarray:
    """Return an image with its shortest side resized to ``size``, cropped: uint8 [size size 3].

    Paper section 3.4, for images. As with videos, the crop's place is two shares in [0, 1).

    Raises:
        ValueError: the file is not a readable image.
    """
    image = _read(path)
    scale = size / min(image.shape[:2])
    height, width = (max(size, round(side * scale)) for side in image.shape[:2])
    interpolation = cv2.INTER_AREA if scale <= 1 else cv2.INTER_CUBIC
    image = cv2.resize(image, (width, height), interpolation=interpolation)
    top, left = int(down * (height - size + 1)), int(across * (width - size + 1))
    return image[top : top + size, left : left + size].copy()


def _read(path: Path) -> np.ndarray:
    """Return a whole image, upright, uint8 [h w 3]; one that is cut off is no image."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    # The decoders fill what is missing with grey and say nothing.
    jpeg_cut = data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    png_cut = data[:4] == b"\x89PNG" and b"IEND" not in data[-32:]
    if jpeg_cut or png_cut:
        raise ValueError(f"{path}: not a readable image (cut off after {len(data)} bytes)")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError(f"{path}: not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
