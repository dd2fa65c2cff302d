"""Encode images as MP4 videos, which `toto_robot.data.video` reads."""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
# Frames from one key frame to the next, as in LeRobot: reading one frame decodes two at most.
_KEY_FRAME_EVERY = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """Settings of the video codec.

    Attributes:
        name: FFmpeg's name of the encoder.
        pixel_format: pixel format of the images that are passed to the encoder.
        options: options of the encoder.
        stored_format: FFmpeg's name of the pixel format in the video file.
    """

    name: str
    pixel_format: str
    options: tuple[tuple[str, str], ...]
    stored_format: str


LOSSLESS = Codec(
    name="libx264rgb",
    pixel_format="rgb24",
    options=(("qp", "0"), ("preset", "veryfast")),
    stored_format="gbrp",
)


def small(crf: int) -> Codec:
    """Return the settings of ordinary H.264, which is lossy but small.

    Args:
        crf: FFmpeg's quality setting, from 0 (best quality) to 51 (smallest files).

    Raises:
        ValueError: `crf` is outside this range.
    """
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must be in [0, 51], got {crf}")
    # with "mbtree", x264 sometimes gives other bytes for the same frames
    options = (("crf", str(crf)), ("preset", "veryfast"), ("x264-params", "mbtree=0"))
    return Codec(name="libx264", pixel_format="yuv420p", options=options, stored_format="yuv420p")


def check_size(height: int, width: int, codec: Codec) -> None:
    """Check that a codec can store images of this size.

    Raises:
        ValueError: height or width is odd, and the codec is lossy.
    """
    from toto_robot.data.video import check_even

    check_even(height, width, codec.pixel_format)


def encode(images: Images, rate_hz: int, codec: Codec) -> bytes:
    """Return the bytes of an MP4 with images [t h w 3]; frame i has the time i / rate_hz seconds.

    Raises:
        ValueError: height or width is odd, and the codec is lossy.
    """
    check_size(images.shape[1], images.shape[2], codec)
    av, time_base = _av(), Fraction(1, rate_hz)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        # without B-frames, frames are decoded in order and each at its own time
        options = {"bf": "0", "g": str(_KEY_FRAME_EVERY), **dict(codec.options)}
        stream = container.add_stream(codec.name, rate=rate_hz, options=options)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = codec.pixel_format
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV: pip install 'toto-robot[train]'") from error
    return av
