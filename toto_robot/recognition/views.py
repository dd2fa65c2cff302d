"""Views of videos: several clips and crops of a video, whose predictions are averaged.

The protocol is that of SlowFast (Feichtenhofer et al. 2019, arXiv 1812.03982, section 4.1). The
clips of a video are spaced evenly in time. The shortest side of a frame is resized, and the crops
are spaced evenly along the longest side. A video that is shorter than a clip is extended by copies
of its last frame, as in the authors' code PySlowFast.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..data.images import random_crop
from ..data.video import SquareCrop, frame_times, frames_before_cut, open_video, to_rgb
from ..files import write_json
from ..probing.layer_features import cache_array
from ..runs import read_record
from .labelled_videos import Problem

__all__ = [
    "Views",
    "average_views",
    "cache_views",
    "read_problems",
    "read_random_views",
    "read_views",
]

P = TypeVar("P")

READERS = 4  # threads that decode videos
FRAMES = 512  # number of frames that are decoded together
LAST = 1 - 1e-9  # position of the last crop; positions are below 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """Settings of the views of a video.

    Attributes:
        frames: number of frames in a clip.
        stride: distance between two frames of a clip, in frames of the file.
        clips: number of clips per video. One clip is in the middle of the video. Several clips are
            spaced evenly from the start to the end.
        crops: number of square crops of a frame. One crop is in the centre. Several crops are
            spaced evenly along the longest side.
    """

    frames: int
    stride: int
    clips: int
    crops: int

    def __post_init__(self) -> None:
        """Check that all numbers are positive."""
        for name in ("frames", "stride", "clips", "crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def count(self) -> int:
        """The number of views of a video."""
        return self.clips * self.crops

    @property
    def span(self) -> int:
        """The number of frames of a video from the first to the last frame of a clip."""
        return self.stride * (self.frames - 1) + 1

    def frame_numbers(self, length: int) -> NDArray[np.int64]:
        """Return the frame numbers of all clips of a video of ``length`` frames, [clips frames]."""
        room = max(length - self.frames * self.stride, 0)
        if self.clips == 1:
            starts = np.array([room // 2])
        else:
            starts = room * np.arange(self.clips) // (self.clips - 1)
        return self.numbers_from(starts, length)

    def numbers_from(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Return the frame numbers of clips [k frames] with k given first frames, in a video.

        A clip is extended by the last frame of the video, which has ``length`` frames.
        """
        return np.minimum(starts[:, None] + self.stride * np.arange(self.frames), length - 1)

    def positions(self) -> list[float]:
        """Return the position of each crop along the longest side.

        0 is the first possible place, 0.5 the centre, and almost 1 the last possible place.
        """
        if self.crops == 1:
            return [0.5]
        return [LAST * i / (self.crops - 1) for i in range(self.crops)]


def read_views(path: Path, views: Views, size: int) -> tuple[NDArray[np.uint8], int]:
    """Return the views of a video, uint8 [v t size size 3], and its number of frames.

    The views are in the order of clips, and for each clip in the order of crops.

    Raises:
        ValueError: the file is not a readable video, is truncated, or a frame that is needed is
            damaged; the message names the file.
    """
    square = SquareCrop(size)
    return _read(
        path,
        lambda length: views.frame_numbers(length).repeat(views.crops, axis=0),
        views.positions() * views.clips,
        lambda frame, places: [square(frame, at, at) for at in places],
    )


def read_random_views(
    path: Path, views: Views, size: int, seeds: Sequence[tuple[int, ...]], *, mirror: bool
) -> tuple[NDArray[np.uint8], int]:
    """Return random clips of a video with random crops, uint8 [v t size size 3], for training.

    All frames of a clip have the same crop. The second result is the number of frames of the video.
    `read_views` lists the errors.

    Args:
        path: the video file.
        views: settings, of which the number of frames and the stride are used.
        size: side of the frames, pixels.
        seeds: seed of the random draws of each of the v clips.
        mirror: true if a clip is mirrored with a probability of 1/2.
    """

    def numbers(length: int) -> NDArray[np.int64]:
        room = max(length - views.frames * views.stride, 0)
        starts = [np.random.default_rng(seed).integers(room + 1) for seed in seeds]
        return views.numbers_from(np.array(starts), length)

    def cut(frame: av.VideoFrame, places: Sequence[tuple[int, ...]]) -> list[NDArray[np.uint8]]:
        image = to_rgb(frame)
        return [
            random_crop(image, size, np.random.default_rng((*seed, 1)), mirror=mirror)
            for seed in places
        ]

    return _read(path, numbers, seeds, cut)


