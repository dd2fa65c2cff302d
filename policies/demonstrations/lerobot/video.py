"""Images to MP4; `toto_robot.data.video` reads it."""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
# Frames from one key frame to the next; LeRobot's own choice: a reader that wants one frame at
# random decodes two at most.
_KEY_FRAME_EVERY = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """Say how pictures are coded.

    Attributes:
        name: FFmpeg's encoder.
        pixel_format: of the encoder.
        options: of the encoder.
        stored_format: FFmpeg's name of the stored pixels, which readers see.
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
    """Return the usual H.264, smaller and with losses; `crf` 0 (best) to 51."""
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must be in [0, 51], got {crf}")
    options = (("crf", str(crf)), ("preset", "veryfast"))
    return Codec(name="libx264", pixel_format="yuv420p", options=options, stored_format="yuv420p")


def check_size(height: int, width: int, codec: Codec) -> None:
    """Refuse a size of images that a codec cannot keep.

    Raises:
        ValueError: height or width is odd, and the codec has losses.
    """
    from toto_robot.data.video import check_even

    check_even(height, width, codec.pixel_format)


def encode(pictures: Pictures, rate_hz: int, codec: Codec) -> bytes:
    """Return an MP4 of pictures [t h w 3], frame i at i / rate_hz seconds.

    Raises:
        ValueError: an odd height or width, which a codec with losses cannot keep.
    """
    check_size(pictures.shape[1], pictures.shape[2], codec)
    av, time_base = _av(), Fraction(1, rate_hz)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        # without B frames each frame comes out in order and at its own time
        options = {"bf": "0", "g": str(_KEY_FRAME_EVERY), **dict(codec.options)}
        stream = container.add_stream(codec.name, rate=rate_hz, options=options)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = codec.pixel_format
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
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
