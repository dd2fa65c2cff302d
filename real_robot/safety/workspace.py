"""The workspace of an arm: a box for the tool point, and a table that the arm stays above.

Distances are computed by forward kinematics, in the frame of the arm's base.
"""

import math
from dataclasses import dataclass

import numpy as np

from envs.arms.arm import Arm
from envs.arms.kinematics import joint_frames
from envs.geometry import Floats, Vector

_FIRST_LINK = 2  # the two joints of the shoulder do not change their position
_NUM_INTERVALS = 16
_ROUNDING_M = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """Settings of the workspace: a box for the tool point and a table, in the base's frame.

    Attributes:
        low_m: smallest x, y, z of the tool point.
        high_m: greatest x, y, z of the tool point.
        table_m: height of the table.
        tool_clearance_m: smallest height of the tool point and of `hand_points_m` above the table.
        link_radius_m: smallest height of the joints from the upper arm on above the table: about
            the radius of the links.
        hand_points_m: further points of the hand, in its frame, that stay above the table.
    """

    low_m: Vector
    high_m: Vector
    table_m: float
    tool_clearance_m: float
    link_radius_m: float
    hand_points_m: tuple[Vector, ...]

    def __post_init__(self) -> None:
        for name in ("low_m", "high_m"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} needs x, y and z, got {getattr(self, name)}")
        numbers = (*self.low_m, *self.high_m, self.table_m, self.tool_clearance_m)
        points = tuple(value for point in self.hand_points_m for value in point)
        if not all(math.isfinite(value) for value in (*numbers, self.link_radius_m, *points)):
            raise ValueError(f"all numbers of the workspace must be finite: {self}")
        for axis, low, high in zip("xyz", self.low_m, self.high_m, strict=True):
            if low >= high:
                raise ValueError(f"low_m must be below high_m; in {axis} {low} is not below {high}")


class Enclosure:
    """The distances of an arm to the bounds of its workspace.

    Attributes:
        names: name of each bound, in the order of the columns of `margins_m`.
    """

    def __init__(self, workspace: Workspace, arm: Arm) -> None:
        num_links = len(arm.link_frames) - _FIRST_LINK
        self._arm = arm
        self._low, self._high = np.array(workspace.low_m), np.array(workspace.high_m)
        self._hand_points = np.array([arm.tool_offset_m, *workspace.hand_points_m])
        num_points = len(self._hand_points)
        self._floor = workspace.table_m + np.array(
            [workspace.tool_clearance_m] * num_points + [workspace.link_radius_m] * num_links
        )
        # the last joint of the chain that moves each point
        self._last_joint = np.array(
            [len(arm.link_frames) - 1] * num_points + list(range(_FIRST_LINK, len(arm.link_frames)))
        )
        farthest = float(np.linalg.norm(self._hand_points, axis=1).max())
        lengths = sum(abs(link.a_m) + abs(link.d_m) for link in arm.link_frames)
        self._reach_m = lengths + arm.flange_m + farthest
        sides = [f"tool {side} {axis}" for side in ("low", "high") for axis in "xyz"]
        points = ["tool", *(f"hand point {index}" for index in range(1, num_points))]
        links = [f"joint {index + 1}" for index in range(_FIRST_LINK, len(arm.link_frames))]
        self.names = (*sides, *(f"{point} above the table" for point in points + links))

    def margins_m(self, joint_positions: Floats) -> Floats:
        """Return the distance in metres to each bound [... m] at positions [... j].

        A distance is negative outside the workspace.
        """
        return self._margins(self._points(joint_frames(self._arm, joint_positions)))

    def violations(self, joint_positions: Floats) -> list[str]:
        """Return the violated bounds at positions [j] with their distances, as text."""
        margins = self.margins_m(joint_positions)
        return [
            f"{name}: {-margin:.4f} m too far"
            for name, margin in zip(self.names, margins, strict=True)
            if margin < -_ROUNDING_M
        ]

    def curvature_m(self, first: Floats, last: Floats) -> float:
        """Return a bound on how far a point leaves the chord between samples of a joint line."""
        # A point of a chain of joints has a second derivative of at most reach * (sum |dq|)^2
        # along a line in joint space, and a chord misses an arc by h^2 / 8 times that.
        length = float(np.abs(last - first).sum())
        return self._reach_m * (length / _NUM_INTERVALS) ** 2 / 8

    def holds_line(self, first: Floats, last: Floats) -> bool:
        """Return whether the joint line from `first` [j], which is inside, to `last` stays inside.

        The line is sampled, and the motion between samples is bounded: True holds for every point
        of the line.
        """
        length = float(np.abs(last - first).sum())
        start = self.margins_m(first)
        if start.min() >= self._reach_m * length:
            return True  # no point moves farther than that
        share = np.linspace(0.0, 1.0, _NUM_INTERVALS + 1)[1:, None]
        margins = self.margins_m(first + share * (last - first))  # n m
        curvature = self.curvature_m(first, last)
        if margins.min() < curvature - _ROUNDING_M:
            return False
        # A line may begin at a wall if it leaves the wall at once.
        leaves = (start >= curvature) | (margins[0] >= 4 * curvature - _ROUNDING_M)
        return bool(leaves.all())

    def pushed_in(self, joint_positions: Floats, buffer_m: float) -> Floats | None:
        """Return a small change [j] that brings positions [j] inside by `buffer_m`.

        It is the least-squares solution for the linearised distances, which is accurate near the
        wall. None when the positions are already inside.
        """
        frames = joint_frames(self._arm, joint_positions)
        points = self._points(frames)
        shortage = buffer_m - self._margins(points)
        short = shortage > 0
        if not short.any():
            return None
        axes, origins = frames[:-1, :3, 2], frames[:-1, :3, 3]  # j 3
        lever = points[:, None] - origins  # p j 3
        moves = np.cross(axes[None], lever)  # p j 3: motion of each point by each joint
        moves *= np.arange(len(axes))[None, :, None] <= self._last_joint[:, None, None]
        tool = moves[0].T  # 3 j
        jacobian = np.concatenate([tool, -tool, moves[:, :, 2]])[short]
        gram = jacobian @ jacobian.T + 1e-4 * np.eye(len(jacobian))
        change: Floats = jacobian.T @ np.linalg.solve(gram, shortage[short]).astype(np.float64)
        return change

    def _points(self, frames: Floats) -> Floats:
        """Return all checked points [... p 3]: the points of the hand, then those of the links."""
        hand = frames[..., -1, :, :]
        on_hand = self._hand_points @ np.swapaxes(hand[..., :3, :3], -1, -2)
        on_hand = on_hand + hand[..., None, :3, 3]
        return np.concatenate([on_hand, frames[..., _FIRST_LINK:-1, :3, 3]], axis=-2)

    def _margins(self, points: Floats) -> Floats:
        tool = points[..., 0, :]
        above = points[..., 2] - self._floor
        return np.concatenate([tool - self._low, self._high - tool, above], axis=-1)
