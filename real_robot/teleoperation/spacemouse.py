"""Teleoperation with a 3Dconnexion SpaceMouse, which is read with the library hidapi.

The cap of the device has a spring, so the motion stops when the person releases it. The device
sends USB reports with little-endian numbers:

    report 1   translation, three int16; newer devices also send the rotation in it
    report 2   rotation, three int16
    report 3   buttons, one bit each

Sources: the drivers of Linux and libspnav, and published examples of such reports.
"""

import importlib
import struct
from typing import Any, Self

import numpy as np

from .device import Command, DeviceError, Toggle

# USB vendor of 3Dconnexion; older models have Logitech's vendor id and these product ids.
_VENDOR = 0x256F
_LOGITECH, _LOGITECH_PRODUCTS = 0x046D, range(0xC603, 0xC62C)
_FULL = 350.0  # number that an axis reports at full deflection
_DEAD_ZONE = 0.08
_MAX_REPORTS = 64  # greatest number of reports that one call of `read` processes
_REPORT_BYTES = 64


class SpaceMouse:
    """Device for the first connected SpaceMouse."""

    name = "spacemouse"
    help = (
        "push, pull and turn the cap; the left button opens and closes the gripper, the right "
        "button ends the episode"
    )

    def __init__(self, hid: Any = None) -> None:
        """Create the device; tests pass a replacement of the module `hid`."""
        self._hid = hid
        self._device: Any = None
        self._axes = np.zeros(6)
        self._buttons = 0
        self._toggle = Toggle()

    def read(self) -> Command:
        """Return the command that the cap and the buttons request now."""
        if self._device is None:
            raise DeviceError("the SpaceMouse is not open")
        pressed = self._buttons
        for _ in range(_MAX_REPORTS):
            try:
                report = bytes(self._device.read(_REPORT_BYTES))
            except (OSError, ValueError) as error:
                raise DeviceError(f"the SpaceMouse is disconnected: {error}") from error
            if not report:
                break
            self._parse(report)
            pressed |= self._buttons
        x, y, z, about_x, about_y, about_z = self._axes
        moves = bool(self._axes.any())
        return Command(
            # axes of the device: right, towards the person, down; of the base: forward, left, up
            translation=np.array([-y, -x, -z]),
            rotation=np.array([-about_y, -about_x, -about_z]),
            gripper=self._toggle.press(bool(pressed & 1)),
            is_held=moves,
            end=("operator", "the operator ended the episode (button)") if pressed & 2 else None,
        )

    def __enter__(self) -> Self:
        if self._hid is None:
            self._hid = _import_hid()
        found = [info for info in self._hid.enumerate() if _is_spacemouse(info)]
        if not found:
            raise DeviceError(
                "no SpaceMouse is connected, or this user may not read it (a udev rule for vendor "
                "256f gives access)"
            )
        self._device = self._hid.device()
        try:
            self._device.open_path(found[0]["path"])
        except OSError as error:
            self._device = None
            raise DeviceError(
                f"the SpaceMouse cannot be opened ({error}): does spacenavd use it? May this user "
                "read /dev/hidraw*?"
            ) from error
        self._device.set_nonblocking(True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._device is not None:
            self._device.close()
            self._device = None

    def _parse(self, report: bytes) -> None:
        number, values = report[0], report[1:]
        if number == 3 and values:
            self._buttons = values[0]
        elif number in (1, 2) and len(values) >= 6:
            count = 6 if number == 1 and len(values) >= 12 else 3
            axes = np.array(struct.unpack_from(f"<{count}h", values)) / _FULL
            axes[np.abs(axes) < _DEAD_ZONE] = 0.0
            first = 3 if number == 2 else 0
            self._axes[first : first + count] = axes


def _is_spacemouse(info: dict[str, Any]) -> bool:
    vendor, product = info["vendor_id"], info["product_id"]
    # Usage 8 of page 1 is a multi-axis controller; a wireless receiver has other interfaces, too.
    axes = info.get("usage_page", 1) in (0, 1) and info.get("usage", 8) in (0, 8)
    return axes and (vendor == _VENDOR or (vendor == _LOGITECH and product in _LOGITECH_PRODUCTS))


def _import_hid() -> Any:
    try:
        return importlib.import_module("hid")
    except ImportError as error:
        raise ImportError(
            "a SpaceMouse needs hidapi: pip install 'toto-robot[spacemouse]'"
        ) from error
