"""Video files to square RGB frames, and frames to video files."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

__all__ = ["VIDEO_SUFFIXES", "read_video", "write_video"]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".gif")


def read_video(path: Path, size: int, stride: int, generator: np.random.Generator) -> np.ndarray:
    """Decode a video to frames, uint8 [t size size 3].

    As in the paper's section 3.4: every ``stride``-th frame, shortest side resized to ``size``, one
    random crop of ``size`` x ``size`` that stays in place over the whole video.

    Raises:
        ValueError: the file cannot be decoded or has no frames.
    """
    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            crop: tuple[int, int] | None = None
            for index, frame in enumerate(container.decode(stream)):
                if index % stride:
                    continue
                scale = size / min(frame.width, frame.height)
                width, height = (
                    max(size, round(side * scale)) for side in (frame.width, frame.height)
                )
                image = frame.reformat(
                    width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC
                ).to_ndarray()
                if crop is None:
                    crop = (
                        int(generator.integers(height - size + 1)),
                        int(generator.integers(width - size + 1)),
                    )
                top, left = crop
                frames.append(image[top : top + size, left : left + size])
    except (av.FFmpegError, IndexError, OSError) as error:
        raise ValueError(f"{path}: not a readable video ({error})") from error
    if not frames:
        raise ValueError(f"{path}: holds no video frame")
    return np.stack(frames)


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
