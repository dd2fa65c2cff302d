"""The scripted expert of the Kuka pick task: descend with the palm down, pinch, lift."""

from collections.abc import Mapping

import numpy as np

from ..arms.kuka import OPEN_HAND, SQUEEZING_HAND
from ..geometry import Floats, yaw_to_nearest_face
from .scripted import ScriptedExpert

ENV_ID = "toto/KukaPick-v0"

# The palm faces down and the fingers point forward and down by this angle, as the hand postures
# require. With horizontal fingers, the wrist would be too close to the base for the elbow.
_PITCH_RAD = np.deg2rad(30.0)
_LIFT_PITCH_RAD = np.deg2rad(12.0)

# The descent is a funnel: while the hand is beside the cube, it stays at this height above the
# cube. It descends as it gets above the cube.
_HOVER_M = 0.12
_FUNNEL_SLOPE = 3.0
_FUNNEL_RADIUS_M = 0.010
# The fingertips reach below the tool point, so the goal is slightly higher.
_ABOVE_MIDDLE_M = 0.008
# The hand starts to close within the first distance, and continues within the second.
_READY_M = 0.016
_KEEP_M = 0.040
# Share of the motion from open to squeezing per control step.
_CLOSING_STEP = 0.25
# Share of closing from which the hand lifts.
_CLOSED = 0.99

_LIFT_DISTANCE_M = 0.48
_LIFT_HEIGHT_M = 0.77
_LIFT_SIDE = 0.5
# Maximum deviation of the hand's yaw from the direction from the base to the cube.
_MAX_TURN_RAD = np.deg2rad(60.0)


class KukaPickExpert(ScriptedExpert):
    """An expert that moves above the cube, descends, pinches the cube and lifts it.

    If the cube slips out of the hand, the expert begins again.
    """

    def __init__(self) -> None:
        """Create the expert of `toto/KukaPick-v0`."""
        super().__init__(ENV_ID)
        self._open = self._command(OPEN_HAND)
        self._squeeze = self._command(SQUEEZING_HAND)

    def _plan(self, seen: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        cube = self._in_base(seen["cube_position"])
        tool = self._in_base(seen["tool_position"])
        goal, closed = self._goal(cube, tool, seen)
        return goal, self._open + closed * (self._squeeze - self._open)

    def _goal(self, cube: Floats, tool: Floats, seen: Mapping[str, Floats]) -> tuple[Floats, float]:
        """Return the goal pose `T_base_tcp` [4 4] of the tool, and how far to close the hand.

        Args:
            cube: [3] position of the cube in the frame of the arm's base, m.
            tool: [3] position of the tool in the frame of the arm's base, m.
            seen: quantities of the privileged state, by name.

        Returns:
            The pose, and a number from 0 (open posture) to 1 (squeezing posture).
        """
        offset = tool - cube - [0.0, 0.0, _ABOVE_MIDDLE_M]
        beside_m, above_m = float(np.hypot(offset[0], offset[1])), abs(float(offset[2]))
        around = max(beside_m, above_m) < _KEEP_M
        way = self._squeeze - self._open
        closed = float((seen["hand_command"] - self._open) @ way / (way @ way))
        towards = float(np.arctan2(cube[1], cube[0]))
        if around and closed > _CLOSED:
            side = _LIFT_SIDE * towards
            goal = np.array(
                [_LIFT_DISTANCE_M * np.cos(side), _LIFT_DISTANCE_M * np.sin(side), _LIFT_HEIGHT_M]
            )
            return _palm_down(goal, side, _LIFT_PITCH_RAD), 1.0
        yaw = self._yaw(seen, towards)
        height_m = np.clip(_FUNNEL_SLOPE * (beside_m - _FUNNEL_RADIUS_M), 0.0, _HOVER_M)
        ready = max(beside_m, above_m) < _READY_M
        if ready or (around and closed > _CLOSING_STEP / 2):
            closed = min(1.0, max(closed, 0.0) + _CLOSING_STEP)
        else:
            closed = 0.0
        place = cube + np.array([0.0, 0.0, height_m + _ABOVE_MIDDLE_M])
        return _palm_down(place, yaw, _PITCH_RAD), closed

    def _yaw(self, seen: Mapping[str, Floats], towards: float) -> float:
        """Return the goal yaw of the fingers, rad: perpendicular to a face of the cube.

        The current yaw of the hand is first clipped to at most 60 degrees from `towards`. Of the
        four faces, the face is chosen whose yaw is nearest to this value. So the goal yaw does not
        jump when the cube is rotated by 45 degrees.

        Args:
            seen: quantities of the privileged state, by name.
            towards: direction from the base to the cube, rad.
        """
        w, x, y, z = seen["tool_quaternion"]
        # the hand's z axis in the base frame, which is rotated by half a turn from the world frame
        now = float(np.arctan2(-2 * (y * z - w * x), -2 * (x * z + w * y)))
        now = towards + float(np.clip(_wrapped(now - towards), -_MAX_TURN_RAD, _MAX_TURN_RAD))
        face = yaw_to_nearest_face(seen["cube_quaternion"])  # unchanged by half a turn
        return now + (face - now + np.pi / 4) % (np.pi / 2) - np.pi / 4

    def _command(self, posture: tuple[float, ...]) -> Floats:
        """Return the action elements [16], in [-1, 1], that move the hand's joints to a posture."""
        lower = np.array([servo.lower for servo in self._arm.hand_servos])
        upper = np.array([servo.upper for servo in self._arm.hand_servos])
        return 2 * (np.array(posture) - lower) / (upper - lower) - 1


def _wrapped(angle: float) -> float:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _palm_down(position: Floats, yaw: float, pitch: float) -> Floats:
    """Return the pose [4 4] of a tool whose palm faces down.

    The z axis is the direction of the fingers: horizontally `yaw`, and `pitch` below the
    horizontal, rad. The x axis is the direction of the palm.
    """
    forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    fingers = np.cos(pitch) * forward - np.sin(pitch) * up
    palm = -np.sin(pitch) * forward - np.cos(pitch) * up
    pose = np.eye(4)
    pose[:3, :3] = np.stack([palm, np.cross(fingers, palm), fingers], axis=1)
    pose[:3, 3] = position
    return pose
