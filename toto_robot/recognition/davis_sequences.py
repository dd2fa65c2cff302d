"""List and read the videos of DAVIS, in the folders of its publishers.

JPEGImages/480p/<sequence>/00000.jpg ...     the frames
Annotations/480p/<sequence>/00000.png ...    the true masks
ImageSets/<year>/val.txt                     names of the sequences, one per line
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.images import read_image
from ..data.walk import walk
from .masks import read_mask

__all__ = ["LEAST_FRAMES", "DavisSequence", "list_sequences"]

LEAST_FRAMES = 3  # the first and the last frame have no score


@dataclass(frozen=True, kw_only=True, slots=True)
class DavisSequence:
    """A video with the masks of its objects.

    Attributes:
        name: name of the sequence.
        frames: files of the t frames.
        masks: files of the true masks; the last one may be missing.
        one_object: true if all objects count as one, as in DAVIS-2016.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    one_object: bool

    def first_frames(self, number: int | None) -> "DavisSequence":
        """Return this sequence without the frames after the first `number`; None: all frames."""
        return replace(self, frames=self.frames[:number], masks=self.masks[:number])

    def frame(self, number: int, size: tuple[int, ...] | None) -> NDArray[np.uint8]:
        """Read a frame, uint8 [h w 3].

        Raises:
            ValueError: the file is unreadable, or its height and width are not `size`.
        """
        image = read_image(self.frames[number])
        if size is not None and image.shape[:2] != size:
            raise ValueError(_other_size(self.frames[number], image.shape, size, self.frames[0]))
        return image

    def truth(self, number: int, size: tuple[int, ...]) -> NDArray[np.uint8]:
        """Read a true mask, uint8 [h w]: 0 is the background, k is object k.

        Raises:
            ValueError: the file is unreadable, or its height and width are not `size`.
        """
        mask = read_mask(self.masks[number])
        if mask.shape != size:
            raise ValueError(_other_size(self.masks[number], mask.shape, size, self.frames[number]))
        return (mask > 0).astype(np.uint8) if self.one_object else mask

    def first_truth(self, size: tuple[int, ...]) -> tuple[NDArray[np.uint8], int]:
        """Return the mask of the first frame, and the number of objects in it.

        Raises:
            ValueError: as in `truth`, or there is no object.
        """
        mask = self.truth(0, size)
        if not mask.any():
            raise ValueError(f"{self.masks[0]} has no object; the first mask must mark all objects")
        return mask, int(mask.max())


def list_sequences(
    data: Path, year: int, image_folder: str, names: Sequence[str] | None
) -> tuple[DavisSequence, ...]:
    """Return the sequences of a folder, and check that all files exist.

    Args:
        data: the folder of DAVIS.
        year: 2016 or 2017, the year of the list of sequences; in 2016, all objects count as one.
        image_folder: name of the subfolder with images of one size, such as `480p`.
        names: names of the sequences; None: those in `ImageSets/<year>/val.txt`, or all sequences
            if this file does not exist.

    Raises:
        ValueError: a folder, frame or mask is missing; the message names it.
    """
    images, masks = (data / name / image_folder for name in ("JPEGImages", "Annotations"))
    for folder in (images, masks):
        if not folder.is_dir():
            raise ValueError(
                f"data: {folder} is not a folder; {data} must be the folder of DAVIS, with "
                f"JPEGImages/{image_folder} and Annotations/{image_folder}"
            )
    if names is None:
        listed = data / "ImageSets" / str(year) / "val.txt"
        if listed.is_file():
            names = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
        else:
            names = sorted(path.name for path in images.iterdir() if path.is_dir())
    if not names:
        raise ValueError(f"{images} has no sequences")
    return tuple(_sequence(images / name, masks / name, year == 2016) for name in names)


def _sequence(images: Path, masks: Path, one_object: bool) -> DavisSequence:
    """Return a sequence from the folders of its frames and masks."""
    if not images.is_dir():
        raise ValueError(f"sequence {images.name!r} has no folder {images}")
    frames = walk(images, (".jpg", ".jpeg", ".png"), deep=False)
    if len(frames) < LEAST_FRAMES:
        raise ValueError(f"{images} has {len(frames)} frames; at least {LEAST_FRAMES} are needed")
    _check_numbers(frames)
    files = [masks / f"{frame.stem}.png" for frame in frames]
    if not files[0].is_file():
        raise ValueError(f"sequence {images.name!r} has no first mask {files[0]}")
    if missing := [file for file in files[1:-1] if not file.is_file()]:
        raise ValueError(f"{missing[0]} is missing, and {len(missing) - 1} further masks of it")
    stems = {frame.stem for frame in frames}
    if extra := [mask for mask in walk(masks, (".png",), deep=False) if mask.stem not in stems]:
        raise ValueError(f"{images} has no frame for the mask {extra[0]}")
    return DavisSequence(
        name=images.name, frames=tuple(frames), masks=tuple(files), one_object=one_object
    )


def _check_numbers(frames: Sequence[Path]) -> None:
    """Check that no frame between two numbered frames is missing."""
    if not all(frame.stem.isdecimal() for frame in frames):
        return
    for before, after in pairwise(frames):
        if int(after.stem) != int(before.stem) + 1:
            wanted = f"{int(before.stem) + 1:0{len(before.stem)}}{before.suffix}"
            raise ValueError(f"frame {before.with_name(wanted)} is missing: {after.name} follows")


def _other_size(file: Path, shape: tuple[int, ...], size: tuple[int, ...], other: Path) -> str:
    sizes = [f"{width} x {height}" for height, width, *_ in (shape, size)]
    return f"{file} has {sizes[0]} pixels, but {other} has {sizes[1]}; they must be equal"
