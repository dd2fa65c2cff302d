"""What a device in a person's hand says, whatever device it is."""

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np

from envs.geometry import Floats

from ..episode import Reason


class DeviceError(RuntimeError):
    """Return why a device says nothing; the episode ends with this text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Command:
    """What a person wants now.

    Attributes:
        translation: [3] of the tool, each in [-1, 1]: ahead (x), to the left (y), up (z), as the
            arm's base sees it.
        rotation: [3] likewise, about these axes.
        gripper: 1 open, -1 closed; None to leave it as it is.
        is_held: whether the dead man's switch is held: without it nothing moves.
        end: how the person wants the episode to end, and the words; None to go on.
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
        """Return whether the tool is to move."""
        return self.is_held and bool(self.translation.any() or self.rotation.any())


REST = Command(translation=np.zeros(3), rotation=np.zeros(3), is_held=False)


@runtime_checkable
class Device(Protocol):
    """A device. As a context manager it opens and closes."""

    @property
    def name(self) -> str:
        """Which device, for records."""
        ...

    @property
    def help(self) -> str:
        """What does what, in a few lines for the person."""
        ...

    def read(self) -> Command:
        """Return what the person wants now, without waiting.

        Raises:
            DeviceError: the device is gone.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class Toggle:
    """Turn presses of one button into open and closed."""

    def __init__(self) -> None:
        self._was_down = False
        self._closed = False

    def press(self, is_down: bool) -> float | None:
        """Return the gripper's new command when the button goes down; None otherwise."""
        begins, self._was_down = is_down and not self._was_down, is_down
        if not begins:
            return None
        self._closed = not self._closed
        return -1.0 if self._closed else 1.0
