"""Video files to square RGB frames, and frames to video files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

__all__ = [
    "RESIZER",
    "VIDEO_SUFFIXES",
    "ByFrames",
    "BySeconds",
    "ClipReader",
    "Sampling",
    "read_video",
    "write_video",
]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".gif")
# Two resizers make frames that differ by 2.5 to 4 grey levels, so data sets say which made theirs.
RESIZER = f"swscale {'.'.join(map(str, av.library_versions['libswscale']))} area, enlarging bicubic"
_TICK_S = 0.001  # what a container's time base may round away


@dataclass(frozen=True, kw_only=True, slots=True)
class ByFrames:
    """Take every ``stride``-th frame of the file, as the paper does with 4 (section 3.4)."""

    kind: ClassVar[str] = "frames"
    stride: int

    def __post_init__(self) -> None:
        """Refuse a stride that goes nowhere."""
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BySeconds:
    """Take the frame that is shown every ``interval_s`` seconds: for any rate, also a variable one.

    The paper's stride of 4 at 30 frames a second is 0.1333.
    """

    kind: ClassVar[str] = "seconds"
    interval_s: float

    def __post_init__(self) -> None:
        """Refuse an interval that goes nowhere."""
        if not self.interval_s > 0:
            raise ValueError(f"interval_s must be above 0, got {self.interval_s}")


Sampling = ByFrames | BySeconds


class ClipReader:
    """Iterate over the clips of a video, uint8 [t size size 3] each, in order.

    Upright, resized so that the shortest side is ``size``, then cropped at a place of each clip's
    own (paper section 3.4). No file makes the iteration raise: ``problems`` tells after the last
    clip what was wrong. Clips before a damage, and after it, are used; clips
    with a damaged frame are not, nor, where frames are taken by number, clips of uneven times.

    Frames are decoded by one thread: libavcodec marks damaged frames reliably only then.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: int,
        frames: int,
        whole: bool,
        sampling: Sampling,
        delay: float,
        place: Callable[[int], tuple[float, float]],
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> None:
        """Say what to read; the file is opened by the iteration.

        Args:
            path: the file.
            size: side of the frames, pixels.
            frames: frames of a clip.
            whole: one clip of all frames, ``frames`` or more, instead of clips of that many.
            sampling: which frames are taken.
            delay: how much later to begin, in [0, 1) of a step: other frames for another pass.
            place: gives the place of the crop of a clip's number: two shares in [0, 1), down and
                across.
            start_s: where to begin, seconds from the start of the file; None: there.
            end_s: where to end; None: at the end.
        """
        self.problems: list[str] = []
        self._path, self._size, self._frames, self._whole = path, size, frames, whole
        self._sampling, self._delay, self._place = sampling, delay, place
        self._start_s, self._end_s = start_s, end_s
        self._times: list[float] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        self.problems, self._times = [], []
        square = SquareCrop(self._size)
        refused: dict[str, int] = {}
        clip: list[np.ndarray] = []
        number, damaged = 0, False
        try:
            for frame, flaw in self._sampled():
                clip.append(square(frame, *self._place(number)))
                damaged = damaged or flaw
                if not self._whole and len(clip) == self._frames:
                    if reason := self._flaw(damaged):
                        refused[reason] = refused.get(reason, 0) + 1
                    else:
                        yield np.stack(clip)
                    number += 1
                    clip, damaged, self._times = [], False, self._times[-1:]
        except (av.FFmpegError, OSError, ValueError) as error:
            what = "breaks off" if number or clip else "not readable"
            self.problems.append(f"{what}: {error}")
        if self._whole and len(clip) >= self._frames:
            if reason := self._flaw(damaged):
                refused[reason] = 1
            else:
                yield np.stack(clip)
            number = 1
        elif not number and not self.problems:
            self.problems.append(f"too short: {len(clip)} frames of the {self._frames} of a clip")
        self.problems += [f"{n} of {number} clips left out: {why}" for why, n in refused.items()]

    def _flaw(self, damaged: bool) -> str:
        """Return why the clip that has just been read cannot be used, or nothing."""
        if damaged:
            return "damaged frames"
        gaps = np.diff(self._times)
        if isinstance(self._sampling, ByFrames) and len(gaps):
            low, usual, high = gaps.min(), np.median(gaps), gaps.max()
            if high > 10 * usual:
                return "a hole in the times"
            # A dropped frame now and then is no variable rate.
            if np.mean(np.abs(gaps - usual) > 0.5 * usual) > 0.1:
                return (
                    f"variable rate, {1000 * low:.0f} to {1000 * high:.0f} ms a frame: "
                    "take it by seconds"
                )
        return ""

    def _sampled(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Yield the frames that are taken, and whether one is damaged."""
        if isinstance(self._sampling, ByFrames):
            stride = self._sampling.stride
            skip = int(self._delay * stride)
            for index, (frame, _, damaged) in enumerate(self._decoded()):
                if index % stride == skip:
                    yield frame, damaged
            return
        step = self._sampling.interval_s
        due, number, end_s = 0.0, 0, 0.0
        shown: tuple[av.VideoFrame, bool] | None = None
        for frame, time_s, damaged in self._decoded():
            if shown is None:
                due = time_s + self._delay * step
            while shown is not None and due + number * step < time_s - _TICK_S:
                yield shown
                number += 1
            shown = frame, damaged
            end_s = time_s + float(frame.duration * (frame.time_base or 0))
        while shown is not None and due + number * step < end_s - _TICK_S:
            yield shown
            number += 1

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, float, bool]]:
        """Yield the frames of the segment, their times in seconds, and whether one is damaged."""
        with av.open(str(self._path)) as container:
            if not container.streams.video:
                raise ValueError("no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            tick_s = float(stream.time_base or Fraction(1, 1000))
            zero_s = (stream.start_time or 0) * tick_s
            gap_s = 1 / float(stream.average_rate) if stream.average_rate else 0.0
            begin_s = -np.inf if self._start_s is None else self._start_s - gap_s / 2
            end_s = np.inf if self._end_s is None else self._end_s - gap_s / 2
            if self._start_s:
                # the key frame at or before it; what lies between is decoded and dropped
                container.seek(int((self._start_s + zero_s) / tick_s), stream=stream)
            number, damaged, last_s = 0, False, 0.0
            for frame in self._frames_of(container, stream):
                # A frame that is built upon a damaged one shows the damage too.
                damaged = frame is None or frame.is_corrupt or (damaged and not frame.key_frame)
                if frame is None:
                    continue
                last_s = number * gap_s if frame.time is None else frame.time - zero_s
                number += 1
                if last_s >= end_s:
                    return
                if last_s >= begin_s:
                    self._times.append(last_s)
                    yield frame, last_s, damaged
            length_s = _length_s(stream, container)
            if last_s + gap_s < length_s - max(0.5, 0.05 * length_s) and end_s > length_s:
                self.problems.append(f"ends early: {last_s + gap_s:.1f} of {length_s:.1f} s")

    def _frames_of(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.VideoFrame | None]:
        """Yield the frames, and None for data that is none; what follows may be good again."""
        lost = 0
        for packet in container.demux(stream):
            try:
                yield from packet.decode()  # pyrefly: ignore  # of a video stream: frames
            except av.InvalidDataError:
                lost += 1
                yield None
        if lost:
            self.problems.append(f"{lost} packets that are no frames")


def _length_s(stream: av.VideoStream, container: av.container.InputContainer) -> float:
    """Return how long the file says that it is, or 0."""
    if stream.duration:
        return float(stream.duration * (stream.time_base or 0))
    return (container.duration or 0) / av.time_base


class SquareCrop:
    """Turn decoded frames upright, resize their shortest side and crop them to squares."""

    def __init__(self, size: int) -> None:
        """Take the side of the squares, pixels."""
        self._size = size
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame

    def __call__(self, frame: av.VideoFrame, down: float, across: float) -> np.ndarray:
        """Return uint8 [size size 3].

        Args:
            frame: of any pixel format; more than 8 bits are rounded.
            down: place of the crop between the highest and the lowest one, in [0, 1).
            across: the same from left to right.

        Raises:
            ValueError: the frame is to be shown at an angle that is no quarter turn.
        """
        if frame.rotation % 90:
            raise ValueError(f"to be shown turned by {frame.rotation} degrees, no quarter turn")
        turns = frame.rotation // 90 % 4
        sides = (frame.width, frame.height)
        scale = self._size / min(sides)
        width, height = (max(self._size, round(side * scale)) for side in sides)
        resizer = Interpolation.AREA if scale <= 1 else Interpolation.BICUBIC
        image = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=resizer
        ).to_ndarray()
        image = np.rot90(image, turns)
        top = int(down * (image.shape[0] - self._size + 1))
        left = int(across * (image.shape[1] - self._size + 1))
        # a copy, so that the whole frame is not kept for the crop's sake
        return image[top : top + self._size, left : left + self._size].copy()


def read_video(
    path: Path, size: int, stride: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Decode a whole video to frames, uint8 [t size size 3], and say what was wrong with it.

    As in the paper's section 3.4: every ``stride``-th frame, shortest side resized to ``size``, one
    random crop of ``size`` x ``size`` that stays in place over the whole video. Of a file that ends
    early, what is there is used.

    Raises:
        ValueError: nothing of the file can be used; the message says why.
    """
    down, across = generator.random(2)
    reader = ClipReader(
        path,
        size=size,
        frames=1,
        whole=True,
        sampling=ByFrames(stride=stride),
        delay=0.0,
        place=lambda _: (down, across),
    )
    clips = list(reader)
    if not clips:
        raise ValueError("; ".join(reader.problems))
    return clips[0], reader.problems


def write_video(
    path: Path, frames: Sequence[np.ndarray], rate_hz: float, faithful: bool = False
) -> None:
    """Write uint8 frames [h w 3] of one even size as H.264, aside and renamed.

    Args:
        path: the file.
        frames: the frames.
        rate_hz: frames per second.
        faithful: keep the colours of every pixel, for training; else as browsers play it.
    """
    aside = path.with_name(f".{path.stem}.part.mp4")
    with av.open(str(aside), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p" if faithful else "yuv420p"
        stream.options = {"crf": "10" if faithful else "23", "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    aside.replace(path)
