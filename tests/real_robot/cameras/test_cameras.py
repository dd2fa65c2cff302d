"""A camera returns a fresh frame or an error: frozen, unplugged, wrong size, ended."""

import importlib.util
import queue
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from real_robot.cameras import realsense, sources
from real_robot.cameras.camera import (
    Camera,
    CameraError,
    EndOfStreamError,
    FrozenFrameError,
    SourceError,
    StaleFrameError,
    WrongFrameError,
)
from real_robot.cameras.fit import fit
from real_robot.cameras.threaded import CameraSettings, ThreadedCamera

HEIGHT, WIDTH = 24, 32
SETTINGS = {
    "name": "hand",
    "capture_height": HEIGHT,
    "capture_width": WIDTH,
    "height": HEIGHT,
    "width": WIDTH,
    "frozen_after_s": 0.5,
    "first_retry_s": 0.001,
    "max_retry_s": 0.004,
}
SOON_S = 60.0  # a starved machine is not a failure


def image_of(value):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


class FakeDevice:
    """A source of the test's frames; an exception unplugs it until `plugged` is set."""

    def __init__(self, clock):
        self.clock, self.plugged = clock, True
        self.script = queue.Queue()
        self.num_opened = self.num_closed = 0
        self.refused = threading.Semaphore(0)  # counts vain attempts

    def open(self):
        if not self.plugged:
            self.refused.release()
            raise SourceError("/dev/fake is not there")
        self.num_opened += 1

    def read(self):
        item = self.script.get(timeout=SOON_S)
        if isinstance(item, Exception):
            raise item
        image, stamp_s = item
        self.clock.now_s = stamp_s
        return image

    def close(self):
        self.num_closed += 1


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def device():
    return FakeDevice(Clock())


@pytest.fixture
def camera(device):
    camera = ThreadedCamera(CameraSettings(**SETTINGS), device, device.clock)
    with camera:
        yield camera
        device.script.put(EndOfStreamError("the test is over"))


def test_the_newest_frame_has_a_stamp_and_a_number(camera, device) -> None:
    assert isinstance(camera, Camera)
    for index in range(3):
        device.script.put((image_of(index), 10.0 + index))
    frame = camera.wait(SOON_S, sequence=2)
    assert (frame.camera, frame.sequence, frame.stamp_s) == ("hand", 2, 12.0)
    assert np.array_equal(frame.image, image_of(2))
    with pytest.raises(ValueError, match="read-only"):
        frame.image[0] = 0
    assert camera.read(max_age_s=0.1) is frame
    device.clock.now_s = 12.5
    assert camera.age_s() == 0.5


def test_an_old_frame_is_an_error_that_names_the_cause(camera, device) -> None:
    assert camera.age_s() == float("inf")
    with pytest.raises(StaleFrameError, match="no frame has arrived yet"):
        camera.read(max_age_s=1.0)
    device.script.put((image_of(1), 10.0))
    camera.wait(SOON_S)
    device.clock.now_s = 10.4
    with pytest.raises(StaleFrameError, match=r"'hand' is stale, 0\.400 s old \(at most 0\.3 s\)"):
        camera.read(max_age_s=0.3)
    device.plugged = False
    device.script.put(SourceError("/dev/fake gives no frame any more"))
    for _ in range(2):  # the first is reported with the time of the second
        assert device.refused.acquire(timeout=SOON_S)
    with pytest.raises(StaleFrameError, match="dev/fake is not there"):
        camera.read(max_age_s=0.3)
    with pytest.raises(StaleFrameError):
        camera.read(max_age_s=float("nan"))


def test_images_that_stay_the_same_are_frozen(camera, device) -> None:
    for index in range(7):
        device.script.put((image_of(5), 10.0 + 0.1 * index))
    camera.wait(SOON_S, sequence=6)
    with pytest.raises(FrozenFrameError, match=r"bit-identical for 0\.600 s"):
        camera.read(max_age_s=0.1)
    assert camera.age_s() == pytest.approx(0.6)
    device.script.put((image_of(6), 10.7))
    camera.wait(SOON_S, sequence=7)
    assert camera.read(max_age_s=0.1).sequence == 7


