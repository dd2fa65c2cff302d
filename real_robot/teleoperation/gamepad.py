"""Teleoperation with a gamepad, which is read with the library pygame-ce (SDL).

The arm moves only while the right shoulder button is pressed.
"""

import importlib
import os
from typing import Any, Self

import numpy as np

from ..episode import Reason
from .device import Command, DeviceError, Toggle

# SDL's axis and button numbers of an Xbox gamepad on Linux (kernel driver xpad).
_LEFT_X, _LEFT_Y, _LEFT_TRIGGER, _RIGHT_X, _RIGHT_Y, _RIGHT_TRIGGER = range(6)
_A, _B, _X, _LEFT_SHOULDER, _RIGHT_SHOULDER, _BACK, _START = 0, 1, 2, 4, 5, 6, 7
_ENDS: dict[int, tuple[Reason, str]] = {
    _START: ("success", "the operator marked success (start)"),
    _BACK: ("failure", "the operator marked failure (back)"),
    _B: ("operator", "the operator ended the episode (B)"),
}
_DEAD_ZONE = 0.1


class Gamepad:
    """Device for the first connected gamepad."""

    name = "gamepad"
    help = (
        "hold the right shoulder button to move: left stick forward, back, left and right; "
        "triggers up (right) and down (left); right stick tilts, with the left shoulder button it "
        "turns; A opens and closes the gripper; start: success, back: failure, B: end"
    )

    def __init__(self, pygame: Any = None) -> None:
        """Create the device; tests pass a replacement of the module `pygame`."""
        self._pygame = pygame
        self._pad: Any = None
        self._toggle = Toggle()

    def read(self) -> Command:
        """Return the command that the sticks and buttons request now."""
        if self._pad is None:
            raise DeviceError("the gamepad is not open")
        self._pygame.event.pump()
        if not self._pygame.joystick.get_count():
            raise DeviceError("the gamepad is disconnected: check its cable or battery")
        pad = self._pad
        # A released trigger reads -1.
        up = (pad.get_axis(_RIGHT_TRIGGER) - pad.get_axis(_LEFT_TRIGGER)) / 2
        turns = bool(pad.get_button(_LEFT_SHOULDER))
        right_x, right_y = _stick(pad.get_axis(_RIGHT_X)), _stick(pad.get_axis(_RIGHT_Y))
        ends = [end for button, end in _ENDS.items() if pad.get_button(button)]
        return Command(
            translation=np.array(
                [-_stick(pad.get_axis(_LEFT_Y)), -_stick(pad.get_axis(_LEFT_X)), _stick(up)]
            ),
            rotation=np.array(
                [0.0, 0.0, -right_x] if turns else [right_x, -right_y, 0.0], dtype=np.float64
            ),
            gripper=self._toggle.press(bool(pad.get_button(_A))),
            is_held=bool(pad.get_button(_RIGHT_SHOULDER)),
            end=ends[0] if ends else None,
        )

    def __enter__(self) -> Self:
        if self._pygame is None:
            self._pygame = _import_pygame()
        # SDL delivers events only with a display; the dummy driver replaces the display.
        self._pygame.display.init()
        self._pygame.joystick.init()
        if not self._pygame.joystick.get_count():
            raise DeviceError("no gamepad is connected (may this user read /dev/input?)")
        self._pad = self._pygame.joystick.Joystick(0)
        needed = _RIGHT_TRIGGER + 1
        if self._pad.get_numaxes() < needed or self._pad.get_numbuttons() <= _START:
            raise DeviceError(
                f"{self._pad.get_name()} has {self._pad.get_numaxes()} axes and "
                f"{self._pad.get_numbuttons()} buttons; at least {needed} axes and {_START + 1} "
                "buttons are needed, as on an Xbox gamepad"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pad is not None:
            self._pad = None
            self._pygame.quit()


def _stick(value: float) -> float:
    """Return a stick's deflection in [-1, 1]; it is 0 within a small dead zone at the centre."""
    size = abs(value)
    return 0.0 if size < _DEAD_ZONE else np.sign(value) * (size - _DEAD_ZONE) / (1 - _DEAD_ZONE)


def _import_pygame() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
    try:
        return importlib.import_module("pygame")
    except ImportError as error:
        raise ImportError("a gamepad needs pygame: pip install 'toto-robot[gamepad]'") from error
