"""Where the object lies in each trial: one pose in each cell of a grid, drawn before the first.

A rate over trials says something about the whole area only if the poses cover it, and something
about new poses only if none of them was in the demonstrations. So the area is cut into as many
cells as there are trials, each gives one place, drawn evenly within it and not nearer to a
demonstration than was said; turns are spread likewise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TRIES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """Return where an object lies, in the frame of the arm's base.

    Attributes:
        x_m: ahead of the base.
        y_m: to its left.
        yaw_rad: about the vertical, from above against the clock.
    """

    x_m: float
    y_m: float
    yaw_rad: float

    def __str__(self) -> str:
        return f"x {self.x_m:.3f} m, y {self.y_m:+.3f} m, yaw {math.degrees(self.yaw_rad):+.0f} deg"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseArea:
    """Say from where poses are drawn.

    Attributes:
        center_m: x and y of the rectangle's middle, in the frame of the arm's base.
        half_m: half its edges along x and y.
        yaw_rad: the object is turned by up to this to either side.
    """

    center_m: tuple[float, float]
    half_m: tuple[float, float]
    yaw_rad: float

    def __post_init__(self) -> None:
        numbers = (*self.center_m, *self.half_m, self.yaw_rad)
        if not all(math.isfinite(number) for number in numbers) or min(self.half_m) < 0:
            raise ValueError(f"an area needs finite numbers, and no negative edges: {self}")
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
    """Draw poses, one for each cell of a grid, in an order that is drawn, too.

    Args:
        area: from where.
        num: how many.
        rng: draws.
        avoid: x and y, in m, of places that must not be met again: those of demonstrations.
        least_distance_m: how far from all of these a place must be.

    Raises:
        ValueError: a cell has no such place; naming it and what would help.
    """
    if num < 1:
        raise ValueError(f"there must be a pose at least, got {num}")
    rows, columns = grid_shape(area, num)
    # a grid may have a few cells more than there are poses: which stay empty is drawn
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
    """Return rows (along y) and columns (along x) of `num` cells or a few more, nearly square."""
    width_m, height_m = max(area.half_m[0], 1e-9), max(area.half_m[1], 1e-9)
    shapes = [(math.ceil(num / columns), columns) for columns in range(1, num + 1)]

    def cost(shape: tuple[int, int]) -> float:
        rows, columns = shape
        # how far from square a cell is, and how many cells stay empty
        return abs(math.log(height_m / rows / (width_m / columns))) + rows * columns / num

    return min(shapes, key=cost)


def nearest_m(pose: Pose, places: Sequence[tuple[float, float]]) -> float:
    """Return the distance to the nearest of these places; infinite when there are none."""
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
        f"place was found in {_TRIES} tries that is {least_distance_m} m from all {len(taken)} "
        "places of the demonstrations: take a smaller least distance, or a larger area"
    )
