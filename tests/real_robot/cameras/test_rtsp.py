"""A network camera over loopback: PyAV sends H.264 to OpenCV and then disconnects."""

import socket
import threading
from fractions import Fraction

import numpy as np
import pytest

from real_robot.cameras.camera import StaleFrameError
from real_robot.cameras.sources import OpenCvSource, RtspConfig
from real_robot.cameras.threaded import CameraSettings, ThreadedCamera

HEIGHT, WIDTH, RATE_HZ = 48, 64, 30
SOON_S = 60.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def push(url, leave):
    """Send red frames with a moving bar until the stop event."""
    import av

    options = {"rtsp_transport": "tcp"}
    container = None
    while container is None and not leave.is_set():
        try:
            container = av.open(url, "w", format="rtsp", options=options)
        except OSError:  # no listener yet
            leave.wait(0.05)
    if container is None:
        return
    fast = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
    stream = container.add_stream("libx264", rate=RATE_HZ, options=fast)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    index = 0
    try:
        while not leave.wait(1 / RATE_HZ):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            image[..., 0] = 220
            image[:, index % WIDTH] = 255
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE_HZ)
            for packet in stream.encode(frame):
                container.mux(packet)
            index += 1
        container.close()
    except OSError:  # the other side has gone
        pass


@pytest.mark.slow
def test_frames_come_over_the_network_and_their_end_is_noticed(monkeypatch) -> None:
    listen = "rtsp_transport;tcp|rtsp_flags;listen|listen_timeout;20"
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", listen)
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    settings = CameraSettings(
        name="front",
        capture_height=HEIGHT,
        capture_width=WIDTH,
        height=HEIGHT,
        width=WIDTH,
        frozen_after_s=5.0,
        first_retry_s=600.0,  # once is enough here
        max_retry_s=600.0,
    )
    leave = threading.Event()
    sender = threading.Thread(target=push, args=(url, leave), daemon=True)
    source = OpenCvSource(RtspConfig(url=url, timeout_s=20.0))
    with ThreadedCamera(settings, source) as camera:
        sender.start()
        frame = camera.wait(SOON_S, sequence=10)
        red, green, blue = np.median(frame.image, axis=(0, 1))
        assert red > 180 > 60 > max(green, blue)
        leave.set()
        sender.join(SOON_S)
        with pytest.raises(StaleFrameError, match="delivers no more frames"):
            camera.wait(8.0, sequence=10**6)
