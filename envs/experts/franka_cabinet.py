"""The scripted expert of the Franka cabinet: come before the handle, close in, pinch, pull."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import Floats
from .scripted import ScriptedExpert

ENV_ID = "toto/FrankaCabinet-v0"

# The gripper points this far below the horizontal: level, the wrist would be at its limit when the
# drawer is open; steeper, the pads would not lie flat on the bar.
_PITCH_RAD = np.deg2rad(25.0)
_COS, _SIN = np.cos(_PITCH_RAD), np.sin(_PITCH_RAD)
# Tool pose in the frame of the arm's base: fingers open upwards, the handle lies across them.
_ROTATION = np.array([[0.0, _SIN, _COS], [1.0, 0.0, 0.0], [0.0, _COS, -_SIN]])

# The way in is a funnel: the hand stays this far before the handle while it is above, below or
# beside it, and closes in as it comes to be before it.
_STANDOFF_M = 0.12
_FUNNEL_SLOPE = 3.0
_FUNNEL_RADIUS_M = 0.010
# Where it goes along the bar does not matter much.
_BESIDE_SHARE = 0.4

# The hand closes when the bar is well between the fingers: within this, along the approach and
# across ...
_CLOSE_ALONG_M = 0.012
_CLOSE_ACROSS_M = 0.014
# ... and goes on closing, and holding, as long as it is no farther than this.
_KEEP_ALONG_M = 0.030
_KEEP_ACROSS_M = 0.024
_KEEP_BESIDE_M = 0.045
_PART_CLOSED_M = 0.074
# Widths between which the fingers hold the bar: it is 24 mm high and 12 mm thick, and askew.
_HELD_WIDTH_M = (0.008, 0.036)

# How far before the handle the goal of the hand is while it pulls; and the opening at which it
# stops, well above the 0.32 m that count.
_LEAD_M = 0.10
_OPEN_M = 0.36


class FrankaCabinetExpert(ScriptedExpert):
    """Open the drawer: come before the handle, close in, pinch, pull; begin again when it slips."""

    def __init__(self) -> None:
        """Make the expert of `toto/FrankaCabinet-v0`."""
        super().__init__(ENV_ID)

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [8] for a privileged observation.

        Raises:
            ValueError: when the observation has no `state`.
        """
        seen = self._see(observation)
        targets = seen["arm_target"]
        handle = self._in_base(seen["handle_position"])
        tool = self._in_base(seen["tool_position"])
        goal, opening = self._goal(
            handle,
            tool - handle,
            float(seen["opening"][0]),
            float(seen["hand_position"][0]),
            float(seen["hand_command"][0]),
        )
        change = self._towards(goal, targets)
        return np.append(change, opening).astype(np.float32)

    def _goal(
        self,
        handle: Floats,
        offset: Floats,
        drawer_m: float,
        width_m: float,
        gripper_command: float,
    ) -> tuple[Floats, float]:
        """Return the pose `T_base_tcp` to go to and the gripper's opening."""
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
            opening = 1.0  # closed on nothing
        return _pose(handle - before_m * _ROTATION[:, 2]), opening


def _pose(position: Floats) -> Floats:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = _ROTATION, position
    return pose
