"""The protocol `Device` of a teleoperation device, and the `Command` that a device returns."""

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np

from envs.geometry import Floats

from ..episode import Reason


class DeviceError(RuntimeError):
    """Error of a device, such as a lost connection; the episode ends with this message."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Command:
    """Input of a person at one time step.

    Attributes:
        translation: requested velocity of the tool along x (forward), y (left) and z (up) of the
            base's frame, each as a share of the maximum speed, in [-1, 1].
        rotation: requested rotation speed about the same axes, each as a share of the maximum, in
            [-1, 1].
        gripper: 1 opens the gripper, -1 closes it, None leaves it unchanged.
        is_held: True while the dead man's switch is pressed; the tool moves only then.
        end: reason and text if the person ends the episode; None to continue.
    """

    translation: Floats
    rotation: Floats
    gripper: float | None = None
    is_held: bool = True
    end: tuple[Reason, str] | None = None

    def __post_init__(self) -> None:
        for name in ("translation", "rotation"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != (3,) or not np.isfinite(values).all():
                raise ValueError(f"{name} must be 3 finite numbers, got {values}")
            object.__setattr__(self, name, np.clip(values, -1.0, 1.0))

    @property
    def moves(self) -> bool:
        """Return whether the command moves the tool."""
        return self.is_held and bool(self.translation.any() or self.rotation.any())


REST = Command(translation=np.zeros(3), rotation=np.zeros(3), is_held=False)


@runtime_checkable
class Device(Protocol):
    """Teleoperation device of a person, such as a gamepad.

    As a context manager, it is opened at the start and closed at the end.
    """

    @property
    def name(self) -> str:
        """The name of the device, for records."""
        ...

    @property
    def help(self) -> str:
        """A short description of the keys or buttons, which is printed for the person."""
        ...

    def read(self) -> Command:
        """Return the person's current command, without waiting.

        Raises:
            DeviceError: the device is disconnected.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class Toggle:
    """Button that alternately opens and closes the gripper."""

    def __init__(self) -> None:
        self._was_down = False
        self._closed = False

    def press(self, is_down: bool) -> float | None:
        """Update the state of the button, and return the command to the gripper.

        Args:
            is_down: whether the button is down now.

        Returns:
            1 (open) or -1 (close) if the button was not down at the previous call and is down now,
            otherwise None. The first command closes the gripper.
        """
        begins, self._was_down = is_down and not self._was_down, is_down
        if not begins:
            return None
        self._closed = not self._closed
        return -1.0 if self._closed else 1.0
