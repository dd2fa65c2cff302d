"""Read the colour frames of a RealSense camera, or of a file that was recorded with one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .camera import EndOfStreamError, Image, SourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class RealSenseConfig:
    """Settings of a RealSense camera.

    Attributes:
        serial: serial number, which is printed on the camera; null if only one camera is connected,
            or for a recording.
        recording: path of a recording (`.bag` or `.db3`) that is played instead of a camera; null
            for a camera.
        height: image height, pixels. The camera must support the combination of height, width and
            rate. They are ignored for a recording.
        width: image width, pixels.
        rate_hz: frames per second.
        timeout_s: longest time to wait for a frame, s.
    """

    kind: ClassVar[str] = "realsense"
    serial: str | None
    recording: Path | None
    height: int
    width: int
    rate_hz: int
    timeout_s: float

    def __post_init__(self) -> None:
        if self.serial is not None and self.recording is not None:
            raise ValueError("serial selects a camera and recording a file: set only one of them")


class RealSenseSource:
    """Source of colour frames, which reads a RealSense camera with the library pyrealsense2."""

    def __init__(self, config: RealSenseConfig) -> None:
        self._config = config
        self._pipeline: Any = None

    def open(self) -> None:
        """Start the camera or the recording."""
        rs = _library()
        config, settings = self._config, rs.config()
        if config.recording is not None:
            if not config.recording.is_file():
                raise SourceError(f"{config.recording} does not exist")
            settings.enable_device_from_file(str(config.recording), False)
        else:
            serials = [
                device.get_info(rs.camera_info.serial_number)
                for device in rs.context().query_devices()
            ]
            if config.serial is not None and config.serial not in serials:
                raise SourceError(
                    f"no RealSense camera {config.serial!r}; connected: "
                    f"{', '.join(serials) or 'none'}"
                )
            if config.serial is None and len(serials) != 1:
                raise SourceError(
                    f"{len(serials)} RealSense cameras are connected; set serial to one of: "
                    f"{', '.join(serials) or 'none'}"
                )
            settings.enable_device(config.serial or serials[0])
            settings.enable_stream(
                rs.stream.color, config.width, config.height, rs.format.rgb8, config.rate_hz
            )
        pipeline = rs.pipeline()
        try:
            pipeline.start(settings)
        except RuntimeError as error:
            raise SourceError(
                f"{self._name()} cannot start at {config.width} x {config.height}, "
                f"{config.rate_hz} Hz, rgb8: {error}"
            ) from error
        self._pipeline = pipeline

    def read(self) -> Image:
        """Wait for the next frame, and return its image."""
        rs = _library()
        if self._pipeline is None:
            raise SourceError(f"{self._name()} is not open")
        try:
            frames = self._pipeline.wait_for_frames(round(1000 * self._config.timeout_s))
        except RuntimeError as error:
            if self._config.recording is not None:
                raise EndOfStreamError(f"{self._config.recording} has ended") from error
            raise SourceError(f"{self._name()} delivers no frame: {error}") from error
        color = frames.get_color_frame()
        if not color:
            raise SourceError(f"{self._name()} delivers frames without colour")
        layout = color.get_profile().format()
        image = np.asanyarray(color.get_data())
        if layout == rs.format.bgr8:
            image = image[..., ::-1]
        elif layout != rs.format.rgb8:
            raise SourceError(f"{self._name()} delivers {layout}, expected rgb8 or bgr8")
        # A copy, since the library reuses the frame's memory.
        return np.array(image, dtype=np.uint8)

    def close(self) -> None:
        """Stop the camera or the recording."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.stop()

    def _name(self) -> str:
        if self._config.recording is not None:
            return str(self._config.recording)
        return f"the RealSense camera {self._config.serial or ''}".rstrip()


def _library() -> Any:
    try:
        import pyrealsense2
    except ImportError as error:
        raise ImportError(
            "RealSense cameras need pip install 'toto-robot[realsense]' and the system library "
            f"libusb-1.0 (Debian: apt install libusb-1.0-0): {error}"
        ) from error
    return pyrealsense2
