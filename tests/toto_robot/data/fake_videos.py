"""Small videos that tests write: numbered, noisy, turned, at any times."""

from fractions import Fraction

import av
import numpy as np

RATE = 10


def write(
    path, frames, times=None, rotation=0, pixels="yuv444p", keys=12, options=None, matrix=None
):
    """Write frames as H.264, at RATE or at given times in milliseconds."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        # the same bytes on every machine
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "4", "g": str(keys), "bf": "0", "x264-params": "mbtree=0"}
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix is not None:
            a, b, c, d = (round(65536 * number) for number in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if times is not None:
                # the stream's own becomes another when the first packet is written
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered(count, height=48, width=64):
    """Frames whose grey says their number: 5 * n."""
    return [np.full((height, width, 3), 5 * n, np.uint8) for n in range(count)]


def noisy(count):
    """Frames that a codec must work for, so that a file has bytes to damage."""
    picture = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    picture = np.kron(picture, np.ones((8, 8, 1), np.uint8))
    return [np.roll(picture, 3 * n, axis=1) for n in range(count)]
