"""Sample the poses of the object for trials: at most one random pose in each cell of a grid.

A success rate is valid for the whole area only if the poses cover the area. It is valid for new
poses only if the poses of the trials are not poses of the demonstrations. The area is therefore
divided into as many cells as there are poses, or a few more, and each pose gets its own cell. The
position is sampled uniformly in this cell, at a given smallest distance from the positions of all
demonstrations. The range of yaw angles is divided into as many intervals as there are poses, and
one angle is sampled in each interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TRIES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """Pose of an object on the table, in the frame of the arm's base.

    Attributes:
        x_m: distance in front of the base, m.
        y_m: distance to the left of the base, m.
        yaw_rad: rotation about the vertical axis, rad, counter-clockwise when seen from above.
    """

    x_m: float
    y_m: float
    yaw_rad: float

    def __str__(self) -> str:
        return f"x {self.x_m:.3f} m, y {self.y_m:+.3f} m, yaw {math.degrees(self.yaw_rad):+.0f} deg"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseArea:
    """Settings of the rectangular area in which the object is placed.

    Attributes:
        center_m: centre x, y of the rectangle in the frame of the arm's base, m.
        half_m: half the length of the rectangle along x, and along y, m.
        yaw_rad: greatest rotation of the object to each side, rad.
    """

    center_m: tuple[float, float]
    half_m: tuple[float, float]
    yaw_rad: float

    def __post_init__(self) -> None:
        numbers = (*self.center_m, *self.half_m, self.yaw_rad)
        if not all(math.isfinite(number) for number in numbers) or min(self.half_m) < 0:
            raise ValueError(f"an area needs finite numbers and no negative edges: {self}")
        if not 0 <= self.yaw_rad <= math.pi:
            raise ValueError(f"yaw_rad must be in [0, pi], got {self.yaw_rad}")


def draw_poses(
    area: PoseArea,
    num: int,
    rng: np.random.Generator,
    *,
    avoid: Sequence[tuple[float, float]] = (),
    least_distance_m: float = 0.0,
) -> tuple[Pose, ...]:
    """Return random poses in different cells of a grid, in random order.

    If the grid has more cells than poses, random cells stay empty.

    Args:
        area: the area of the poses.
        num: number of poses.
        rng: random generator.
        avoid: positions x, y to avoid, m, such as the positions in the demonstrations.
        least_distance_m: smallest distance between a pose and a position in `avoid`, m.

    Raises:
        ValueError: `num` is below 1, or no position was found in a cell; the message then names the
            cell and says what to do.
    """
    if num < 1:
        raise ValueError(f"there must be at least one pose, got {num}")
    rows, columns = grid_shape(area, num)
    # the grid may have a few more cells than poses; random cells then stay empty
    cells = rng.permutation(rows * columns)[:num]
    turns = (rng.permutation(num) + rng.uniform(0, 1, num)) / num * 2 - 1
    half, low = np.array(area.half_m), np.array(area.center_m) - area.half_m
    edges = 2 * half / [columns, rows]
    taken = np.array(avoid, dtype=np.float64).reshape(-1, 2)
    poses = []
    for cell, turn in zip(cells, turns, strict=True):
        corner = low + edges * [cell % columns, cell // columns]
        place = _draw_place(corner, edges, rng, taken, least_distance_m)
        poses.append(
            Pose(x_m=float(place[0]), y_m=float(place[1]), yaw_rad=float(turn * area.yaw_rad))
        )
    return tuple(poses)


def grid_shape(area: PoseArea, num: int) -> tuple[int, int]:
    """Return the shape of a grid of at least `num` nearly square cells: rows, columns.

    Rows are counted along y, columns along x.
    """
    width_m, height_m = max(area.half_m[0], 1e-9), max(area.half_m[1], 1e-9)
    shapes = [(math.ceil(num / columns), columns) for columns in range(1, num + 1)]

    def cost(shape: tuple[int, int]) -> float:
        rows, columns = shape
        # how much a cell differs from a square, and how many cells stay empty
        return abs(math.log(height_m / rows / (width_m / columns))) + rows * columns / num

    return min(shapes, key=cost)


def nearest_m(pose: Pose, places: Sequence[tuple[float, float]]) -> float:
    """Return the distance between a pose and the nearest position in `places`, m.

    It is infinite if `places` is empty.
    """
    return min((math.hypot(pose.x_m - x, pose.y_m - y) for x, y in places), default=math.inf)


def _draw_place(
    corner: NDArray[np.float64],
    edges: NDArray[np.float64],
    rng: np.random.Generator,
    taken: NDArray[np.float64],
    least_distance_m: float,
) -> NDArray[np.float64]:
    for _ in range(_TRIES):
        place = corner + edges * rng.uniform(0, 1, 2)
        if not len(taken) or np.linalg.norm(taken - place, axis=1).min() >= least_distance_m:
            return place
    x, y = corner
    raise ValueError(
        f"in the cell x {x:.3f} to {x + edges[0]:.3f} m, y {y:.3f} to {y + edges[1]:.3f} m no "
        f"position was found in {_TRIES} tries that is {least_distance_m} m from all {len(taken)} "
        "positions of the demonstrations: use a smaller least_distance_m, or a larger area"
    )
