"""Memory that the twin's two processes share: positions, camera modes and frame rates."""

import mmap
import time
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

CameraMode = Literal["live", "frozen", "stalled", "unplugged"]
CAMERA_MODES: tuple[CameraMode, ...] = get_args(CameraMode)

_CAPACITY = 256  # greatest number of positions, and of velocities; a scene has far fewer


class Shared:
    """Block of memory that a process shares with the child processes that it forks.

    Only one process writes positions. It increments a counter before and after each write. A reader
    can therefore detect that a write happened while it was reading, and reads again.
    """

    def __init__(self, num_cameras: int) -> None:
        size = 2 + 2 * _CAPACITY + 2 * num_cameras + 1
        # The system frees anonymous memory when the last process ends, even if it is killed.
        self._numbers = np.frombuffer(mmap.mmap(-1, 8 * size), dtype=np.float64)
        self._count, self._sizes = self._numbers[0:1], self._numbers[1:2]
        self._positions = self._numbers[2 : 2 + _CAPACITY]
        self._velocities = self._numbers[2 + _CAPACITY : 2 + 2 * _CAPACITY]
        rest = self._numbers[2 + 2 * _CAPACITY :]
        self._modes, self._rates = rest[:num_cameras], rest[num_cameras : 2 * num_cameras]
        self._ready = rest[-1:]

    def write(self, positions: NDArray[np.float64], velocities: NDArray[np.float64]) -> None:
        """Write the q positions [q] and the v velocities [v] of the MuJoCo model."""
        self._count[0] += 1
        self._positions[: len(positions)] = positions
        self._velocities[: len(velocities)] = velocities
        self._count[0] += 1

    def read(self, num_positions: int) -> NDArray[np.float64]:
        """Return the newest positions [q] of the MuJoCo model, all from the same step."""
        while True:
            before = self._count[0]
            positions = self._positions[:num_positions].copy()
            if before == self._count[0] and before % 2 == 0:
                return positions
            time.sleep(0)

    def mode(self, camera: int) -> CameraMode:
        """Return the mode of a camera, given by its index."""
        return CAMERA_MODES[int(self._modes[camera])]

    def set_mode(self, camera: int, mode: CameraMode) -> None:
        """Set the mode of a camera, given by its index."""
        self._modes[camera] = CAMERA_MODES.index(mode)

    def rate_hz(self, camera: int) -> float:
        """Return the recent frame rate of a camera, Hz; 0 if no client is connected."""
        return float(self._rates[camera])

    def set_rate(self, camera: int, rate_hz: float) -> None:
        """Store the measured frame rate of a camera, Hz."""
        self._rates[camera] = rate_hz

    @property
    def cameras_ready(self) -> bool:
        """Return whether the process of the cameras accepts connections."""
        return bool(self._ready[0])

    def set_cameras_ready(self) -> None:
        """Record that the process of the cameras accepts connections."""
        self._ready[0] = 1.0
