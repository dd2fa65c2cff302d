"""Read video files as upright RGB frames with their times, and write frames to video files.

All videos are opened here. Only self-contained local files are opened. Network addresses and
playlists are refused. Frames are rotated and mirrored in the same way as in a video player. The
module does not import torch, so it also runs on a robot's computer without torch.
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
# Frames of two resizers differ by 2.5 to 4 grey levels, so a data set records its resizer.
RESIZER = f"swscale {'.'.join(map(str, av.library_versions['libswscale']))} area, enlarging bicubic"
_OPTIONS = {
    "protocol_whitelist": "file",
    # FFmpeg's names of self-contained formats; `concat`, `hls` and `dash` refer to other files.
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,"
    "ogg,flv,asf,ivf,obu,h264,hevc,m4v,mjpeg",
}
_TICK_S = 0.001  # rounding error of a container's time base
_OFF_AXIS = (
    0.0175  # sine of one degree: FFmpeg's own tolerance for rotations by multiples of 90 degrees
)

__getattr__ = moved_names(
    __name__,
    {
        name: f"toto_robot.data.clips:{name}"
        for name in ("ByFrames", "BySeconds", "ClipReader", "Sampling", "read_video")
    },
)


class TimedFrame(NamedTuple):
    """A decoded frame, its time on the file's clock in seconds, and a flag for damage."""

    frame: av.VideoFrame
    time_s: float
    damaged: bool


@contextmanager
def open_video(path: Path) -> Iterator["Video"]:
    """Open the first video track of a local file, and close the file at the end of the block.

    Raises:
        ValueError: the file does not exist, is not a video, or has a format that refers to other
            files.
    """
    if not path.is_file():
        raise ValueError("no such file")
    # `file:` prevents a part of a name such as `at_10:30/a.mp4` from being read as a protocol.
    try:
        container = av.open(f"file:{path}", options=_OPTIONS)
    except av.FFmpegError as error:
        raise ValueError(with_disguise(path, error.strerror)) from error
    with container:
        if not container.streams.video:
            raise ValueError("has no video stream")
        yield Video(container)


class Video:
    """An opened video file.

    Frames are decoded by one thread, because libavcodec marks damaged frames reliably only then.

    Attributes:
        begin_s: time of the first frame on the file's clock, seconds.
        gap_s: frame period according to the header, seconds. 0 if unknown.
        length_s: duration according to the header, seconds. 0 if unknown.
        lost_packets: number of packets read so far that could not be decoded.
    """

    def __init__(self, container: av.container.InputContainer) -> None:
        """Store an opened container that has a video stream."""
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
            start_s: start time on the file's clock, seconds. The first frame is the last key frame
                at or before this time. None starts at the first frame of the file.
        """
        if start_s is not None and start_s <= self.begin_s:
            start_s = None
        if start_s is not None:
            self._container.seek(int(start_s / self._tick_s), stream=self._stream)
        number, damaged = 0, False
        for frame in self._decoded():
            # A frame that the codec predicts from a damaged frame is damaged too.
            damaged = frame is None or frame.is_corrupt or (damaged and not frame.key_frame)
            if frame is None:
                continue
            time_s = self.begin_s + number * self.gap_s if frame.time is None else frame.time
            if start_s is not None and not number and time_s > start_s + _TICK_S:
                # the file's index is wrong
                self._container.seek(0)
                yield from self.frames()
                return
            number += 1
            yield TimedFrame(frame, time_s, damaged)

    def packet_times(self) -> list[float]:
        """Return the times of all frames in seconds, in order. The frames are not decoded."""
        times = [
            packet.dts if packet.pts is None else packet.pts
            for packet in self._container.demux(self._stream)
            if not packet.is_discard
        ]
        return sorted(time * self._tick_s for time in times if time is not None)

    def declared_if_cut(self) -> int | None:
        """Return the number of frames that the header states, if the file has fewer.

        Returns None if the file has all of them, or if an edit list hides some frames.
        """
        packets = [packet for packet in self._container.demux(self._stream) if packet.size]
        if any(packet.is_discard for packet in packets):
            return None  # an edit list hides frames, so frames may be missing at any position
        return self._stream.frames if len(packets) < self._stream.frames else None

    def _decoded(self) -> Iterator[av.VideoFrame | None]:
        """Yield the frames in order, and None for a packet that cannot be decoded."""
        for packet in self._container.demux(self._stream):
            try:
                yield from packet.decode()  # pyrefly: ignore  # of a video stream: frames
            except av.InvalidDataError:
                self.lost_packets += 1
                yield None


def frame_times(path: Path) -> NDArray[np.float64]:
    """Return the times of all frames of a file, in order. The frames are not decoded.

    Times are in seconds, on the clock of the file.

    Raises:
        ValueError: the file is not a readable video. The message names the file.
    """
    with _naming(path), open_video(path) as video:
        return np.array(video.packet_times(), np.float64)


def frames_before_cut(path: Path) -> int | None:
    """Return how many frames a truncated file had before it was cut; None if it seems complete.

    The number comes from the header of the file.

    Raises:
        ValueError: the file is not a readable video. The message names the file.
    """
    with _naming(path), open_video(path) as video:
        return video.declared_if_cut()


def read_frames(path: Path) -> Frames:
    """Read all t frames of a file, and return them upright, uint8 [t h w 3].

    Raises:
        ValueError: the file is not a readable video, or is damaged. The message names the file.
    """
    with _naming(path), open_video(path) as video:
        found = [to_rgb(_whole(frame)) for frame in video.frames()]
        if not found:
            raise ValueError("it has no video frame")
        return np.stack(found)


def read_frames_at(path: Path, times_s: Sequence[float] | NDArray[np.float64]) -> Frames:
    """Read the frames at t given times, and return them upright, uint8 [t h w 3].

    Args:
        path: the video file.
        times_s: one or more times returned by `frame_times`, in increasing order, seconds.

    Raises:
        ValueError: the file is not a readable video, or one of the frames is damaged. The message
            names the file.
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
    """Read the centre squares of the frames with the given numbers, uint8 [t size size 3].

    The shortest side of a frame is resized to `size`. If the file has too few frames, the result
    has fewer frames than `numbers`.

    Raises:
        ValueError: the file is not a readable video, or is damaged. The message names the file.
    """
    square = SquareCrop(size)
    with _naming(path), open_video(path) as video:
        frames = islice(video.frames(), numbers.start, numbers.stop, numbers.step)
        found = [square(_whole(frame), 0.5, 0.5) for frame in frames]
    return np.stack(found) if found else np.zeros((0, size, size, 3), np.uint8)


