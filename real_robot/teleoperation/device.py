"""The protocol of a teleoperation device, and the command that it returns."""

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np

from envs.geometry import Floats

from ..episode import Reason


class DeviceError(RuntimeError):
    """An error of a device, such as a lost connection; the episode ends with its text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Command:
    """A person's input at one time step.

    Attributes:
        translation: [3] requested direction of the tool in the base's frame, each in [-1, 1]:
            forward (x), left (y), up (z).
        rotation: [3] requested rotation about these axes, each in [-1, 1].
        gripper: 1 to open, -1 to close; None to leave the gripper unchanged.
        is_held: whether the dead man's switch is pressed; otherwise nothing moves.
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
    """A teleoperation device; a context manager that opens and closes it."""

    @property
    def name(self) -> str:
        """The device's name, for records."""
        ...

    @property
    def help(self) -> str:
        """A short description of keys or buttons for the person."""
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
    """A button that opens and closes the gripper in turn."""

    def __init__(self) -> None:
        self._was_down = False
        self._closed = False

    def press(self, is_down: bool) -> float | None:
        """Return the gripper's new command if the button is newly pressed; None otherwise."""
        begins, self._was_down = is_down and not self._was_down, is_down
        if not begins:
            return None
        self._closed = not self._closed
        return -1.0 if self._closed else 1.0
