"""Read clips of video files: sample and crop the frames, and report damaged or unusable parts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import av
import numpy as np

from .video import SquareCrop, TimedFrame, open_video

__all__ = ["ByFrames", "BySeconds", "ClipReader", "Sampling", "read_video"]

_TICK_S = 0.001  # rounding error of a container's time base


@dataclass(frozen=True, kw_only=True, slots=True)
class ByFrames:
    """Frame sampling by number: every ``stride``-th frame is read.

    The paper has a stride of 4 (section 3.4).

    Attributes:
        stride: distance between two frames of a clip, in frames of the file.
    """

    kind: ClassVar[str] = "frames"
    stride: int

    def describe(self) -> str:
        """Return text for a message that states which frames are read. Empty if all are read."""
        return f", with stride {self.stride}: one frame in {self.stride}" * (self.stride > 1)

    def __post_init__(self) -> None:
        """Check that the stride is positive."""
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BySeconds:
    """Frame sampling by time: one frame is read every ``interval_s`` seconds.

    The frame is the one that a video player shows at that time. The frame rate of the file may
    vary. The paper's stride of 4 at 30 frames a second is an interval of 0.1333 s.

    Attributes:
        interval_s: time between two frames of a clip, seconds.
    """

    kind: ClassVar[str] = "seconds"
    interval_s: float

    def describe(self) -> str:
        """Return text for a message that states which frames are read."""
        return f", one frame every {self.interval_s:g} s"

    def __post_init__(self) -> None:
        """Check that the interval is positive."""
        if not self.interval_s > 0:
            raise ValueError(f"interval_s must be above 0, got {self.interval_s}")


Sampling = ByFrames | BySeconds


class ClipReader:
    """An iterator over the clips of a video, in order. A clip of t frames is uint8 [t size size 3].

    Frames are turned upright, resized so that the shortest side is ``size``, and cropped at one
    position per clip (paper section 3.4). A damaged file raises no error. After the last clip,
    ``problems`` lists what was wrong with the file. Clips with a damaged frame are left out, and
    the clips before and after them are used. With sampling by number, clips with uneven frame times
    are left out too.

    Frames are decoded by one thread, because libavcodec marks damaged frames reliably only then.
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
        rate_hz: float | None = None,
    ) -> None:
        """Store the settings. The file is opened only when the iteration begins.

        Args:
            path: the video file.
            size: side of the frames, pixels.
            frames: number of frames in a clip.
            whole: If True, return one clip of all sampled frames of the video, if they are at least
                ``frames``. If False, return many clips of ``frames`` frames.
            sampling: rule that selects the frames, by number or by time.
            delay: offset of the first frame, as a fraction of a sampling step in [0, 1). Passes
                over a file with different offsets can read different frames.
            place: function from the number of a clip to the position of its crop. The position is
                two fractions in [0, 1), from the top and from the left.
            start_s: start time on the file's clock, seconds. None starts at the first frame.
            end_s: end time on the file's clock, seconds. None reads until the end of the file.
            rate_hz: expected frame rate between `start_s` and `end_s`. None skips this check.
        """
        self.problems: list[str] = []
        self._path, self._size, self._frames, self._whole = path, size, frames, whole
        self._sampling, self._delay, self._place = sampling, delay, place
        self._start_s, self._end_s, self._rate_hz = start_s, end_s, rate_hz
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
        except Exception as error:  # decoders raise many kinds of errors for a damaged file
            what = "breaks off" if number or clip else "not readable"
            self.problems.append(f"{what}: {error}")
        if self._whole and len(clip) >= self._frames:
            if reason := self._flaw(damaged):
                refused[reason] = 1
            else:
                yield np.stack(clip)
            number = 1
        elif not number and not self.problems:
            self.problems.append(
                f"too short: {len(clip)} frames of the {self._frames} of a clip"
                + self._sampling.describe()
            )
        self.problems += [f"{n} of {number} clips left out: {why}" for why, n in refused.items()]

    def _flaw(self, damaged: bool) -> str:
        """Return the reason why the clip in memory cannot be used, or "" if it can be used."""
        if damaged:
            return "damaged frames"
        gaps = np.diff(self._times)
        if self._rate_hz is not None and (np.abs(gaps * self._rate_hz - 1) > 0.5).any():
            return "a frame is missing"
        if isinstance(self._sampling, ByFrames) and len(gaps):
            low, usual, high = gaps.min(), np.median(gaps), gaps.max()
            if high > 10 * usual:
                return "a hole in the times"
            # A few dropped frames do not make a variable rate.
            if np.mean(np.abs(gaps - usual) > 0.5 * usual) > 0.1:
                return (
                    f"variable rate, {1000 * low:.0f} to {1000 * high:.0f} ms a frame: "
                    "sample it by seconds (python -m toto_robot.data.tokenise clips=seconds)"
                )
        return ""

    def _sampled(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Yield the sampled frames, each with a flag that is True if the frame is damaged."""
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

    def _decoded(self) -> Iterator[TimedFrame]:
        """Yield the frames from `start_s` to `end_s` (a segment), or of the whole file.

        In a segment, times are on the file's clock. In a whole file, the first frame has time 0.
        """
        with open_video(self._path) as video:
            zero_s = video.begin_s if self._start_s is None else 0.0
            begin_s = -np.inf if self._start_s is None else self._start_s - video.gap_s / 2
            end_s = np.inf if self._end_s is None else self._end_s - video.gap_s / 2
            last_s = 0.0
            count = 0
            for frame, time_s, damaged in video.frames(None if self._start_s is None else begin_s):
                last_s = time_s - zero_s
                if last_s >= end_s:
                    break
                if last_s >= begin_s:
                    count += 1
                    self._times.append(last_s)
                    yield TimedFrame(frame, last_s, damaged)
            if self._rate_hz is not None:
                expected = round((end_s - begin_s) * self._rate_hz)
                if count != expected:
                    self.problems.append(f"{count} frames of the {expected} of this part")
            if video.lost_packets:
                self.problems.append(f"{video.lost_packets} packets are not decodable frames")
            last_s, length_s = last_s + video.gap_s, video.length_s
            if last_s < length_s - max(0.5, 0.05 * length_s) and end_s > length_s:
                self.problems.append(f"ends early: {last_s:.1f} of {length_s:.1f} s")


def read_video(
    path: Path, size: int, stride: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Return all sampled frames of a video, uint8 [t size size 3], and a list of its faults.

    As in the paper's section 3.4, every ``stride``-th frame is read, and its shortest side is
    resized to ``size``. Then all frames are cropped to ``size`` x ``size`` at one random position.
    If a file ends early, the frames before its end are used.

    Raises:
        ValueError: no frame of the file can be used. The message states the reason.
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