def test_a_simulated_camera_may_see_nothing_move(device) -> None:
    settings = CameraSettings(**{**SETTINGS, "frozen_after_s": None})
    with ThreadedCamera(settings, device, device.clock) as camera:
        for index in range(20):
            device.script.put((image_of(5), 10.0 + index))
        camera.wait(SOON_S, sequence=19)
        assert camera.read(max_age_s=0.1).sequence == 19
        assert camera.age_s() == 0.0
        device.script.put(EndOfStreamError("over"))


@pytest.mark.parametrize("error", [SourceError("unplugged"), RuntimeError("driver"), OSError(19)])
def test_a_camera_that_is_plugged_in_again_goes_on(camera, device, error) -> None:
    device.script.put((image_of(1), 10.0))
    camera.wait(SOON_S)
    device.plugged = False
    device.script.put(error)
    for _ in range(4):  # it tries, and tries again
        assert device.refused.acquire(timeout=SOON_S)
    device.plugged = True
    device.script.put((image_of(2), 20.0))
    frame = camera.wait(SOON_S, sequence=1)
    assert frame.stamp_s == 20.0
    assert camera.read(max_age_s=0.1).sequence == 1
    assert device.num_opened == 2
    assert device.num_closed >= 4


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8), r"\(24, 64, 3\), expected uint8 \(24, 32, 3"),
        (np.zeros((HEIGHT, WIDTH, 3), np.float32), "float32"),
        (np.zeros((HEIGHT, WIDTH), np.uint8), r"\(24, 32\)"),
        (None, "None"),
    ],
)
def test_a_wrong_resolution_is_named_and_not_tried_again(camera, device, image, word) -> None:
    device.script.put((image, 10.0))
    with pytest.raises(WrongFrameError, match=word):
        camera.wait(SOON_S)
    with pytest.raises(WrongFrameError, match="capture_height"):
        camera.read(max_age_s=1.0)
    assert camera.num_attempts == 1


