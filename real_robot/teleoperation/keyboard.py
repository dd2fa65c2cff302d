"""Teleoperation with the keyboard of a terminal; it works over SSH and needs no library."""

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from ..episode import Reason
from .device import Command, DeviceError, Toggle

_TRANSLATIONS: dict[str, tuple[int, int]] = {  # key: axis, sign
    "w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1),
}  # fmt: skip
_ROTATIONS: dict[str, tuple[int, int]] = {
    "j": (0, 1), "l": (0, -1), "i": (1, 1), "k": (1, -1), "u": (2, 1), "o": (2, -1),
}  # fmt: skip
_ENDS: dict[str, tuple[Reason, str]] = {
    "\r": ("success", "the operator marked success (Enter)"),
    "\n": ("success", "the operator marked success (Enter)"),
    "\x7f": ("failure", "the operator marked failure (Backspace)"),
    "\x08": ("failure", "the operator marked failure (Backspace)"),
    "q": ("operator", "the operator ended the episode (q)"),
}
# What a terminal sends for an arrow key or a function key. Its letters are not keys of this device.
_SEQUENCE = re.compile(r"\x1b(?:[\[O]\[?[0-9;]*.)?")
_UNFINISHED = re.compile(r"\x1b(?:[\[O]\[?[0-9;]*)?$")
_MAX_BYTES = 4096


class Keyboard:
    """Device for the keys of a terminal.

    While a key is pressed, a terminal sends the key again and again. It does not report the release
    of the key. A key therefore counts as pressed for `hold_s` after it was received. If it is not
    received again in this time, the motion ends.
    """

    name = "keyboard"
    help = (
        "w/s forward and back, a/d left and right, r/f up and down; u/o, i/k, j/l turn; space "
        "opens and closes the gripper; Enter: success, Backspace: failure, q: end"
    )

    def __init__(
        self,
        *,
        hold_s: float,
        file_descriptor: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the device.

        Args:
            hold_s: time for which a key counts as pressed after it was received, s.
            file_descriptor: file descriptor of the terminal; None means standard input.
            clock: function that returns the time, s.
        """
        if not hold_s > 0:
            raise ValueError(f"hold_s must be positive, got {hold_s}")
        self._hold_s, self._clock = hold_s, clock
        self._file = sys.stdin.fileno() if file_descriptor is None else file_descriptor
        self._saved: Any = None
        self._unfinished = ""  # first characters of a sequence whose rest is not received yet
        self._until_s: dict[str, float] = {}
        self._toggle = Toggle()

    def read(self) -> Command:
        """Return the command that the pressed keys request now."""
        now_s = self._clock()
        gripper, end = None, None
        for key in self._keys():
            if key in _TRANSLATIONS or key in _ROTATIONS:
                self._until_s[key] = now_s + self._hold_s
            elif key == " ":
                self._toggle.press(False)
                gripper = self._toggle.press(True)
            elif key in _ENDS:
                end = _ENDS[key]
        held = [key for key, until_s in self._until_s.items() if until_s > now_s]
        translation, rotation = np.zeros(3), np.zeros(3)
        for key in held:
            for axes, values in ((_TRANSLATIONS, translation), (_ROTATIONS, rotation)):
                if key in axes:
                    axis, sign = axes[key]
                    values[axis] += sign
        return Command(
            translation=translation,
            rotation=rotation,
            gripper=gripper,
            is_held=bool(held),
            end=end,
        )

    def __enter__(self) -> Self:
        import termios
        import tty

        if not os.isatty(self._file):
            raise DeviceError("the keyboard needs a terminal: run the command in one")
        self._saved = termios.tcgetattr(self._file)
        # Read single keys, and do not print them; Ctrl-C remains a signal.
        tty.setcbreak(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        import termios

        if self._saved is not None:
            # Discard unread keys. The settings of a closed terminal need not be restored.
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._file, termios.TCSAFLUSH, self._saved)
            self._saved = None

    def _keys(self) -> str:
        if not select.select([self._file], [], [], 0.0)[0]:
            return ""
        try:
            data = os.read(self._file, _MAX_BYTES)
        except OSError as error:
            raise DeviceError(f"the terminal is closed: {error}") from error
        if not data:
            raise DeviceError("the terminal is closed")
        text = self._unfinished + data.decode(errors="ignore")
        found = _UNFINISHED.search(text)
        self._unfinished = "" if found is None else found.group()
        return _SEQUENCE.sub("", text.removesuffix(self._unfinished)).lower()
