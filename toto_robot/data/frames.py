"""Frames of images and videos, in batches, with the names and times by which they are found again.

files = list_files(Path("recordings"))
for batch in read_batches(files, (0, 0), stride=1, every_s=None, batch_size=32, ...):
    embeddings = encoder(np.stack(batch.frames))

No file stops the reading: what cannot be read is told in `Batch.problems`.
"""

import glob
import hashlib
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

_BATCH_BYTES = 1 << 26  # of the frames of a batch; a model's input is four times that
_TICK_S = 0.001  # what a container's time base may round away

Place = tuple[int, int]  # a file's index and a frame's number in it: what is read next


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameFile:
    """An image or a video.

    Attributes:
        path: where it is.
        name: below the folder that was asked for, as text that can be printed.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether its frames have times."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A file that gave no frame, or not all that it should have.

    Attributes:
        file: its name.
        reason: why.
        in_part: whether some of its frames were read.
    """

    file: str
    reason: str
    in_part: bool


@dataclass(kw_only=True, slots=True)
class Batch:
    """Frames that follow one another, of one file or of several.

    Attributes:
        place: where the reading goes on after this batch.
        frames: uint8 RGB [h w 3] each, upright, of any size.
        files: the index of each frame's file.
        numbers: the number of each frame in its file, from 0.
        times_s: when it is shown, on the file's clock; NaN for an image.
        problems: of the files that ended since the batch before.
    """

    place: Place
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def list_files(images: Path, ignored: Counter[str] | None = None) -> list[FrameFile]:
    """Return the images and videos of a folder, a file, or a glob, in the order of their names.

    Args:
        images: a folder, with those inside it; one file; or a glob such as `runs/*/front.mp4`, of
            files and folders. A path that is there is taken as it is, whatever is in its name.
        ignored: takes how many other files there are, by suffix.

    Raises:
        ValueError: nothing is there that could be read; the message says what is.
    """
    suffixes, ignored = IMAGE_SUFFIXES + VIDEO_SUFFIXES, Counter() if ignored is None else ignored
    is_glob = not images.exists()
    matches = [Path(one) for one in glob.glob(str(images), recursive=True)] if is_glob else [images]
    if not matches:
        raise ValueError(
            f"images: nothing is at {images}; it is a folder, a video, an image, or a glob in "
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
        there = ", ".join(f"{count} of {suffix}" for suffix, count in ignored.most_common(5))
        raise ValueError(
            f"images: {images} has no image ({', '.join(IMAGE_SUFFIXES)}) and no video "
            f"({', '.join(VIDEO_SUFFIXES)}), but {there or 'nothing'}"
        )
    base = images if images.is_dir() else images.parent
    if is_glob:
        base = Path(*takewhile(lambda part: not re.search(r"[*?[]", part), images.parts))
    return [
        FrameFile(path=path, name=printable(str(path.relative_to(base))))
        for path in sorted(found.values())
    ]


def files_digest(files: Sequence[FrameFile]) -> str:
    """Return a sha256 of the files' names, sizes and times of change."""
    digest = hashlib.sha256()
    for file in files:
        found = file.path.stat() if file.path.exists() else None
        size, changed = (found.st_size, found.st_mtime_ns) if found else (0, 0)
        digest.update(f"{file.name}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()


def expected_frames(file: FrameFile) -> tuple[int, float]:
    """Return how many frames a file says that it has, and how long it is in seconds."""
    if not file.is_video:
        return 1, 0.0
    try:
        with open_video(file.path) as video:
            return round(video.length_s / video.gap_s) if video.gap_s else 0, video.length_s
    except Exception:  # whatever a decoder raises is told when the file is read
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
    """Yield the frames from a place on, in batches; the last one may be empty.

    The batches from a batch's `place` on are those that would have followed it.

    Args:
        files: what `list_files` gave.
        place: where to begin: (0, 0), or a batch's `place`.
        stride: every how many frames of a video one is taken.
        every_s: take instead the first frame at or after each multiple of so many seconds.
        batch_size: most frames of a batch; large frames come in smaller ones.
        apart: no batch has frames of two files.
        threads: how many images are decoded at a time.
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
    """Iterate over the frames of a video that are taken: number, time and image.

    No file makes the iteration raise.

    Attributes:
        problems: what was wrong, complete after the last frame.
        taken: frames that are taken, with those before the first one that is asked for.
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
                    self.problems.append(f"{video.lost_packets} packets that are no frames")
                ended_s = last_s - begin_s + video.gap_s
                if ended_s < video.length_s - max(0.5, 0.05 * video.length_s):
                    self.problems.append(f"ends early: {ended_s:.1f} of {video.length_s:.1f} s")
        except Exception as error:  # whatever a decoder raises is this file's fault
            self.problems.append(f"{'breaks off' if self.taken else 'not readable'}: {error}")
        if damaged:
            self.problems.append(f"{damaged} damaged frames left out")
        if not self.taken and not self.problems:
            self.problems.append("no frame in it")
