"""A camera in a thread of its own: the newest frame with its time, or an error that says why."""

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from toto_robot.moved import moved_names

Image = NDArray[np.uint8]


class CameraError(RuntimeError):
    """Return why a camera has no frame to give."""


class StaleFrameError(CameraError):
    """The newest frame is too old, or there is none yet."""


class FrozenFrameError(CameraError):
    """Frames come, and are the same to the bit for longer than a real sensor's noise allows."""


class WrongFrameError(CameraError):
    """A source gives frames of another size or kind than was said; trying again will not help."""


class SourceError(CameraError):
    """A source is not there or gives nothing; it is worth trying again."""


class EndOfStreamError(CameraError):
    """A recording is at its end."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """One picture.

    Attributes:
        camera: the camera's name.
        image: [h w 3] RGB, read-only.
        stamp_s: `time.monotonic()` when it came.
        sequence: 0 for the camera's first frame, one more for each; gaps are frames not read.
    """

    camera: str
    image: Image
    stamp_s: float
    sequence: int


@runtime_checkable
class Camera(Protocol):
    """Return the newest frame. As a context manager it opens and closes."""

    @property
    def name(self) -> str:
        """The camera's name, as in `Interface.cameras`."""
        ...

    def open(self) -> None:
        """Start looking; does not wait for a frame."""
        ...

    def wait(self, timeout_s: float, *, sequence: int = 0) -> Frame:
        """Wait until a frame of this sequence number or a later one has come, and give it.

        Raises:
            CameraError: none did in this time; with the cause.
        """
        ...

    def read(self, max_age_s: float) -> Frame:
        """Return the newest frame without waiting.

        Raises:
            StaleFrameError: it is older than this, or there is none; with the cause.
            FrozenFrameError: the picture has not changed for too long.
            CameraError: the source can give none; with the cause.
        """
        ...

    def age_s(self) -> float:
        """Return the time since the camera last saw something new; infinite before the first frame.

        It grows while a camera is frozen or gone: what the safety layer wants to know.
        """
        ...

    def close(self) -> None:
        """Stop looking and free the device; more than once is fine."""
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
