"""What the robot's process and the cameras' share: positions, and how each camera does."""

import mmap
import time
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

CameraMode = Literal["live", "frozen", "stalled", "unplugged"]
CAMERA_MODES: tuple[CameraMode, ...] = get_args(CameraMode)

_MOST = 256  # numbers of each kind: far more than a scene has


class Shared:
    """A piece of memory that a process shares with those that it forks.

    Positions have one writer. It counts up before and after it writes, so a reader knows when it
    read half of each.
    """

    def __init__(self, num_cameras: int) -> None:
        size = 2 + 2 * _MOST + 2 * num_cameras + 1
        # anonymous: it is gone with the last of its processes, whatever ends them
        self._numbers = np.frombuffer(mmap.mmap(-1, 8 * size), dtype=np.float64)
        self._count, self._sizes = self._numbers[0:1], self._numbers[1:2]
        self._positions = self._numbers[2 : 2 + _MOST]
        self._velocities = self._numbers[2 + _MOST : 2 + 2 * _MOST]
        rest = self._numbers[2 + 2 * _MOST :]
        self._modes, self._rates = rest[:num_cameras], rest[num_cameras : 2 * num_cameras]
        self._ready = rest[-1:]

    def write(self, positions: NDArray[np.float64], velocities: NDArray[np.float64]) -> None:
        """Publish positions [q] and velocities [v]."""
        self._count[0] += 1
        self._positions[: len(positions)] = positions
        self._velocities[: len(velocities)] = velocities
        self._count[0] += 1

    def read(self, num_positions: int) -> NDArray[np.float64]:
        """Return the newest positions [q], all of one step."""
        while True:
            before = self._count[0]
            positions = self._positions[:num_positions].copy()
            if before == self._count[0] and before % 2 == 0:
                return positions
            time.sleep(0)

    def mode(self, camera: int) -> CameraMode:
        """Say how a camera is to behave."""
        return CAMERA_MODES[int(self._modes[camera])]

    def set_mode(self, camera: int, mode: CameraMode) -> None:
        """Say how a camera is to behave."""
        self._modes[camera] = CAMERA_MODES.index(mode)

    def rate_hz(self, camera: int) -> float:
        """Return how many pictures a second a camera gave lately; 0 if nobody looks."""
        return float(self._rates[camera])

    def set_rate(self, camera: int, rate_hz: float) -> None:
        """Tell how many pictures a second a camera gives."""
        self._rates[camera] = rate_hz

    @property
    def cameras_ready(self) -> bool:
        """Return whether the cameras can be connected to."""
        return bool(self._ready[0])

    def tell_ready(self) -> None:
        """Tell that the cameras can be connected to."""
        self._ready[0] = 1.0
