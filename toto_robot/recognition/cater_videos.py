"""List and read the videos of CATER (Girdhar and Ramanan 2019, arXiv 1910.04744), with their cells.

data/videos/<name>                      the videos (AVI, MP4, ...)
data/lists/localize/train.txt, val.txt  `<name> <cell>`; cell = 6 y + x, in 0..35
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data.video import frame_times, read_frames_at
from .labelled_videos import LabelledVideos

__all__ = [
    "SIDE",
    "CaterVideos",
    "clip_numbers",
    "random_numbers",
    "read_cater_clips",
    "read_list",
]

SIDE = 6  # cells per row of the table


@dataclass(frozen=True, kw_only=True, slots=True)
class CaterVideos:
    """The videos of CATER; the class of a video is the cell of the snitch at its end.

    Attributes:
        path: folder with `videos` and `lists/localize`.
    """

    kind: ClassVar[str] = "cater"
    path: Path

    def listing(self) -> LabelledVideos:
        """List the videos: first the training videos, then the test videos.

        Raises:
            ValueError: a list is missing or damaged, or a video is missing or listed twice; the
                message names the list and the video.
        """
        lists = self.path / "lists" / "localize"
        parts = [read_list(lists / f"{part}.txt") for part in ("train", "val")]
        files = [self.path / "videos" / name for part in parts for name in part]
        if missing := [str(file) for file in files if not file.is_file()]:
            raise ValueError(f"{len(missing)} videos of {lists} are missing: {missing[:5]}")
        if both := [name for name in parts[0] if name in parts[1]]:
            raise ValueError(f"{lists}: videos that are in train.txt and in val.txt: {both[:5]}")
        return LabelledVideos(
            files=tuple(files),
            labels=np.array([label for part in parts for label in part.values()]),
            groups=np.arange(len(files)),
            is_test=np.repeat([False, True], [len(part) for part in parts]),
            classes=tuple(map(str, range(SIDE**2))),
            group_names=tuple(map(str, files)),
            problems=(),
        )


def clip_numbers(length: int, frames: int, clips: int) -> NDArray[np.int64]:
    """Return the frame numbers of all clips of a video of ``length`` frames, [clips frames].

    The video is divided into ``frames`` parts of equal length. The last clip has the last frame of
    each part, and the other clips have earlier frames of each part.
    """
    ends = np.arange(frames)[None] + (np.arange(clips)[:, None] + 1) / clips
    return np.maximum(np.ceil(ends * length / frames - 1e-9).astype(np.int64) - 1, 0)


def random_numbers(length: int, frames: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the frame numbers of a random clip, [frames]: a random frame of each part.

    The parts are those of `clip_numbers`.
    """
    return ((np.arange(frames) + generator.random(frames)) * length / frames).astype(np.int64)


def read_cater_clips(
    path: Path, numbers_of: Callable[[int], NDArray[np.int64]], frames: int, size: int
) -> tuple[NDArray[np.uint8], int]:
    """Return clips of a video, [clips frames size size 3], and its number of frames.

    Whole frames are resized to squares, because a crop would not contain all cells.

    Args:
        path: the video file.
        numbers_of: function from the number of frames to the frame numbers [clips frames].
        frames: number of frames of a clip.
        size: side of the squares, pixels.

    Raises:
        ValueError: the video is unreadable or too short; the message names it.
    """
    times_s = frame_times(path)
    if len(times_s) < frames:
        raise ValueError(f"{path} has {len(times_s)} frames, fewer than frames={frames}")
    numbers = numbers_of(len(times_s))
    wanted, where = np.unique(numbers, return_inverse=True)
    found = read_frames_at(path, times_s[wanted])
    if found.shape[1:3] != (size, size):
        resized = [cv2.resize(one, (size, size), interpolation=cv2.INTER_AREA) for one in found]
        found = np.stack(resized).astype(np.uint8)
    return found[where.reshape(numbers.shape)], len(times_s)


def read_list(path: Path) -> dict[str, int]:
    """Return the videos of a list with their cells.

    Raises:
        ValueError: the list is unreadable or empty, has an invalid line, or names a video twice;
            the message names the file and the line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable list of videos ({error})") from error
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, cell = line.strip().rpartition(" ")
        if not name or not cell.isdecimal() or int(cell) >= SIDE**2:
            raise ValueError(
                f"{path}, line {number}: {line!r} is not `video cell` with a cell in "
                f"0..{SIDE**2 - 1}"
            )
        if name in found:
            raise ValueError(f"{path}, line {number}: {name} is listed twice")
        found[name] = int(cell)
    if not found:
        raise ValueError(f"{path} has no video")
    return found
