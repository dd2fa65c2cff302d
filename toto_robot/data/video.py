"""Video files to upright RGB frames with their times, and frames to video files.

This is the one place that opens videos. It opens local files that are whole by themselves: no
address of a network, and no list of other files. Frames are turned and mirrored as players show
them. No torch, so that a robot's computer can read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..downloads import with_disguise
from ..files import written_aside
from ..moved import moved_names

try:
    import av
    from av.video.reformatter import Interpolation, VideoReformatter
except ImportError as error:
    raise ImportError("videos need PyAV: pip install 'toto-robot[train]'") from error

__all__ = [
    "RESIZER",
    "VIDEO_SUFFIXES",
    "SquareCrop",
    "TimedFrame",
    "Video",
    "frame_times",
    "open_video",
    "read_frames",
    "read_frames_at",
    "read_squares",
    "to_rgb",
    "write_video",
]

Frames = NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".gif")
# Two resizers make frames that differ by 2.5 to 4 grey levels, so data sets say which made theirs.
RESIZER = f"swscale {'.'.join(map(str, av.library_versions['libswscale']))} area, enlarging bicubic"
_OPTIONS = {
    "protocol_whitelist": "file",
    # FFmpeg's names of formats whose files name no others; `concat`, `hls` and `dash` do.
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,"
    "ogg,flv,asf,ivf,obu,h264,hevc,m4v,mjpeg",
}
_TICK_S = 0.001  # what a container's time base may round away
_OFF_AXIS = 0.0175  # sine of one degree: FFmpeg's own tolerance of a quarter turn

__getattr__ = moved_names(
    __name__,
    {
        name: f"toto_robot.data.clips:{name}"
        for name in ("ByFrames", "BySeconds", "ClipReader", "Sampling", "read_video")
    },
)


class TimedFrame(NamedTuple):
    """A decoded frame, its time on the file's clock in seconds, and whether it is damaged."""

    frame: av.VideoFrame
    time_s: float
    damaged: bool


@contextmanager
def open_video(path: Path) -> Iterator["Video"]:
    """Open the first video stream of a local file.

    Raises:
        ValueError: it is no regular file, no video, or of a format that names other files.
    """
    if not path.is_file():
        raise ValueError("no such file")
    # With `file:` no part of a name is taken for a protocol, such as that of `at_10:30/a.mp4`.
    try:
        container = av.open(f"file:{path}", options=_OPTIONS)
    except av.FFmpegError as error:
        raise ValueError(with_disguise(path, error.strerror)) from error
    with container:
        if not container.streams.video:
            raise ValueError("no video in it")
        yield Video(container)


class Video:
    """An opened video file.

    Frames are decoded by one thread: libavcodec marks damaged frames reliably only then.

    Attributes:
        begin_s: time of the first frame on the file's clock.
        gap_s: usual time from one frame to the next; 0 where the file does not say.
        length_s: how long the file says that it is; 0 where it does not.
        lost_packets: packets met so far that are no frames.
    """

    def __init__(self, container: av.container.InputContainer) -> None:
        """Take an opened container that has a video stream."""
        self._container = container
        self._stream = stream = container.streams.video[0]
        stream.thread_type = "NONE"
        self._tick_s = float(stream.time_base or Fraction(1, 1000))
        self.begin_s = (stream.start_time or 0) * self._tick_s
        self.gap_s = 1 / float(stream.average_rate) if stream.average_rate else 0.0
        self.length_s = (container.duration or 0) / av.time_base
        if stream.duration:
            self.length_s = stream.duration * self._tick_s
        self.lost_packets = 0

    def frames(self, start_s: float | None = None) -> Iterator[TimedFrame]:
        """Yield the frames in the order of their times.

        Args:
            start_s: where to begin on the file's clock: at the key frame before it; None: at the
                first frame.
        """
        if start_s is not None and start_s <= self.begin_s:
            start_s = None
        if start_s is not None:
            self._container.seek(int(start_s / self._tick_s), stream=self._stream)
        number, damaged = 0, False
        for frame in self._decoded():
            # A frame that is built upon a damaged one shows the damage too.
            damaged = frame is None or frame.is_corrupt or (damaged and not frame.key_frame)
            if frame is None:
                continue
            time_s = self.begin_s + number * self.gap_s if frame.time is None else frame.time
            if start_s is not None and not number and time_s > start_s + _TICK_S:
                # the file's index misleads
                self._container.seek(0)
                yield from self.frames()
                return
            number += 1
            yield TimedFrame(frame, time_s, damaged)

    def packet_times(self) -> list[float]:
        """Return the times of all frames in order, without decoding one."""
        times = [
            packet.dts if packet.pts is None else packet.pts
            for packet in self._container.demux(self._stream)
            if not packet.is_discard
        ]
        return sorted(time * self._tick_s for time in times if time is not None)

    def declared_if_cut(self) -> int | None:
        """Return the header's number of frames, if the file ends before the last of them."""
        packets = [packet for packet in self._container.demux(self._stream) if packet.size]
        if any(packet.is_discard for packet in packets):
            return None  # an edit list hides some: what is missing need not be at the end
        return self._stream.frames if len(packets) < self._stream.frames else None

    def _decoded(self) -> Iterator[av.VideoFrame | None]:
        """Yield the frames, and None for data that is none; what follows may be good again."""
        for packet in self._container.demux(self._stream):
            try:
                yield from packet.decode()  # pyrefly: ignore  # of a video stream: frames
            except av.InvalidDataError:
                self.lost_packets += 1
                yield None


