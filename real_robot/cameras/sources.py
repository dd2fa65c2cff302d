"""Sources of camera frames: USB cameras, network cameras, video files, and Python functions.

USB cameras, network cameras and video files are read with OpenCV.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .camera import EndOfStreamError, Image, SourceError
from .opencv import opencv


@dataclass(frozen=True, kw_only=True, slots=True)
class UvcConfig:
    """Settings of a USB camera (Video4Linux).

    Attributes:
        device: path of the device file. A path `/dev/v4l/by-id/...` does not change when other
            cameras are connected.
        height: requested image height, pixels.
        width: requested image width, pixels.
        rate_hz: requested number of frames per second.
        pixel_format: requested pixel format, as a code of four letters. Many cameras reach their
            full frame rate only with MJPG.
    """

    kind: ClassVar[str] = "uvc"
    device: Path
    height: int
    width: int
    rate_hz: float
    pixel_format: str

    def __post_init__(self) -> None:
        if len(self.pixel_format) != 4:
            raise ValueError(f"pixel_format must have four letters, got {self.pixel_format!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RtspConfig:
    """Settings of a network camera.

    Attributes:
        url: address of the camera, `rtsp://...`. If it contains a password, error messages hide it.
        timeout_s: longest time to wait for the connection, and for each frame, s.
    """

    kind: ClassVar[str] = "rtsp"
    url: str
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FileConfig:
    """Settings of a video file that is played in real time.

    Attributes:
        path: path of the video, in any format that FFmpeg reads.
        rate_hz: frames per second; null uses the frame rate of the file.
        loop: True to play the file again when it ends; False to raise EndOfStreamError.
    """

    kind: ClassVar[str] = "file"
    path: Path
    rate_hz: float | None
    loop: bool


class OpenCvSource:
    """Source of RGB frames, which reads a camera or a video file with OpenCV."""

    def __init__(self, config: UvcConfig | RtspConfig | FileConfig) -> None:
        self._config = config
        self._capture: Any = None
        self._period_s = 0.0
        self._due_s = 0.0

    def open(self) -> None:
        """Open the device, the connection or the file."""
        cv2 = opencv("cameras")
        config = self._config
        if isinstance(config, UvcConfig):
            if not config.device.exists():
                raise SourceError(f"{config.device} does not exist; {_devices()}")
            self._capture = cv2.VideoCapture(str(config.device), cv2.CAP_V4L2)
            letters = cv2.VideoWriter_fourcc(*config.pixel_format)
            for name, value in (
                (cv2.CAP_PROP_FOURCC, letters),
                (cv2.CAP_PROP_FRAME_WIDTH, config.width),
                (cv2.CAP_PROP_FRAME_HEIGHT, config.height),
                (cv2.CAP_PROP_FPS, config.rate_hz),
                (cv2.CAP_PROP_BUFFERSIZE, 1),  # a read returns the newest frame, not the oldest
            ):
                self._capture.set(name, value)
            advice = "does another program use it? Is this user in the group video?"
        elif isinstance(config, RtspConfig):
            timeout_ms = round(1000 * config.timeout_s)
            self._capture = cv2.VideoCapture(
                config.url,
                cv2.CAP_FFMPEG,
                [
                    cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                    timeout_ms,
                    cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                    timeout_ms,
                ],
            )
            advice = f"no answer within {config.timeout_s} s; check address, network and password"
        else:
            if not config.path.is_file():
                raise SourceError(f"{config.path} does not exist")
            self._capture = cv2.VideoCapture(str(config.path), cv2.CAP_FFMPEG)
            advice = "is it a video?"
        if not self._capture.isOpened():
            raise SourceError(f"{self._name()} cannot be opened: {advice}")
        if isinstance(config, FileConfig):
            rate_hz = config.rate_hz or self._capture.get(cv2.CAP_PROP_FPS)
            self._period_s = 1 / rate_hz if rate_hz > 0 else 0.0
            self._due_s = time.monotonic()

    def read(self) -> Image:
        """Wait for the next frame, and return it."""
        cv2 = opencv("cameras")
        if self._capture is None:
            raise SourceError(f"{self._name()} is not open")
        config = self._config
        if isinstance(config, FileConfig):
            self._due_s += self._period_s
            time.sleep(max(0.0, self._due_s - time.monotonic()))
        valid, image = self._capture.read()
        if not valid and isinstance(config, FileConfig):
            if not config.loop:
                raise EndOfStreamError(f"{config.path} has ended")
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            valid, image = self._capture.read()
        if not valid:
            raise SourceError(f"{self._name()} delivers no more frames: is it still connected?")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def close(self) -> None:
        """Release the device, the connection or the file."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _name(self) -> str:
        config = self._config
        if isinstance(config, RtspConfig):
            return hidden_password(config.url)
        return str(config.device if isinstance(config, UvcConfig) else config.path)


def hidden_password(url: str) -> str:
    """Return an address without its user name and password; both may contain any character."""
    return re.sub(r"//.*@", "//...@", url)


class CallableSource:
    """Source of frames that calls a Python function for each frame, at a fixed rate."""

    def __init__(self, function: Callable[[], Image], rate_hz: float) -> None:
        if not rate_hz > 0:
            raise ValueError(f"rate_hz must be positive, got {rate_hz}")
        self._function = function
        self._period_s = 1 / rate_hz
        self._due_s = 0.0

    def open(self) -> None:
        """Start the clock of the frames: the first frame is due now."""
        self._due_s = time.monotonic()

    def read(self) -> Image:
        """Wait until the next frame is due, and return it; frames that were missed are skipped."""
        wait_s = self._due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        self._due_s = max(self._due_s, time.monotonic() - self._period_s) + self._period_s
        return self._function()

    def close(self) -> None:
        """Do nothing, because a function has no device to release."""


def _devices() -> str:
    found = sorted([*Path("/dev/v4l/by-id").glob("*"), *Path("/dev").glob("video*")])
    if not found:
        return "no video device is connected"
    return f"existing devices: {', '.join(str(path) for path in found)}"
