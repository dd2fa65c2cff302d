"""The settings of a camera, and `build_camera(config)`."""

from dataclasses import dataclass

from .realsense import RealSenseConfig, RealSenseSource
from .sources import FileConfig, OpenCvSource, RtspConfig, UvcConfig
from .threaded import CameraSettings, Source, ThreadedCamera

SourceConfig = UvcConfig | RtspConfig | FileConfig | RealSenseConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraConfig:
    """Settings of one camera.

    Attributes:
        settings: image sizes, and when a camera counts as frozen or lost.
        source: the device, stream or file that frames are read from.
    """

    settings: CameraSettings
    source: SourceConfig

    def __post_init__(self) -> None:
        source, settings = self.source, self.settings
        if not isinstance(source, (UvcConfig, RealSenseConfig)):
            return
        requested = (source.height, source.width)
        expected = (settings.capture_height, settings.capture_width)
        if requested != expected:
            raise ValueError(
                f"camera {settings.name!r}: the source is set to {requested[0]} x {requested[1]}, "
                f"but capture_height x capture_width is {expected[0]} x {expected[1]}"
            )


def build_camera(config: CameraConfig) -> ThreadedCamera:
    """Return the camera; it is not open yet."""
    return ThreadedCamera(config.settings, build_source(config.source))


def build_source(config: SourceConfig) -> Source:
    """Return the source of a camera's frames."""
    if isinstance(config, RealSenseConfig):
        return RealSenseSource(config)
    return OpenCvSource(config)