def test_what_is_cut_and_scaled() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = [100, 150, 200]
    assert fit(image, 2, 2).tolist() == [[[100, 150, 200]] * 2] * 2
    assert fit(image, 4, 8) is image
    with pytest.raises(ValueError, match="exceeds the capture size"):
        CameraSettings(**{**SETTINGS, "height": 2 * HEIGHT})


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Write six frames: red on the left, blue on the right, brighter and brighter."""
    path = tmp_path_factory.mktemp("video") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for index in range(6):
        image = image_of(0)
        image[:, :16, 2] = image[:, 16:, 0] = 100 + 25 * index  # OpenCV writes BGR
        writer.write(image)
    writer.release()
    return path


def file_source(path, **changes):
    return sources.OpenCvSource(
        sources.FileConfig(**{"path": path, "rate_hz": 500.0, "loop": False, **changes})
    )


def test_a_file_is_played_in_red_green_blue_to_its_end(video) -> None:
    with ThreadedCamera(CameraSettings(**SETTINGS), file_source(video)) as camera:
        frame = camera.wait(SOON_S, sequence=5)
        left, right = frame.image[12, 8], frame.image[12, 24]
        assert left[0] > 200 > 60 > left[2]  # red
        assert right[2] > 200 > 60 > right[0]  # blue
        with pytest.raises(EndOfStreamError, match=r"film\.avi has ended"):
            camera.wait(SOON_S, sequence=6)
    again = ThreadedCamera(CameraSettings(**SETTINGS), file_source(video, loop=True))
    with again:
        assert again.wait(SOON_S, sequence=14).sequence >= 14


def test_a_file_has_a_speed_of_its_own(video) -> None:
    source = file_source(video, rate_hz=None)
    source.open()
    assert source._period_s == pytest.approx(0.1)
    source.close()
    with pytest.raises(SourceError, match="is not open"):
        source.read()


def test_what_is_not_there_is_said(tmp_path) -> None:
    missing = sources.UvcConfig(
        device=tmp_path / "video9", height=24, width=32, rate_hz=30.0, pixel_format="MJPG"
    )
    with pytest.raises(
        SourceError, match=r"video9 does not exist; (existing devices|no video device)"
    ):
        sources.OpenCvSource(missing).open()
    with pytest.raises(SourceError, match="film does not exist"):
        file_source(tmp_path / "film").open()
    (tmp_path / "text.avi").write_text("no film")
    with pytest.raises(SourceError, match=r"text\.avi cannot be opened: is it a video"):
        file_source(tmp_path / "text.avi").open()
    secret = sources.RtspConfig(url="rtsp://me:secret@127.0.0.1:9/live", timeout_s=0.2)
    with pytest.raises(SourceError, match=r"rtsp://\.\.\.@127\.0\.0\.1:9/live cannot") as refused:
        sources.OpenCvSource(secret).open()
    assert "secret" not in str(refused.value)
    for password in ("p@ss", "a/b", "@//@"):
        url = f"rtsp://me:{password}@10.0.0.5/live"
        assert sources.hidden_password(url) == "rtsp://...@10.0.0.5/live"
    with pytest.raises(ValueError, match="four letters"):
        sources.UvcConfig(device=tmp_path, height=1, width=1, rate_hz=1.0, pixel_format="MP4")


def test_a_function_is_a_camera() -> None:
    numbers = iter(range(200))
    source = sources.CallableSource(lambda: image_of(next(numbers)), rate_hz=1000.0)
    with ThreadedCamera(CameraSettings(**SETTINGS), source) as camera:
        frame = camera.wait(SOON_S, sequence=3)
    assert frame.image[0, 0, 0] == frame.sequence
    with pytest.raises(ValueError, match="rate_hz"):
        sources.CallableSource(lambda: image_of(0), rate_hz=0.0)


def test_what_a_function_writes_into_later_does_not_change_a_frame() -> None:
    buffer, settings = image_of(0), CameraSettings(**{**SETTINGS, "frozen_after_s": 1e6})

    def draw():
        buffer[:] += 1
        return buffer

    with ThreadedCamera(settings, sources.CallableSource(draw, rate_hz=1000.0)) as camera:
        first = camera.wait(SOON_S)
        value = int(first.image[0, 0, 0])
        camera.wait(SOON_S, sequence=first.sequence + 3)
        assert (first.image == value).all()
        assert camera.age_s() < SOON_S  # each image differs, although the buffer is the same


def test_closing_twice_and_reading_afterwards(device) -> None:
    camera = ThreadedCamera(CameraSettings(**SETTINGS), device, device.clock)
    with pytest.raises(CameraError, match="call open"):
        camera.read(max_age_s=1.0)
    camera.close()
    camera.open()
    camera.open()  # one thread is enough
    device.script.put(EndOfStreamError("over"))
    with pytest.raises(EndOfStreamError, match="'hand': over"):
        camera.wait(SOON_S)
    camera.close()
    camera.close()
    assert device.num_opened == device.num_closed == 1


CONFIG = {
    "serial": None,
    "recording": None,
    "height": 24,
    "width": 32,
    "rate_hz": 30,
    "timeout_s": 0.5,
}


@pytest.mark.skipif(
    importlib.util.find_spec("pyrealsense2") is not None, reason="the library is there"
)
def test_a_library_that_is_missing_says_what_to_install() -> None:
    source = realsense.RealSenseSource(realsense.RealSenseConfig(**CONFIG))
    with pytest.raises(ImportError, match=r"realsense\].*libusb"):
        source.open()


def test_a_realsense_is_a_camera_or_a_recording() -> None:
    with pytest.raises(ValueError, match="one of them"):
        realsense.RealSenseConfig(**{**CONFIG, "serial": "1", "recording": Path("x.db3")})
