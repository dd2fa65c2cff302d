"""The scripted expert of the Kuka cabinet task: it hooks the fingers over the handle and pulls.

The hand keeps the shape of a hook: the last phalanges of the fingers are bent at a right angle.
"""

from collections.abc import Mapping

import numpy as np

from ..geometry import Floats, rotate
from .scripted import ScriptedExpert

ENV_ID = "toto/KukaCabinet-v0"

# Hand pose in the frame of the arm's base: palm (x) down, fingers (z) forward.
_ROTATION = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
# Position of the bar's centre in the hand's frame when it is hooked: under the middle finger, with
# equal gaps between the fingertip and the bar, and the fingertip and the front.
_HOOKED_M = np.array([0.024, -0.0265, 0.1842])

# The approach is a funnel: the hand stays at this height in front of the bar or beside it, and
# descends as its fingertips get behind the bar.
_HOVER_M = 0.050
_FUNNEL_SLOPE = 6.0
_FUNNEL_RADIUS_M = 0.004
# While the hand is in front of the bar and less than the first value above it, the goal of the hand
# is the second distance in front of the bar.
_CLEAR_M = 0.042
_KEEP_OFF_M = 0.08
# Clearance of the fingertips between the posts, on each side.
_BESIDE_M = 0.010

_FINGERS = slice(0, 12)  # joints of the three fingers, without the thumb
# If the fingers were forced open or press against something, they cannot hook the bar: the hand
# moves up and back as the deviation of a finger joint from the posture rises between these values.
_BENT_RAD = (0.1, 0.4)

# The bar counts as hooked within these tolerances of its position: along the fingers (while
# pulling, the fingers yield and the hand leads), sideways, and in height.
_HELD_ALONG_M = (-0.028, 0.014)
_HELD_BESIDE_M = 0.025
_HELD_ABOVE_M = 0.012

# Distance of the hand's goal from the handle while pulling, and the opening at which it stops, well
# above the required 0.32 m.
_LEAD_M = 0.10
_OPEN_M = 0.36


class KukaCabinetExpert(ScriptedExpert):
    """An expert that moves the hand over the handle's bar, hooks the fingers over it and pulls.

    If the hand slips off the bar, the expert begins again.
    """

    def __init__(self) -> None:
        """Create the expert of `toto/KukaCabinet-v0`."""
        super().__init__(ENV_ID)
        lower = np.array([servo.lower for servo in self._arm.hand_servos])
        upper = np.array([servo.upper for servo in self._arm.hand_servos])
        self._posture = np.array(self._variant.task.start_hand)
        self._hook = 2 * (self._posture - lower) / (upper - lower) - 1
        self._bar_from_tool_m = _HOOKED_M - self._arm.tool_offset_m

    def _plan(self, seen: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        handle = self._in_base(seen["handle_position"])
        hook = seen["tool_position"] + rotate(seen["tool_quaternion"], self._bar_from_tool_m)
        offset = self._in_base(hook) - handle
        bent_rad = float(np.abs(seen["hand_position"] - self._posture)[_FINGERS].max())
        goal = np.eye(4)
        goal[:3, :3] = _ROTATION
        goal[:3, 3] = handle + _way(offset, bent_rad, float(seen["opening"][0]))
        goal[:3, 3] -= _ROTATION @ self._bar_from_tool_m
        return goal, self._hook


def _way(offset: Floats, bent_rad: float, drawer_m: float) -> Floats:
    """Return the goal position [3] of the hooked fingers relative to the bar, m.

    The elements are distances forward, to the left and upwards, in the frame of the arm's base.

    Args:
        offset: [3] current position of the hooked fingers relative to the bar, m.
        bent_rad: maximum deviation of a finger joint from the hook posture, rad.
        drawer_m: opening of the drawer, m.
    """
    along_m, beside_m, above_m = (float(value) for value in offset)
    held = (
        _HELD_ALONG_M[0] < along_m < _HELD_ALONG_M[1]
        and abs(beside_m) < _HELD_BESIDE_M
        and above_m < _HELD_ABOVE_M
        and bent_rad < _BENT_RAD[1]
    )
    if held:
        return np.array([-np.clip(_OPEN_M - drawer_m, -_LEAD_M, _LEAD_M), 0.0, 0.0])
    off_m = float(np.hypot(along_m, max(0.0, abs(beside_m) - _BESIDE_M)))
    bent = np.clip((bent_rad - _BENT_RAD[0]) / (_BENT_RAD[1] - _BENT_RAD[0]), 0.0, 1.0)
    height_m = _FUNNEL_SLOPE * max(0.0, off_m - _FUNNEL_RADIUS_M) + _HOVER_M * bent
    before = np.clip((-along_m - 0.012) / 0.02, 0.0, 1.0)
    low = np.clip((_CLEAR_M - above_m) / 0.03, 0.0, 1.0)
    back_m = _KEEP_OFF_M * max(before * low, bent)
    return np.array([-back_m, 0.0, min(height_m, _HOVER_M)])