def _read(
    path: Path,
    numbers_of: Callable[[int], NDArray[np.int64]],
    places: Sequence[P],
    cut: Callable[[av.VideoFrame, Sequence[P]], Sequence[NDArray[np.uint8]]],
) -> tuple[NDArray[np.uint8], int]:
    """Return v clips of a video, uint8 [v t size size 3], and its number of frames.

    Args:
        path: the video file.
        numbers_of: function from the number of frames to the frame numbers of all clips [v t].
        places: what determines the crop of each clip.
        cut: function that returns the crops of a frame at several of these places.
    """
    length = len(frame_times(path))
    if stated := frames_before_cut(path):
        raise ValueError(f"{path}: truncated after {length} of {stated} frames")
    if not length:
        raise ValueError(f"{path}: has no video frame")
    clips = numbers_of(length).tolist()
    needed: dict[int, dict[P, None]] = {}  # frame number, to the different places in their order
    for clip, place in zip(clips, places, strict=True):
        for number in clip:
            needed.setdefault(number, {})[place] = None
    found: dict[tuple[int, P], NDArray[np.uint8]] = {}
    with open_video(path) as video:
        for number, frame in zip(range(max(needed) + 1), video.frames(), strict=False):
            if number in needed and not frame.damaged:
                crops = cut(frame.frame, list(needed[number]))
                found |= {(number, at): one for at, one in zip(needed[number], crops, strict=True)}
    if lacking := sorted(set(needed) - {number for number, _ in found}):
        raise ValueError(f"{path}: frame {lacking[0]} of {length} cannot be decoded")
    pairs = zip(clips, places, strict=True)
    return np.stack(
        [np.stack([found[number, at] for number in clip]) for clip, at in pairs]
    ), length


def cache_views(
    files: Sequence[Path],
    read: Callable[[int, Path], tuple[NDArray[np.uint8], int]],
    shape: tuple[int, ...],
    span: int,
    compress: Callable[[NDArray[np.uint8]], NDArray[Any]],
    path: Path,
    facts: Mapping[str, object],
    *,
    strict: bool = False,
) -> NDArray[Any]:
    """Decode and compress the views of videos into a file: [n v ...].

    The rows of a damaged video are those of black frames. `read_problems` returns the damaged and
    short videos.

    Args:
        files: paths of n videos.
        read: function that returns the views [v t h w 3] of a video and its number of frames, for
            the number and the path of the video.
        shape: shape of these views.
        span: number of frames of a video that a clip needs.
        compress: function that converts clips [b t h w 3] to a smaller array [b ...].
        path: the `.npy` file.
        facts: everything that determines the content; see `cache_array`.
        strict: true if a damaged file stops the function with an error.
    """
    side = _problems_of(path)

    def attempt(row: int) -> tuple[NDArray[np.uint8], Problem | None]:
        file = files[row]
        try:
            clips, length = read(row, file)
        except Exception as error:  # decoders raise many kinds of errors for a damaged file
            if strict:
                raise
            return np.zeros(shape, np.uint8), Problem(
                file=str(file), field="video", problem=str(error)
            )
        if length >= span:
            return clips, None
        text = f"{length} frames, a clip needs {span}: the last frame is repeated"
        return clips, Problem(file=str(file), field="frames", problem=text)

    def compute(rows: range) -> NDArray[Any]:
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(attempt, rows))
        # An interrupted block is read again, so its problems may be in the file already.
        names = {str(file) for file in files[: rows.start]}
        problems = [one for one in read_problems(path) if one.file in names] if names else []
        problems += [one for _, one in found if one is not None]
        write_json(side, [asdict(one) for one in problems])
        inputs = compress(np.concatenate([clips for clips, _ in found]))
        return inputs.reshape(len(rows), -1, *inputs.shape[1:])

    block = max(1, FRAMES // (shape[0] * shape[1]))
    return cache_array(path, len(files), compute, facts, f"read {path.stem}", block)


def read_problems(path: Path) -> list[Problem]:
    """Return the problems that `cache_views` found: damaged (field `video`) and short videos.

    Args:
        path: the `.npy` file of `cache_views`.
    """
    side = _problems_of(path)
    return [Problem(**one) for one in read_record(side, path.parent)]


def _problems_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}-problems.json")


def average_views(logits: Float[Tensor, "l m c"], views: int) -> Float[Tensor, "l n c"]:
    """Return the class probabilities of videos: the softmax scores, averaged over the views.

    Args:
        logits: the logits of m views; the ``views`` views of a video follow each other.
        views: number of views of a video.
    """
    return logits.softmax(-1).unflatten(1, (-1, views)).mean(2)
