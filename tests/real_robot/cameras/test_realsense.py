"""A recording made by the library's software device is played back; needs pyrealsense2."""

import time

import numpy as np
import pytest

from real_robot.cameras.camera import EndOfStreamError, SourceError
from real_robot.cameras.realsense import RealSenseConfig, RealSenseSource
from real_robot.cameras.threaded import CameraSettings, ThreadedCamera

rs = pytest.importorskip("pyrealsense2", reason="pip install 'toto-robot[realsense]'")

HEIGHT, WIDTH, NUM_FRAMES = 240, 320, 20
CONFIG = {
    "serial": None,
    "recording": None,
    "height": HEIGHT,
    "width": WIDTH,
    "rate_hz": 30,
    "timeout_s": 1.5,
}


def image_of(index):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 5 * index
    return image


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("realsense") / "camera.db3"
    device = rs.software_device()
    sensor = device.add_sensor("Color")
    lens = rs.intrinsics()
    lens.width, lens.height, lens.ppx, lens.ppy = WIDTH, HEIGHT, WIDTH / 2, HEIGHT / 2
    lens.fx = lens.fy = 300.0
    lens.model = rs.distortion.none
    stream = rs.video_stream()
    stream.type, stream.index, stream.uid = rs.stream.color, 0, 1
    stream.width, stream.height, stream.fps, stream.bpp = WIDTH, HEIGHT, 30, 3
    stream.fmt, stream.intrinsics = rs.format.rgb8, lens
    profile = sensor.add_video_stream(stream).as_video_stream_profile()
    recorder = rs.recorder(str(path), device)
    recorded = recorder.query_sensors()[0]
    recorded.open(recorded.get_stream_profiles()[0])
    recorded.start(rs.frame_queue(50))
    for index in range(NUM_FRAMES):
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = image_of(index), 3 * WIDTH, 3
        frame.timestamp, frame.domain = index * 1000 / 30, rs.timestamp_domain.hardware_clock
        frame.frame_number, frame.profile = index, profile
        sensor.on_video_frame(frame)
        time.sleep(0.03)
    recorded.stop()
    recorded.close()
    del recorder  # it writes its end when it goes
    return path


def test_a_recording_is_played_in_red_green_blue_to_its_end(recording) -> None:
    settings = CameraSettings(
        name="hand",
        capture_height=HEIGHT,
        capture_width=WIDTH,
        height=HEIGHT,
        width=WIDTH,
        frozen_after_s=5.0,
        first_retry_s=0.1,
        max_retry_s=1.0,
    )
    source = RealSenseSource(RealSenseConfig(**{**CONFIG, "recording": recording}))
    with ThreadedCamera(settings, source) as camera:
        frame = camera.wait(30.0, sequence=NUM_FRAMES // 2)
        red, green, blue = frame.image[0, 0]
        assert (red, green) == (200, 0)
        assert blue % 5 == 0
        with pytest.raises(EndOfStreamError, match="has ended"):
            camera.wait(30.0, sequence=10**6)


def test_a_camera_that_is_not_plugged_in_is_named(tmp_path) -> None:
    with pytest.raises(SourceError, match=r"no RealSense camera '123'; connected: none"):
        RealSenseSource(RealSenseConfig(**{**CONFIG, "serial": "123"})).open()
    with pytest.raises(SourceError, match="0 RealSense cameras"):
        RealSenseSource(RealSenseConfig(**CONFIG)).open()
    missing = RealSenseConfig(**{**CONFIG, "recording": tmp_path / "none.db3"})
    with pytest.raises(SourceError, match=r"none\.db3 does not exist"):
        RealSenseSource(missing).open()
