"""The protocol `Camera`, the class `Frame` that a camera returns, and the errors of cameras."""

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from toto_robot.moved import moved_names

Image = NDArray[np.uint8]


class CameraError(RuntimeError):
    """Error: a camera cannot return a frame; the message has the cause."""


class StaleFrameError(CameraError):
    """Error: the newest frame is too old, or no frame has arrived yet."""


class FrozenFrameError(CameraError):
    """Error: frames arrive, but have been bit-identical for too long.

    The noise of a real sensor makes each frame different, so identical frames mean a fault.
    """


class WrongFrameError(CameraError):
    """Error: the size or data type of the frames differs from the settings; a retry cannot help."""


class SourceError(CameraError):
    """Error: the source of the frames is missing or delivers no frame; a retry may help."""


class EndOfStreamError(CameraError):
    """Error: the video file or recording from which frames are read has ended."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """One camera image, with the time when it arrived.

    Attributes:
        camera: name of the camera.
        image: image [h w 3], uint8 RGB (height, width, colour); the array is read-only.
        stamp_s: time when the frame arrived, s of `time.monotonic()`.
        sequence: number of the frame, from 0. If the numbers of two frames that were read are not
            consecutive, the frames between them were not read.
    """

    camera: str
    image: Image
    stamp_s: float
    sequence: int


@runtime_checkable
class Camera(Protocol):
    """Camera that captures in the background and returns its newest frame.

    As a context manager, it is opened at the start and closed at the end.
    """

    @property
    def name(self) -> str:
        """The name of the camera, as in `Interface.cameras`."""
        ...

    def open(self) -> None:
        """Start to capture frames, without waiting for the first one."""
        ...

    def wait(self, timeout_s: float, *, sequence: int = 0) -> Frame:
        """Wait for a frame with this sequence number or a later one, and return it.

        Raises:
            CameraError: no such frame arrived in time; the message has the cause.
        """
        ...

    def read(self, max_age_s: float) -> Frame:
        """Return the newest frame without waiting.

        Raises:
            StaleFrameError: the frame is older than `max_age_s`, or there is none.
            FrozenFrameError: the image has not changed for too long.
            CameraError: the source cannot deliver frames; the message has the cause.
        """
        ...

    def age_s(self) -> float:
        """Return the time since the last new image, s; infinite before the first frame.

        The age also grows while the camera is frozen or disconnected. It is an input of the safety
        layer.
        """
        ...

    def close(self) -> None:
        """Stop capturing and release the device; repeated calls are allowed."""
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
