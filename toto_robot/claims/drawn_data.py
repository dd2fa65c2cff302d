"""Make small synthetic data sets of moving shapes, so that a claim runs without data of the user.

The shapes are simple, so a verdict on them says little about real images.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data.video import write_video
from ..files import written_aside
from ..recognition.masks import write_mask

__all__ = ["DataKind", "draw_data"]

DataKind = Literal["images", "videos", "davis", "none"]
SIDES = {"triangle": 3, "square": 4, "pentagon": 5, "disc": 40}  # corners of the classes
IMAGES, VIDEOS, FRAMES = 16, 6, 24  # images per class, videos, frames of a video
HEIGHT, WIDTH = 96, 128


def draw_data(kind: DataKind, folder: Path) -> None:
    """Write a data set into a folder; if the folder exists, nothing is done.

    Args:
        kind: `images` (a subfolder per class), `videos` (MP4 files) or `davis` (the layout of
            DAVIS).
        folder: the folder.
    """
    if folder.is_dir() or kind == "none":
        return
    with written_aside(folder) as aside:
        if kind == "images":
            for label, corners in enumerate(SIDES.values()):
                (aside / list(SIDES)[label]).mkdir(parents=True)
                for number in range(IMAGES):
                    image, _ = next(_frames(corners, (label, number)))
                    cv2.imwrite(str(aside / list(SIDES)[label] / f"{number}.png"), image)
            return
        corners = list(SIDES.values())
        for number in range(VIDEOS):
            frames, masks = zip(*_frames(corners[number % 4], (9, number)), strict=True)
            if kind == "videos":
                write_video(aside / f"{number}.mp4", frames, 10.0)
                continue
            for name in ("JPEGImages", "Annotations"):
                (aside / name / "480p" / f"video-{number}").mkdir(parents=True)
            for index, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
                place = f"480p/video-{number}/{index:05d}"
                cv2.imwrite(str(aside / f"JPEGImages/{place}.jpg"), frame[..., ::-1])
                write_mask(aside / f"Annotations/{place}.png", mask)


def _frames(
    corners: int, seed: tuple[int, int]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield the frames of a moving shape in front of a blurred background, and its masks."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 4)
    colour = [int(one) for one in rng.integers(0, 256, 3)]
    centre, speed = rng.uniform(36, 60, 2), rng.uniform(-1, 1, 2)
    radius, angle, turn = rng.uniform(14, 26), rng.uniform(0, 6.3), rng.uniform(-0.1, 0.1)
    for number in range(FRAMES):
        angles = angle + turn * number + np.arange(corners) * 2 * np.pi / corners
        points = centre + speed * number + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
        yield np.where(mask[..., None] == 1, np.array(colour, np.uint8), ground), mask
