"""Settings of a camera, and the function `build_camera` that builds a camera from them."""

from dataclasses import dataclass

from .realsense import RealSenseConfig, RealSenseSource
from .sources import FileConfig, OpenCvSource, RtspConfig, UvcConfig
from .threaded import CameraSettings, Source, ThreadedCamera

SourceConfig = UvcConfig | RtspConfig | FileConfig | RealSenseConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraConfig:
    """Settings of one camera.

    Attributes:
        settings: sizes of the images, and times after which a camera counts as frozen or lost.
        source: settings of the device, network address or file from which frames are read.
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
    """Return a camera with these settings; it is not open yet."""
    return ThreadedCamera(config.settings, build_source(config.source))


def build_source(config: SourceConfig) -> Source:
    """Return the source (USB, network, file or RealSense) that these settings describe."""
    if isinstance(config, RealSenseConfig):
        return RealSenseSource(config)
    return OpenCvSource(config)
