"""The camera protocol, the frame that a camera returns, and the errors of cameras."""

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from toto_robot.moved import moved_names

Image = NDArray[np.uint8]


class CameraError(RuntimeError):
    """An error that names why a camera cannot return a frame."""


class StaleFrameError(CameraError):
    """The newest frame is too old, or no frame has arrived yet."""


class FrozenFrameError(CameraError):
    """Frames arrive but have been bit-identical for too long; a real sensor has noise."""


class WrongFrameError(CameraError):
    """The frames' size or data type differs from the settings; a retry cannot help."""


class SourceError(CameraError):
    """The source is missing or delivers no frame; a retry may help."""


class EndOfStreamError(CameraError):
    """The recording has ended."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """One camera image with its time.

    Attributes:
        camera: the camera's name.
        image: [h w 3] RGB, read-only.
        stamp_s: `time.monotonic()` when the frame arrived.
        sequence: number of the frame, from 0; a gap means that frames were not read.
    """

    camera: str
    image: Image
    stamp_s: float
    sequence: int


@runtime_checkable
class Camera(Protocol):
    """A source of newest frames; a context manager that opens and closes the camera."""

    @property
    def name(self) -> str:
        """The camera's name, as in `Interface.cameras`."""
        ...

    def open(self) -> None:
        """Start capturing, without waiting for a frame."""
        ...

    def wait(self, timeout_s: float, *, sequence: int = 0) -> Frame:
        """Wait for a frame with this sequence number or a later one, and return it.

        Raises:
            CameraError: no such frame arrived in time; the message names the cause.
        """
        ...

    def read(self, max_age_s: float) -> Frame:
        """Return the newest frame without waiting.

        Raises:
            StaleFrameError: the frame is older than `max_age_s`, or there is none.
            FrozenFrameError: the image has not changed for too long.
            CameraError: the source cannot deliver frames; the message names the cause.
        """
        ...

    def age_s(self) -> float:
        """Return the time since the last new image, s; infinite before the first frame.

        The age grows while the camera is frozen or lost. The safety layer reads it.
        """
        ...

    def close(self) -> None:
        """Stop capturing and free the device; repeated calls are allowed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


__getattr__ = moved_names(
    __name__,
    {
        "fit": "real_robot.cameras.fit:fit",
        "middle": "real_robot.cameras.fit:middle",
        "CameraSettings": "real_robot.cameras.threaded:CameraSettings",
        "Source": "real_robot.cameras.threaded:Source",
        "ThreadedCamera": "real_robot.cameras.threaded:ThreadedCamera",
    },
)