def frame_times(path: Path) -> NDArray[np.float64]:
    """Return the times of a file's frames in order, on its clock, in seconds; none is decoded.

    Raises:
        ValueError: it is not a readable video; the message names it.
    """
    with _naming(path), open_video(path) as video:
        return np.array(video.packet_times(), np.float64)


def frames_before_cut(path: Path) -> int | None:
    """Return how many frames a file's header counts if its end was cut off; None: it is whole.

    Raises:
        ValueError: it is not a readable video; the message names it.
    """
    with _naming(path), open_video(path) as video:
        return video.declared_if_cut()


def read_frames(path: Path) -> Frames:
    """Return all frames of a file, upright, uint8 [t h w 3].

    Raises:
        ValueError: it is not a readable video, or damaged; the message names it.
    """
    with _naming(path), open_video(path) as video:
        found = [to_rgb(_whole(frame)) for frame in video.frames()]
        if not found:
            raise ValueError("it holds no video frame")
        return np.stack(found)


def read_frames_at(path: Path, times_s: Sequence[float] | NDArray[np.float64]) -> Frames:
    """Return the frames of these times of `frame_times`, upright, uint8 [t h w 3].

    Args:
        path: the file.
        times_s: one or more times, each later than the one before.

    Raises:
        ValueError: it is not a readable video, or one of the frames is damaged; the message names
            the file.
    """
    found: list[Frames] = []
    with _naming(path), open_video(path) as video:
        for frame in video.frames(times_s[0]):
            gap_s = frame.time_s - times_s[len(found)]
            if gap_s > _TICK_S:
                break
            if gap_s >= -_TICK_S:
                found.append(to_rgb(_whole(frame)))
            if len(found) == len(times_s):
                return np.stack(found)
        raise ValueError(f"its frame at {times_s[len(found)]:.3f} s cannot be decoded")


def read_squares(path: Path, size: int, numbers: range) -> Frames:
    """Return the middle squares of frames by their numbers, uint8 [t size size 3].

    The shortest side is resized to `size`. Frames are fewer where the file ends before.

    Raises:
        ValueError: it is not a readable video, or damaged; the message names it.
    """
    square = SquareCrop(size)
    with _naming(path), open_video(path) as video:
        frames = islice(video.frames(), numbers.start, numbers.stop, numbers.step)
        found = [square(_whole(frame), 0.5, 0.5) for frame in frames]
    return np.stack(found) if found else np.zeros((0, size, size, 3), np.uint8)


def to_rgb(frame: av.VideoFrame) -> Frames:
    """Return a decoded frame, upright, uint8 [h w 3].

    Raises:
        ValueError: the frame is to be shown at an angle that is no quarter turn.
    """
    return np.ascontiguousarray(_upright(frame.to_ndarray(format="rgb24"), frame))


def _whole(frame: TimedFrame) -> av.VideoFrame:
    if frame.damaged:
        raise ValueError(f"its frame at {frame.time_s:.3f} s is damaged")
    return frame.frame


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: not a readable video ({error})") from error


def _upright(image: NDArray[Any], frame: av.VideoFrame) -> NDArray[Any]:
    """Return a frame's image turned and mirrored as its display matrix says.

    The matrix (ISO/IEC 14496-12, 8.5.2) maps a place (p, q), right and down, to (a p + c q,
    b p + d q). The determinant of one that mirrors, as front cameras of phones do, is negative.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).astype(float)
    straight, crossed = np.hypot(a, d), np.hypot(b, c)
    if min(straight, crossed) > _OFF_AXIS * max(straight, crossed):
        raise ValueError(f"to be shown turned by {frame.rotation} degrees, no quarter turn")
    if crossed > straight:
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


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
        sides = (frame.width, frame.height)
        scale = self._size / min(sides)
        width, height = (max(self._size, round(side * scale)) for side in sides)
        resizer = Interpolation.AREA if scale <= 1 else Interpolation.BICUBIC
        image = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=resizer
        ).to_ndarray()
        image = _upright(image, frame)
        top = int(down * (image.shape[0] - self._size + 1))
        left = int(across * (image.shape[1] - self._size + 1))
        # a copy, so that the whole frame is not kept for the crop's sake
        return image[top : top + self._size, left : left + self._size].copy()


def check_even(height: int, width: int, pixels: str) -> None:
    """Refuse a size that a format of pixels cannot have.

    Raises:
        ValueError: height or width is odd, and the format has one colour for 2 x 2 pixels.
    """
    if pixels == "yuv420p" and (height % 2 or width % 2):
        raise ValueError(
            f"images of {height} x {width} pixels cannot be kept as {pixels}, which has one colour "
            "for 2 x 2 pixels: crop or resize them to "
            f"{height - height % 2} x {width - width % 2}, or keep them without loss"
        )


def write_video(
    path: Path, frames: Sequence[np.ndarray], rate_hz: float, faithful: bool = False
) -> None:
    """Write uint8 frames [h w 3] of one even size as H.264, aside and renamed.

    Args:
        path: the file.
        frames: the frames.
        rate_hz: frames per second.
        faithful: keep the colours of every pixel, for training; else as browsers play it.

    Raises:
        ValueError: an odd height or width, where browsers are to play it.
    """
    height, width = frames[0].shape[:2]
    check_even(height, width, "yuv444p" if faithful else "yuv420p")
    with written_aside(path) as aside, av.open(f"file:{aside}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p" if faithful else "yuv420p"
        stream.options = {"crf": "10" if faithful else "23", "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
