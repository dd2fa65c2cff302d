"""Camera with a capture thread, which opens a lost device again."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from .camera import (
    CameraError,
    EndOfStreamError,
    Frame,
    FrozenFrameError,
    Image,
    StaleFrameError,
    WrongFrameError,
)
from .fit import fit


class Source(Protocol):
    """Device, network address or file from which frames are read.

    Only the capture thread of the camera calls it.
    """

    def open(self) -> None:
        """Open the device.

        Raises:
            SourceError: the device does not exist; the message names it and the existing devices.
        """
        ...

    def read(self) -> Image:
        """Wait for the next frame [h w 3], uint8 RGB, and return it.

        The method must return or raise within about two seconds.

        Raises:
            SourceError: no frame arrived, because the device or its network is disconnected.
            EndOfStreamError: the video file or recording has ended.
        """
        ...

    def close(self) -> None:
        """Release the device; the call is also allowed if the device is not open."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraSettings:
    """Settings of a camera's images, and of the handling of its faults.

    Attributes:
        name: name of the camera, as in `Interface.cameras`.
        capture_height: height of the frames that the device delivers, pixels.
        capture_width: width of the frames that the device delivers, pixels.
        height: height of the images that a policy receives, pixels. They are the centre of the
            delivered frames, scaled down.
        width: width of the images that a policy receives, pixels.
        frozen_after_s: frames may be bit-identical for this time, s; after it the camera counts as
            frozen, which is an error. null switches the check off, for sources without noise such
            as a simulation.
        first_retry_s: waiting time before a lost device is opened again, s; it doubles after each
            failed attempt, up to `max_retry_s`.
        max_retry_s: longest waiting time between two attempts, s.
    """

    name: str
    capture_height: int
    capture_width: int
    height: int
    width: int
    frozen_after_s: float | None
    first_retry_s: float
    max_retry_s: float

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a camera needs a name")
        for field in ("capture_height", "capture_width", "height", "width"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        if self.height > self.capture_height or self.width > self.capture_width:
            raise ValueError(
                f"camera {self.name!r}: the image size {self.height} x {self.width} exceeds the "
                f"capture size {self.capture_height} x {self.capture_width}"
            )
        if self.frozen_after_s is not None and not self.frozen_after_s > 0:
            raise ValueError(f"frozen_after_s must be positive or None, got {self.frozen_after_s}")
        if not 0 < self.first_retry_s <= self.max_retry_s:
            raise ValueError(
                f"needs 0 < first_retry_s <= max_retry_s, got {self.first_retry_s} and "
                f"{self.max_retry_s}"
            )


class ThreadedCamera:
    """Camera with a thread that stores the newest frame, and opens a lost device again."""

    def __init__(
        self,
        settings: CameraSettings,
        source: Source,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._source = source
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        # The thread writes the fields below while it holds `_changed`.
        self._frame: Frame | None = None
        self._last_capture: Image | None = None
        self._changed_s = 0.0
        self._problem = "it is not open: call open()"
        self._final: CameraError | None = None
        self._num_attempts = 0

    @property
    def name(self) -> str:
        """The name of the camera, as in `Interface.cameras`."""
        return self._settings.name

    @property
    def num_attempts(self) -> int:
        """The number of times that the thread has tried to open the device."""
        return self._num_attempts

    def open(self) -> None:
        """Start the capture thread, without waiting for a frame."""
        if self._thread is not None:
            return
        self._stopping.clear()
        self._frame, self._last_capture, self._final = None, None, None
        self._problem = "no frame has arrived yet"
        self._thread = threading.Thread(target=self._run, name=f"camera {self.name}", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float, *, sequence: int = 0) -> Frame:
        """Wait for a frame with this sequence number or a later one, and return it."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._final is not None or self._has(sequence), timeout=timeout_s
            )
            if self._frame is not None and self._has(sequence):
                return self._frame
            if self._final is not None:
                raise self._final
            raise StaleFrameError(
                f"camera {self.name!r}: no frame {sequence} within {timeout_s} s: {self._problem}"
            )

    def read(self, max_age_s: float) -> Frame:
        """Return the newest frame; raise an error if it is older than `max_age_s` or frozen."""
        with self._changed:
            frame, changed_s, problem, final = (
                self._frame,
                self._changed_s,
                self._problem,
                self._final,
            )
        now_s = self._clock()
        if frame is None or not now_s - frame.stamp_s <= max_age_s:
            if final is not None:
                raise final
            age = "there is no frame" if frame is None else f"{now_s - frame.stamp_s:.3f} s old"
            raise StaleFrameError(
                f"camera {self.name!r} is stale, {age} (at most {max_age_s} s): {problem}"
            )
        limit_s = self._settings.frozen_after_s
        if limit_s is not None and frame.stamp_s - changed_s > limit_s:
            raise FrozenFrameError(
                f"camera {self.name!r} is frozen: its frames have been bit-identical for "
                f"{frame.stamp_s - changed_s:.3f} s (at most {limit_s} s)"
            )
        return frame

    def age_s(self) -> float:
        """Return the time since the last new image, s; it is infinite before the first frame.

        If `frozen_after_s` is None, a frame with an identical image also counts as new.
        """
        with self._changed:
            if self._frame is None:
                return float("inf")
            checks_frozen = self._settings.frozen_after_s is not None
            return self._clock() - (self._changed_s if checks_frozen else self._frame.stamp_s)

    def close(self) -> None:
        """Stop the capture thread and release the device."""
        self._stopping.set()
        if self._thread is not None:
            # A device's driver may hang in a read; the daemon thread then releases it later.
            self._thread.join(timeout=5.0)
            self._thread = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _has(self, sequence: int) -> bool:
        return self._frame is not None and self._frame.sequence >= sequence

    def _run(self) -> None:
        retry_s = self._settings.first_retry_s
        while not self._stopping.is_set() and self._final is None:
            num_before = self._num_frames()
            try:
                self._num_attempts += 1
                self._source.open()
                while not self._stopping.is_set():
                    self._accept(self._source.read())
            except (WrongFrameError, EndOfStreamError) as error:
                self._report(str(error), final=error)
            # A camera's library may raise any error; it is reported and the source opened again.
            except Exception as error:
                self._report(f"{type(error).__name__}: {error}")
            try:
                self._source.close()
            except Exception as error:
                self._report(f"{type(error).__name__} in closing: {error}")
            if self._num_frames() > num_before:
                retry_s = self._settings.first_retry_s
            if self._final is None:
                self._stopping.wait(retry_s)
            retry_s = min(2 * retry_s, self._settings.max_retry_s)

    def _num_frames(self) -> int:
        return 0 if self._frame is None else self._frame.sequence + 1

    def _accept(self, image: Image) -> None:
        stamp_s = self._clock()
        settings = self._settings
        expected = (settings.capture_height, settings.capture_width, 3)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != expected:
            got: Any = image
            if isinstance(image, np.ndarray):
                got = f"{image.dtype} {image.shape}"
            raise WrongFrameError(
                f"camera {self.name!r} delivers {got}, expected uint8 {expected}: change "
                "capture_height and capture_width, or the size that the device delivers"
            )
        changed = self._last_capture is None or not np.array_equal(image, self._last_capture)
        fitted = fit(image, settings.height, settings.width).copy()
        fitted.flags.writeable = False
        with self._changed:
            if changed:
                self._last_capture, self._changed_s = image.copy(), stamp_s
            self._frame = Frame(
                camera=self.name, image=fitted, stamp_s=stamp_s, sequence=self._num_frames()
            )
            self._problem = "no newer frame has arrived"
            self._changed.notify_all()

    def _report(self, problem: str, final: CameraError | None = None) -> None:
        with self._changed:
            self._problem = problem
            if final is not None:
                self._final = type(final)(f"camera {self.name!r}: {final}")
            self._changed.notify_all()
