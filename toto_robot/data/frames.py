"""Read images and videos as batches of frames, with file names, frame numbers and times.

files = list_files(Path("recordings"))
for batch in read_batches(files, (0, 0), stride=1, every_s=None, batch_size=32, ...):
    embeddings = encoder(np.stack(batch.frames))

A file that cannot be read raises no error. It is listed in `Batch.problems`.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .images import IMAGE_SUFFIXES, read_image
from .loader import read_ahead
from .video import VIDEO_SUFFIXES, open_video, to_rgb
from .walk import printable, walk

__all__ = ["Batch", "FrameFile", "Problem", "list_files", "read_batches"]

_BATCH_BYTES = (
    1 << 26
)  # limit of the frames of a batch. As float32 input of a model, they are four times as large.
_TICK_S = 0.001  # rounding error of a container's time base

Place = tuple[int, int]  # position in the files: file index, and frame number in this file


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameFile:
    """An image file or a video file.

    Attributes:
        path: path of the file.
        name: path relative to the searched folder, converted to printable text.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """True if the file is a video, whose frames have times. False if it is an image."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """The report of an error in a file that could not be read completely.

    Attributes:
        file: name of the file.
        reason: description of the error.
        in_part: True if some frames of the file were read.
    """

    file: str
    reason: str
    in_part: bool


@dataclass(kw_only=True, slots=True)
class Batch:
    """Consecutive frames of one or several files.

    Attributes:
        place: position from which to continue reading after this batch: file index and frame
            number.
        frames: upright RGB frames of any height h and width w, each uint8 [h w 3].
        files: for each frame, the index of its file in the list of files.
        numbers: number of each frame in its file, from 0.
        times_s: presentation time of each frame on the file's clock, seconds. NaN for an image.
        problems: reports of the files that could not be read completely, and that ended since the
            previous batch.
    """

    place: Place
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def list_files(images: Path, ignored: Counter[str] | None = None) -> list[FrameFile]:
    """Return the images and videos of a folder, a file or a glob, sorted by name.

    Args:
        images: a folder, one file, or a glob such as `runs/*/front.mp4` that matches files and
            folders. Folders are searched recursively. A path that exists is never read as a glob.
        ignored: counter to which the numbers of other files are added, by suffix. None does not
            count them.

    Raises:
        ValueError: no image or video was found. The message states what was found instead.
    """
    suffixes, ignored = IMAGE_SUFFIXES + VIDEO_SUFFIXES, Counter() if ignored is None else ignored
    is_glob = not images.exists()
    matches = [Path(one) for one in glob.glob(str(images), recursive=True)] if is_glob else [images]
    if not matches:
        raise ValueError(
            f"images: {images} does not exist; give a folder, a video, an image, or a glob in "
            "quotes, such as 'runs/*/front.mp4'"
        )
    found: dict[str, Path] = {}
    for match in matches:
        for path in walk(match, suffixes, ignored) if match.is_dir() else [match]:
            if path.suffix.lower() in suffixes:
                found.setdefault(os.path.realpath(path), path)
            else:
                ignored[path.suffix.lower() or printable(path.name)] += 1
    if not found:
        others = ", ".join(f"{count} of {suffix}" for suffix, count in ignored.most_common(5))
        raise ValueError(
            f"images: {images} has no image ({', '.join(IMAGE_SUFFIXES)}) and no video "
            f"({', '.join(VIDEO_SUFFIXES)}), but {others or 'nothing'}"
        )
    base = images if images.is_dir() else images.parent
    if is_glob:
        base = Path(*takewhile(lambda part: not re.search(r"[*?[]", part), images.parts))
    return [
        FrameFile(path=path, name=printable(str(path.relative_to(base))))
        for path in sorted(found.values())
    ]


def expected_frames(file: FrameFile) -> tuple[int, float]:
    """Return the number of frames and the duration (s) of a file, according to its header.

    An image has one frame and a duration of 0. Both numbers are 0 if the file cannot be read.
    """
    if not file.is_video:
        return 1, 0.0
    try:
        with open_video(file.path) as video:
            return round(video.length_s / video.gap_s) if video.gap_s else 0, video.length_s
    except Exception:  # `read_batches` reports the error
        return 0, 0.0


def read_batches(
    files: Sequence[FrameFile],
    place: Place,
    *,
    stride: int,
    every_s: float | None,
    batch_size: int,
    apart: bool,
    threads: int,
) -> Iterator[Batch]:
    """Yield the frames of files in batches, from a position on. The last batch may be empty.

    To resume after a batch, use its `place` as the position.

    Args:
        files: the files, as returned by `list_files`.
        place: position at which to begin: (0, 0), or the `place` of a batch.
        stride: read every ``stride``-th frame of a video. Used if ``every_s`` is None.
        every_s: time between two frames of a video, seconds. The first frame at or after each
            multiple of this time is read. None uses ``stride`` instead.
        batch_size: maximum number of frames in a batch. Batches of large frames are smaller.
        apart: If True, each batch has frames of one file only.
        threads: number of images that are decoded at the same time.
    """
    numbers = range(place[0], len(files))

    def read_still(index: int) -> NDArray[np.uint8] | str | None:
        if files[index].is_video:
            return None
        try:
            return read_image(files[index].path)
        except ValueError as error:
            return str(error).removeprefix(f"{files[index].path}: ")

    batch, num_bytes = Batch(place=place), 0
    for index, still in zip(numbers, read_ahead(read_still, numbers, threads), strict=True):
        name = files[index].name
        begin = place[1] if index == place[0] else 0
        reader = _VideoReader(files[index].path, stride, every_s, begin)
        frames: Iterator[tuple[int, float, NDArray[np.uint8]]] = iter(reader)
        if isinstance(still, str):
            frames, reader.problems = iter(()), [still]
        elif still is not None:
            frames = iter([(0, np.nan, still)] if not begin else ())
        for number, time_s, frame in frames:
            batch.frames.append(frame)
            batch.files.append(index)
            batch.numbers.append(number)
            batch.times_s.append(time_s)
            batch.place = (index, number + 1)
            num_bytes += frame.nbytes
            if len(batch.frames) == batch_size or num_bytes >= _BATCH_BYTES:
                yield batch
                batch, num_bytes = Batch(place=batch.place), 0
        batch.place = (index + 1, 0)
        if reader.problems:
            reason = printable("; ".join(reader.problems))
            batch.problems.append(Problem(file=name, reason=reason, in_part=reader.taken > 0))
        if apart and batch.frames:
            yield batch
            batch, num_bytes = Batch(place=batch.place), 0
    yield batch


class _VideoReader:
    """An iterator over the sampled frames of a video: frame number, time (s) and image.

    A damaged file raises no error.

    Attributes:
        problems: descriptions of errors in the file. The list is complete after the last frame.
        taken: number of sampled frames that are not damaged, including frames before the number at
            which the iteration begins.
    """

    def __init__(self, path: Path, stride: int, every_s: float | None, begin: int) -> None:
        self.problems: list[str] = []
        self.taken = 0
        self._path, self._stride, self._every_s, self._begin = path, stride, every_s, begin

    def __iter__(self) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
        damaged, last_step = 0, -1
        try:
            with open_video(self._path) as video:
                last_s = begin_s = video.begin_s
                for number, (frame, time_s, flaw) in enumerate(video.frames()):
                    last_s = time_s
                    if self._every_s is None:
                        step, due = number, number % self._stride == 0
                    else:
                        step = int((time_s - begin_s + _TICK_S) / self._every_s)
                        due = step > last_step
                    damaged += due and flaw
                    if not due or flaw:
                        continue
                    last_step = step
                    image = to_rgb(frame) if number >= self._begin else None
                    self.taken += 1
                    if image is not None:
                        yield number, time_s, image
                if video.lost_packets:
                    self.problems.append(f"{video.lost_packets} packets are not decodable frames")
                ended_s = last_s - begin_s + video.gap_s
                if ended_s < video.length_s - max(0.5, 0.05 * video.length_s):
                    self.problems.append(f"ends early: {ended_s:.1f} of {video.length_s:.1f} s")
        except Exception as error:  # decoders raise many kinds of errors for a damaged file
            self.problems.append(f"{'breaks off' if self.taken else 'not readable'}: {error}")
        if damaged:
            self.problems.append(f"{damaged} damaged frames left out")
        if not self.taken and not self.problems:
            self.problems.append("has no frame")
