"""Cut the middle of an image and scale it down: what a policy gets of a camera's frame."""

import numpy as np

from .camera import Image
from .opencv import opencv


def fit(image: Image, height: int, width: int) -> Image:
    """Cut the middle of a picture [h w 3] to the shape of `height` x `width`, and scale it down."""
    if image.shape[:2] == (height, width):
        return image
    cv2 = opencv("cameras")
    top, left, cut_height, cut_width = middle(image.shape[0], image.shape[1], height, width)
    cut = np.ascontiguousarray(image[top : top + cut_height, left : left + cut_width])
    scaled = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, dtype=np.uint8)


def middle(
    capture_height: int, capture_width: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the largest middle part of the shape asked for."""
    scale = min(capture_height / height, capture_width / width)
    cut_height, cut_width = round(height * scale), round(width * scale)
    return (
        (capture_height - cut_height) // 2,
        (capture_width - cut_width) // 2,
        cut_height,
        cut_width,
    )
