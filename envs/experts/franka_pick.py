"""The scripted expert of the Franka pick task: it grasps the cube from above and lifts it."""

from collections.abc import Mapping

import numpy as np

from ..geometry import Floats, yaw_to_nearest_face
from .scripted import ScriptedExpert

ENV_ID = "toto/FrankaPick-v0"

# The descent is a funnel: while the hand is beside the cube, it stays at this height above the
# cube. It descends as it gets above the cube.
_HOVER_M = 0.09
_FUNNEL_SLOPE = 3.0
_FUNNEL_RADIUS_M = 0.008
# The hand starts to close when the fingertips are around the cube's centre: within these distances,
# sideways and in height. The open fingers have a gap of 17 mm on each side of the cube ...
_CLOSE_BESIDE_M = 0.014
_CLOSE_ABOVE_M = 0.014
# ... and continues to close and hold within this distance.
_KEEP_M = 0.028
_PART_CLOSED_M = 0.074
# Gripper widths at which the fingers hold the cube (45 mm wide, 64 mm across corners).
_HELD_WIDTH_M = (0.036, 0.048)

# Goal of the lift in the frame of the arm's base. With the gripper pointing down the arm cannot
# reach 0.8 m at the distance of the cube, so it moves the cube closer. The height of 0.76 m is well
# within the required 0.70 to 0.90 m.
_LIFT_DISTANCE_M = 0.40
_LIFT_HEIGHT_M = 0.76
# Share of the cube's sideways position that is kept while lifting.
_LIFT_SIDE = 0.5


class FrankaPickExpert(ScriptedExpert):
    """An expert that moves above the cube, descends, closes the gripper and lifts the cube.

    If the cube slips out of the gripper, the expert begins again.
    """

    def __init__(self) -> None:
        """Create the expert of `toto/FrankaPick-v0`."""
        super().__init__(ENV_ID)

    def _plan(self, seen: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        cube = self._in_base(seen["cube_position"])
        tool = self._in_base(seen["tool_position"])
        goal, opening = self._goal(
            cube,
            yaw_to_nearest_face(seen["cube_quaternion"]),
            tool - cube,
            float(seen["hand_position"][0]),
            float(seen["hand_command"][0]),
        )
        return goal, np.array([opening])

    def _goal(
        self,
        cube: Floats,
        face_yaw_rad: float,
        offset: Floats,
        width_m: float,
        gripper_command: float,
    ) -> tuple[Floats, float]:
        """Return the goal pose `T_base_tcp` [4 4] of the tool, and the gripper command in [-1, 1].

        Args:
            cube: [3] position of the cube in the frame of the arm's base, m.
            face_yaw_rad: rotation about the vertical that aligns the gripper with the cube, rad.
            offset: [3] position of the tool relative to the cube, m.
            width_m: distance between the fingers, m.
            gripper_command: previous gripper command, from -1 (close) to 1 (open).
        """
        beside_m, above_m = float(np.hypot(offset[0], offset[1])), abs(float(offset[2]))
        around = max(beside_m, above_m) < _KEEP_M
        held = around and _HELD_WIDTH_M[0] < width_m < _HELD_WIDTH_M[1] and gripper_command < 0
        if held:
            goal = np.array([_LIFT_DISTANCE_M, _LIFT_SIDE * cube[1], _LIFT_HEIGHT_M])
            return _pointing_down(goal, 0.0), -1.0
        # A face at 45 degrees can be aligned by rotating in either direction. The sine
        # below is zero there, so the goal does not jump; the closing fingers rotate the cube.
        yaw_rad = 0.3 * np.sin(4 * face_yaw_rad)
        height_m = np.clip(_FUNNEL_SLOPE * (beside_m - _FUNNEL_RADIUS_M), 0.0, _HOVER_M)
        closing = around and _HELD_WIDTH_M[0] < width_m < _PART_CLOSED_M and gripper_command < 0
        ready = beside_m < _CLOSE_BESIDE_M and above_m < _CLOSE_ABOVE_M
        opening = -1.0 if closing or ready else 1.0
        if width_m < _HELD_WIDTH_M[0]:
            opening = 1.0  # the gripper closed without the cube
        return _pointing_down(cube + np.array([0.0, 0.0, height_m]), yaw_rad), opening


def _pointing_down(position: Floats, yaw_rad: float) -> Floats:
    """Return the pose [4 4] of a tool that points down (z axis), with its x axis at `yaw_rad`."""
    cos_yaw, sin_yaw = np.cos(yaw_rad), np.sin(yaw_rad)
    pose = np.eye(4)
    pose[:3, :3] = [[cos_yaw, sin_yaw, 0.0], [sin_yaw, -cos_yaw, 0.0], [0.0, 0.0, -1.0]]
    pose[:3, 3] = position
    return pose
