"""Image files to square RGB crops."""

from pathlib import Path

import cv2
import numpy as np

__all__ = ["IMAGE_SUFFIXES", "read_crops"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read_crops(path: Path, size: int, crops: int, generator: np.random.Generator) -> np.ndarray:
    """Return random square crops of an image, uint8 [crops size size 3].

    A crop's side is drawn between ``size`` (or the whole shortest side, if that is smaller) and the
    shortest side, log-uniformly, and half of the crops are mirrored.

    Raises:
        ValueError: the file is not a readable image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: not a readable image")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
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
