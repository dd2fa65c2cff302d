"""Views of videos: several clips and crops of a video, whose predictions are averaged.

The protocol is that of SlowFast (Feichtenhofer et al. 2019, arXiv 1812.03982, section 4.1). The
clips of a video are spaced evenly in time. The shortest side of a frame is resized, and the crops
are spaced evenly along the longest side. A video that is shorter than a clip is extended by copies
of its last frame, as in the authors' code PySlowFast.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..data.video import SquareCrop, frame_times, frames_before_cut, open_video
from ..files import write_json
from ..probing.layer_features import LayerSource, cache_array
from ..runs import read_record
from .labelled_videos import Problem

__all__ = ["Views", "average_views", "cache_views", "read_problems", "read_views"]

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

    def frame_numbers(self, length: int) -> NDArray[np.int64]:
        """Return the frame numbers of all clips of a video of ``length`` frames, [clips frames]."""
        room = max(length - self.frames * self.stride, 0)
        if self.clips == 1:
            starts = np.array([room // 2])
        else:
            starts = room * np.arange(self.clips) // (self.clips - 1)
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
    length = len(frame_times(path))
    if stated := frames_before_cut(path):
        raise ValueError(f"{path}: truncated after {length} of {stated} frames")
    if not length:
        raise ValueError(f"{path}: has no video frame")
    numbers, square = views.frame_numbers(length), SquareCrop(size)
    needed = set(numbers.flat)
    squares: dict[int, NDArray[np.uint8]] = {}
    with open_video(path) as video:
        for number, frame in zip(range(max(needed) + 1), video.frames(), strict=False):
            if number in needed and not frame.damaged:
                crops = [square(frame.frame, at, at) for at in views.positions()]
                squares[number] = np.stack(crops)
    if lacking := sorted(needed - set(squares)):
        raise ValueError(f"{path}: frame {lacking[0]} of {length} cannot be decoded")
    clips = np.stack([[squares[number] for number in clip] for clip in numbers.tolist()])
    return clips.swapaxes(1, 2).reshape(views.count, views.frames, size, size, 3), length


def cache_views(
    files: Sequence[Path],
    views: Views,
    source: LayerSource,
    size: int,
    folder: Path,
    digest: str,
) -> NDArray[Any]:
    """Decode and compress the views of videos into a file in ``folder``: [n v ...].

    The rows of a damaged video are zero. `read_problems` returns the damaged and short videos.

    Args:
        files: paths of n videos.
        views: settings of the views.
        source: the encoder, which compresses clips.
        size: side of a frame, pixels.
        folder: folder of the file.
        digest: hash of the videos.
    """
    side = folder / "problems.json"
    blank = np.zeros((views.count, views.frames, size, size, 3), np.uint8)

    def read(file: Path) -> tuple[NDArray[np.uint8], Problem | None]:
        try:
            clips, length = read_views(file, views, size)
        except Exception as error:  # decoders raise many kinds of errors for a damaged file
            return blank, Problem(file=str(file), field="video", problem=str(error))
        span = views.stride * (views.frames - 1) + 1
        if length >= span:
            return clips, None
        text = f"{length} frames, a clip needs {span}: the last frame is repeated"
        return clips, Problem(file=str(file), field="frames", problem=text)

    def compute(rows: range) -> NDArray[Any]:
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(read, files[rows.start : rows.stop]))
        # An interrupted block is read again, so its problems may be in the file already.
        names = {str(file) for file in files[: rows.start]}
        problems = [one for one in read_problems(folder) if one.file in names] if names else []
        problems += [one for _, one in found if one is not None]
        write_json(side, [asdict(one) for one in problems])
        inputs = source.compress(np.concatenate([clips for clips, _ in found]))
        return inputs.reshape(len(rows), views.count, *inputs.shape[1:])

    facts = {"source": source.fingerprint, "videos": digest, "size": size, **asdict(views)}
    block = max(1, FRAMES // (views.count * views.frames))
    return cache_array(folder / "views.npy", len(files), compute, facts, "read videos", block)


def read_problems(folder: Path) -> list[Problem]:
    """Return the problems that `cache_views` found: damaged (field `video`) and short videos."""
    return [Problem(**one) for one in read_record(folder / "problems.json", folder)]


def average_views(logits: Float[Tensor, "l m c"], views: int) -> Float[Tensor, "l n c"]:
    """Return the class probabilities of videos: the softmax scores, averaged over the views.

    Args:
        logits: the logits of m views; the ``views`` views of a video follow each other.
        views: number of views of a video.
    """
    return logits.softmax(-1).unflatten(1, (-1, views)).mean(2)
