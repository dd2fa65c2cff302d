"""Crop the centre of a camera's frame, and scale it down to the image size of a policy."""

import numpy as np

from .camera import Image
from .opencv import opencv


def fit(image: Image, height: int, width: int) -> Image:
    """Return the centre of an image, scaled down to a size.

    Args:
        image: image [h w 3], uint8.
        height: height of the result, pixels.
        width: width of the result, pixels. The centre is cropped to the aspect ratio of the result.
    """
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
    """Return the largest crop at the centre of a frame with the aspect ratio `height` : `width`.

    The result is the top row, the left column, the height and the width of the crop, pixels.
    """
    scale = min(capture_height / height, capture_width / width)
    cut_height, cut_width = round(height * scale), round(width * scale)
    return (
        (capture_height - cut_height) // 2,
        (capture_width - cut_width) // 2,
        cut_height,
        cut_width,
    )
