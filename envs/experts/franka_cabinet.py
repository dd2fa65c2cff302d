"""The scripted expert of the Franka cabinet task: approach the handle, pinch it, and pull."""

from collections.abc import Mapping

import numpy as np

from ..geometry import Floats
from .scripted import ScriptedExpert

ENV_ID = "toto/FrankaCabinet-v0"

# The gripper points this far below the horizontal. With a horizontal gripper the wrist would reach
# its limit when the drawer is open; with a steeper one the pads would not be flat on the bar.
_PITCH_RAD = np.deg2rad(25.0)
_COS, _SIN = np.cos(_PITCH_RAD), np.sin(_PITCH_RAD)
# Tool orientation in the frame of the arm's base: the fingers open vertically around the handle.
_ROTATION = np.array([[0.0, _SIN, _COS], [1.0, 0.0, 0.0], [0.0, _COS, -_SIN]])

# The approach is a funnel: while the hand is above, below or beside the handle, it stays this far
# in front of the handle. It approaches as it gets aligned with the handle.
_STANDOFF_M = 0.12
_FUNNEL_SLOPE = 3.0
_FUNNEL_RADIUS_M = 0.010
# The position along the bar is less important.
_BESIDE_SHARE = 0.4

# The hand starts to close when the bar is between the fingers: within these distances along the
# approach and across it ...
_CLOSE_ALONG_M = 0.012
_CLOSE_ACROSS_M = 0.014
# ... and continues to close and hold within these distances.
_KEEP_ALONG_M = 0.030
_KEEP_ACROSS_M = 0.024
_KEEP_BESIDE_M = 0.045
_PART_CLOSED_M = 0.074
# Gripper widths at which the fingers hold the bar, which is 24 mm high, 12 mm thick and tilted.
_HELD_WIDTH_M = (0.008, 0.036)

# Distance of the hand's goal from the handle while pulling, and the opening at which it stops, well
# above the required 0.32 m.
_LEAD_M = 0.10
_OPEN_M = 0.36


class FrankaCabinetExpert(ScriptedExpert):
    """An expert that approaches the handle, pinches the handle and pulls.

    If the hand slips off the handle, the expert approaches again.
    """

    def __init__(self) -> None:
        """Create the expert of `toto/FrankaCabinet-v0`."""
        super().__init__(ENV_ID)

    def _plan(self, seen: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        handle = self._in_base(seen["handle_position"])
        tool = self._in_base(seen["tool_position"])
        goal, opening = self._goal(
            handle,
            tool - handle,
            float(seen["opening"][0]),
            float(seen["hand_position"][0]),
            float(seen["hand_command"][0]),
        )
        return goal, np.array([opening])

    def _goal(
        self,
        handle: Floats,
        offset: Floats,
        drawer_m: float,
        width_m: float,
        gripper_command: float,
    ) -> tuple[Floats, float]:
        """Return the goal pose `T_base_tcp` [4 4] of the tool, and the gripper command in [-1, 1].

        Args:
            handle: [3] position of the handle in the frame of the arm's base, m.
            offset: [3] position of the tool relative to the handle, m.
            drawer_m: opening of the drawer, m.
            width_m: distance between the fingers, m.
            gripper_command: previous gripper command, from -1 (close) to 1 (open).
        """
        beside_m = abs(float(offset[1]))
        along_m = float(offset @ _ROTATION[:, 2])
        across_m = abs(float(offset @ _ROTATION[:, 1]))
        around = (
            abs(along_m) < _KEEP_ALONG_M and across_m < _KEEP_ACROSS_M and beside_m < _KEEP_BESIDE_M
        )
        closing = around and gripper_command < 0 and width_m > _HELD_WIDTH_M[0]
        if closing and width_m < _HELD_WIDTH_M[1]:
            pull_m = np.clip(_OPEN_M - drawer_m, -_LEAD_M, _LEAD_M)
            return _pose(handle - np.array([pull_m, 0.0, 0.0])), -1.0
        off_m = float(np.hypot(across_m, _BESIDE_SHARE * beside_m))
        before_m = np.clip(_FUNNEL_SLOPE * (off_m - _FUNNEL_RADIUS_M), 0.0, _STANDOFF_M)
        ready = (
            abs(along_m) < _CLOSE_ALONG_M
            and across_m < _CLOSE_ACROSS_M
            and beside_m < _KEEP_BESIDE_M
        )
        opening = -1.0 if ready or (closing and width_m < _PART_CLOSED_M) else 1.0
        if width_m < _HELD_WIDTH_M[0]:
            opening = 1.0  # the gripper closed without the handle
        return _pose(handle - before_m * _ROTATION[:, 2]), opening


def _pose(position: Floats) -> Floats:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = _ROTATION, position
    return pose
