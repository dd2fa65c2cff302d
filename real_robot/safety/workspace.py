"""Workspace of an arm: a box that the tool point must not leave, and a table below the arm.

Positions are computed by forward kinematics, in the frame of the arm's base.
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
    """Settings of the workspace, in the frame of the arm's base: a box and a table.

    Attributes:
        low_m: smallest allowed x, y, z of the tool point, m.
        high_m: greatest allowed x, y, z of the tool point, m.
        table_m: height (z) of the table, m.
        tool_clearance_m: smallest allowed height of the tool point and of `hand_points_m` above
            the table, m.
        link_radius_m: smallest allowed height of the joints above the table, m, from the upper arm
            on. It should be about the radius of the links.
        hand_points_m: further points x, y, z of the hand that must stay above the table, m, in the
            frame of the hand.
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
    """Computation of the distances between an arm and the walls of its workspace.

    Attributes:
        names: name of each wall (sides of the box, and table), in the order of the columns of
            `margins_m`.
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
        """Return the distances to the m walls [... m], in metres, at joint positions [... j].

        A distance is negative if the arm is beyond the wall.
        """
        return self._margins(self._points(joint_frames(self._arm, joint_positions)))

    def violations(self, joint_positions: Floats) -> list[str]:
        """Return one text for each wall that the arm violates at positions [j], with distances."""
        margins = self.margins_m(joint_positions)
        return [
            f"{name}: {-margin:.4f} m too far"
            for name, margin in zip(self.names, margins, strict=True)
            if margin < -_ROUNDING_M
        ]

    def curvature_m(self, first: Floats, last: Floats) -> float:
        """Return how far the path of an arm's point can be from straight pieces, m (upper bound).

        `first` and `last` [j] are the ends of a line in joint space. While the joints move along
        it, each point of the arm moves on a curve. The curve is compared with `_NUM_INTERVALS`
        straight pieces, whose ends are on the curve at equal intervals of the line.
        """
        # A point of a chain of joints has a second derivative of at most reach * (sum |dq|)^2
        # along a line in joint space, and a chord misses an arc by h^2 / 8 times that.
        length = float(np.abs(last - first).sum())
        return self._reach_m * (length / _NUM_INTERVALS) ** 2 / 8

    def holds_line(self, first: Floats, last: Floats) -> bool:
        """Return whether the arm stays inside on a line in joint space from `first` to `last` [j].

        `first` must be inside. The arm is checked at samples of the line, and its motion between
        samples is bounded. True therefore means that every point of the line is inside.
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
        # A line may begin at a wall if it moves away from the wall at once.
        leaves = (start >= curvature) | (margins[0] >= 4 * curvature - _ROUNDING_M)
        return bool(leaves.all())

    def pushed_in(self, joint_positions: Floats, buffer_m: float) -> Floats | None:
        """Return a small change of positions [j] that moves the arm `buffer_m` inside the walls.

        The change [j], rad, is the least-squares solution for the linearised distances. It is
        accurate near the wall. None is returned if the positions are already inside.
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
        """Return the p checked points [... p 3] of the arm: of the hand, then of the links."""
        hand = frames[..., -1, :, :]
        on_hand = self._hand_points @ np.swapaxes(hand[..., :3, :3], -1, -2)
        on_hand = on_hand + hand[..., None, :3, 3]
        return np.concatenate([on_hand, frames[..., _FIRST_LINK:-1, :3, 3]], axis=-2)

    def _margins(self, points: Floats) -> Floats:
        tool = points[..., 0, :]
        above = points[..., 2] - self._floor
        return np.concatenate([tool - self._low, self._high - tool, above], axis=-1)