def to_rgb(frame: av.VideoFrame) -> Frames:
    """Convert a decoded frame to an upright RGB image, uint8 [h w 3].

    Raises:
        ValueError: the display rotation is not a multiple of 90 degrees.
    """
    return np.ascontiguousarray(_upright(frame.to_ndarray(format="rgb24"), frame))


def _whole(frame: TimedFrame) -> av.VideoFrame:
    if frame.damaged:
        raise ValueError(f"its frame at {frame.time_s:.3f} s is damaged")
    return frame.frame


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Convert any error of the decoder to a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: not a readable video ({error})") from error


def _upright(image: NDArray[Any], frame: av.VideoFrame) -> NDArray[Any]:
    """Rotate and mirror the image of a frame, as the display matrix of the frame requires.

    The matrix (ISO/IEC 14496-12, 8.5.2) maps a point (p, q) to (a p + c q, b p + d q). The p axis
    points right, and the q axis points down. The determinant is negative if the image is mirrored,
    for example in videos of the front camera of a phone.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).astype(float)
    straight, crossed = np.hypot(a, d), np.hypot(b, c)
    if min(straight, crossed) > _OFF_AXIS * max(straight, crossed):
        raise ValueError(
            f"its display rotation is {frame.rotation} degrees, which is not a multiple of 90"
        )
    if crossed > straight:
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


class SquareCrop:
    """A transform of decoded frames to square images.

    It turns a frame upright, resizes its shortest side, and crops a square.
    """

    def __init__(self, size: int) -> None:
        """Store the side of the squares, pixels."""
        self._size = size
        self._reformatter = VideoReformatter()  # reuses its tables for all frames

    def __call__(self, frame: av.VideoFrame, down: float, across: float) -> np.ndarray:
        """Return the square image of a frame, uint8 [size size 3].

        Args:
            frame: the frame, in any pixel format. Channels of more than 8 bits are rounded.
            down: vertical position of the crop, in [0, 1). 0 is the top.
            across: horizontal position of the crop, in [0, 1). 0 is the left.

        Raises:
            ValueError: the display rotation is not a multiple of 90 degrees.
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
        # a copy, so that the whole frame can be freed
        return image[top : top + self._size, left : left + self._size].copy()


def check_even(height: int, width: int, pixels: str) -> None:
    """Check that an image size is valid for a pixel format.

    Raises:
        ValueError: height or width is odd, and the format stores one colour for 2 x 2 pixels.
    """
    if pixels == "yuv420p" and (height % 2 or width % 2):
        raise ValueError(
            f"images of {height} x {width} pixels cannot be stored as {pixels}, which has one "
            "colour for 2 x 2 pixels: crop or resize them to "
            f"{height - height % 2} x {width - width % 2}, or store them without loss"
        )


def write_video(
    path: Path, frames: Sequence[np.ndarray], rate_hz: float, faithful: bool = False
) -> None:
    """Write frames to an H.264 video file.

    Args:
        path: the file. It is written under a temporary name and then renamed.
        frames: frames of equal size, each uint8 [h w 3].
        rate_hz: frame rate of the video.
        faithful: If True, store the colour of every pixel, which is best for training. If False,
            use a pixel format that browsers play, with one colour for 2 x 2 pixels.

    Raises:
        ValueError: height or width is odd, and ``faithful`` is False.
    """
    height, width = frames[0].shape[:2]
    check_even(height, width, "yuv444p" if faithful else "yuv420p")
    with written_aside(path) as aside, av.open(f"file:{aside}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p" if faithful else "yuv420p"
        # The bytes must not depend on the number of CPU cores, and with "mbtree", x264 sometimes
        # gives other bytes for the same frames.
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": "10" if faithful else "23",
            "preset": "veryfast",
            "x264-params": "mbtree=0",
        }
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
