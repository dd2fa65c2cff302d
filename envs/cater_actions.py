"""Plan videos of moving objects in the manner of CATER.

CATER is a data set of Girdhar and Ramanan (2019, arXiv 1910.04744). A golden object, the snitch,
and some cones, spheres, cubes and cylinders stand on a table. At most two objects at a time slide,
rotate, or are picked up and placed. A cone can also be placed over a smaller object. The cone then
hides this object, and takes it along when the cone slides. A cone can cover a cone that covers an
object.

The table has 6 x 6 cells of edge 1, with x and y in [-3, 3]. The unit of length is the edge of a
cell, as in CATER.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry import Floats

__all__ = ["NUM_FRAMES", "RATE_HZ", "Item", "Movement", "Plan", "cell_of", "plan_video"]

NUM_FRAMES, RATE_HZ = 300, 24.0
HALF_TABLE, SIDE = 3, 6  # half the edge of the table, and number of cells per row
SLOT_FRAMES = 30
MOVERS = 2  # number of objects that move at the same time
LARGEST = 2.6  # largest absolute coordinate of an object
LIFT = 1.8  # height at which objects are carried
GAP = 0.1  # smallest distance between two objects
TRIES = 60  # number of random places that are tried
SHAPES = ("sphere", "cube", "cylinder", "cone")
SIZES = {"sphere": (0.3, 0.5), "cube": (0.2, 0.45), "cylinder": (0.25, 0.45), "cone": (0.55, 0.8)}
SNITCH_SIZE = 0.3
# Largest size of an object that fits into a cone, as a multiple of the cone's size. A cone's radius
# is its size and its height is twice its size.
FITS = {"snitch": 0.6, "sphere": 0.6, "cube": 0.4, "cylinder": 0.5, "cone": 0.75}
COLOURS = {
    "gray": (0.45, 0.45, 0.45),
    "red": (0.75, 0.15, 0.15),
    "blue": (0.15, 0.3, 0.85),
    "green": (0.1, 0.5, 0.1),
    "purple": (0.5, 0.15, 0.7),
    "cyan": (0.15, 0.75, 0.75),
}
GOLD = (0.95, 0.75, 0.05)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An object on the table.

    Attributes:
        name: unique name.
        shape: `snitch`, `sphere`, `cube`, `cylinder` or `cone`.
        size: radius of a sphere, a cylinder, a cone and the snitch, and half the edge of a cube.
        rgb: colour, in [0, 1].
    """

    name: str
    shape: str
    size: float
    rgb: tuple[float, float, float]

    @property
    def radius(self) -> float:
        """The radius of the object's footprint on the table."""
        return self.size * (2**0.5 if self.shape == "cube" else 1.0)

    def covers(self, other: "Item") -> bool:
        """Return whether this object is a cone into which the other object fits."""
        return self.shape == "cone" and other.size <= FITS[other.shape] * self.size + 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Movement:
    """An action of an object, with its first and last frame.

    Attributes:
        item: name of the object that moves.
        action: `slide`, `pick_place`, `rotate` or `contain` (a cone is placed over an object).
        covered: name of the object that the cone covers in a `contain` action; None otherwise.
        first: index of the first frame.
        last: index of the last frame.
    """

    item: str
    action: str
    covered: str | None
    first: int
    last: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """The motion of all objects and of the camera.

    Attributes:
        items: n objects; the first is the snitch.
        positions: [t n 3] position of each object's lowest point in each frame.
        yaws_rad: [t n] rotation about the vertical.
        covered: bool [t n], whether a cone covers the object.
        camera: [t 3] position of the camera, which is directed at the centre of the table.
        movements: all actions, in the order of their first frames.
    """

    items: tuple[Item, ...]
    positions: Floats
    yaws_rad: Floats
    covered: NDArray[np.bool_]
    camera: Floats
    movements: tuple[Movement, ...]


def cell_of(position: Sequence[float] | Floats) -> int:
    """Return the index of the cell at a position: 6 y + x, for column x and row y in 0..5."""
    x, y = (int(np.floor(value)) + HALF_TABLE for value in position[:2])
    return SIDE * y + x


def plan_video(rng: np.random.Generator, moving_camera: bool) -> Plan:
    """Draw the objects, their actions and the path of the camera for a video of 300 frames."""
    table = _Table(_draw_items(rng), rng)
    for slot in range(NUM_FRAMES // SLOT_FRAMES):
        table.act(slot * SLOT_FRAMES)
    movements = sorted(table.movements, key=lambda one: (one.first, one.item))
    return Plan(
        items=table.items,
        positions=table.positions,
        yaws_rad=table.yaws_rad,
        covered=table.covered,
        camera=_camera_path(rng, moving_camera),
        movements=tuple(movements),
    )


def _draw_items(rng: np.random.Generator) -> tuple[Item, ...]:
    """Draw the snitch, two cones of different sizes, and two to four other objects."""
    items = [Item(name="snitch", shape="snitch", size=SNITCH_SIZE, rgb=GOLD)]
    shapes = ["cone", "cone", *rng.choice(SHAPES, int(rng.integers(2, 5)))]
    for number, shape in enumerate(map(str, shapes)):
        size = SIZES[shape][number if number < 2 else int(rng.integers(2))]
        rgb = COLOURS[str(rng.choice(list(COLOURS)))]
        items.append(Item(name=f"{shape}_{number}", shape=shape, size=size, rgb=rgb))
    return tuple(items)


def _camera_path(rng: np.random.Generator, moving: bool) -> Floats:
    """Return the positions of the camera [t 3]. The first is always the same."""
    corners = 6 if moving else 2
    azimuth, elevation = np.full(corners, -90.0), np.full(corners, 50.0)
    if moving:
        azimuth[1:] += rng.uniform(-50, 50, corners - 1)
        elevation[1:] += rng.uniform(-12, 12, corners - 1)
    times = np.linspace(0, NUM_FRAMES - 1, corners)
    frames = np.arange(NUM_FRAMES)
    angle, height = (
        np.radians(np.interp(frames, times, values)) for values in (azimuth, elevation)
    )
    flat = np.cos(height)
    return 10.5 * np.stack([flat * np.cos(angle), flat * np.sin(angle), np.sin(height)], axis=1)


class _Table:
    """The objects while the actions are drawn, and the frames that were computed so far."""

    def __init__(self, items: tuple[Item, ...], rng: np.random.Generator) -> None:
        """Place all objects at random."""
        self.items, self._rng = items, rng
        self.movements: list[Movement] = []
        count, self._started, self._first = len(items), False, 0
        self._places = np.full((count, 2), np.inf)
        self._cone: list[int | None] = [None] * count  # the cone that covers each object directly
        # Large objects are placed first, because small objects also fit between them.
        for i in sorted(range(count), key=lambda i: -items[i].radius):
            place = self._free_place(i, slide=False)
            while place is None:
                place = self._free_place(i, slide=False)
            self._places[i] = place
        self.positions = np.zeros((NUM_FRAMES, count, 3))
        self.positions[:, :, :2] = self._places
        self.yaws_rad = np.tile(rng.uniform(0, 2 * np.pi, count), (NUM_FRAMES, 1))
        self.covered = np.zeros((NUM_FRAMES, count), bool)
        self._started = True

    def act(self, first: int) -> None:
        """Draw the actions of the slot that starts at frame `first`.

        A slot has `SLOT_FRAMES` frames. These and all later frames are updated.
        """
        self._first = first
        rng, busy = self._rng, set()
        uncovered = [i for i, cone in enumerate(self._cone) if cone is None]
        moved = 0
        for i in map(int, rng.permutation(uncovered)):
            if moved == MOVERS or i in busy:
                continue
            start = first + int(rng.integers(0, 6))
            frames = np.arange(start, start + int(rng.integers(18, 24)))
            moved += self._move(i, self._choose(i, busy), frames, busy)

    def _choose(self, i: int, busy: set[int]) -> tuple[str, int | None]:
        """Draw an action of object `i`, and the index of the object that it covers, or None.

        `busy` contains the indices of the objects that already have an action in this slot.
        """
        rng, item = self._rng, self.items[i]
        filled = i in self._cone
        fitting = [
            j
            for j, other in enumerate(self.items)
            if j != i
            and j not in busy
            and self._cone[j] is None
            and item.covers(other)
            and self._is_free(i, self._places[j : j + 1], {i, j})
        ]
        if fitting and not filled and rng.random() < 0.6:
            wanted = 0 if 0 in fitting and rng.random() < 0.5 else int(rng.choice(fitting))
            return "contain", wanted
        actions = ["slide", "pick_place"]
        if filled:
            actions = ["slide", "slide", "pick_place"]
        elif item.shape in ("cube", "cylinder", "snitch"):
            actions.append("rotate")
        return str(rng.choice(actions)), None

    def _move(
        self, i: int, choice: tuple[str, int | None], frames: NDArray[np.int64], busy: set[int]
    ) -> bool:
        """Move object `i` if there is a place for it, and return whether there was one.

        The indices of all objects that have a part in this action are added to `busy`.
        """
        action, target = choice
        if action == "rotate":
            last = int(frames[-1])
            self.yaws_rad[frames, i] += self._rng.uniform(np.pi / 2, np.pi) * _smooth(len(frames))
            self.yaws_rad[last:, i] = self.yaws_rad[last, i]
        else:
            place = None if target is None else self._places[target]
            if place is None:
                place = self._free_place(i, slide=action == "slide")
            if place is None:
                return False
            if action == "slide":
                self._slide(i, place.copy(), frames)
            else:
                busy.update(j for j, cone in enumerate(self._cone) if cone == i)
                self._carry(i, place.copy(), frames)
        if target is not None:
            self._cone[target] = i
            self.covered[frames[-1] :, [target, *self._inside(target)]] = True
            busy.add(target)
        self.movements.append(
            Movement(
                item=self.items[i].name,
                action=action,
                covered=None if target is None else self.items[target].name,
                first=int(frames[0]),
                last=int(frames[-1]),
            )
        )
        busy.add(i)
        return True

    def _slide(self, i: int, place: Floats, frames: NDArray[np.int64]) -> None:
        """Move an object and all objects that it covers along the table."""
        path = self._places[i] + _smooth(len(frames))[:, None] * (place - self._places[i])
        for j in (i, *self._inside(i)):
            self._set_path(j, path, frames)

    def _carry(self, i: int, place: Floats, frames: NDArray[np.int64]) -> None:
        """Lift an object, carry it to a place and lower it there; what it covered stays."""
        share = np.linspace(0, 1, len(frames))
        across = np.clip(3 * share - 1, 0, 1)[:, None]
        self._set_path(i, self._places[i] + across * (place - self._places[i]), frames)
        self.positions[frames, i, 2] = LIFT * np.clip(3 * np.minimum(share, 1 - share), 0, 1)
        for j in [j for j, cone in enumerate(self._cone) if cone == i]:
            self._cone[j] = None
            self.covered[frames[1] :, j] = False

    def _set_path(self, i: int, path: Floats, frames: NDArray[np.int64]) -> None:
        """Set the path of an object in some frames, and its place in all later frames."""
        self.positions[frames, i, :2] = path
        self.positions[frames[-1] :, i, :2] = path[-1]
        self._places[i] = path[-1]

    def _inside(self, i: int) -> list[int]:
        """Return the indices of the objects that object `i` covers, also those in covered cones."""
        direct = [j for j, cone in enumerate(self._cone) if cone == i]
        return [k for j in direct for k in (j, *self._inside(j))]

    def _free_place(self, i: int, slide: bool) -> Floats | None:
        """Return a random place without an object, or None if no place was found.

        For a slide, the straight way to the place is also free. Objects that the moved object
        covers move along in a slide, and stay in all other actions.
        """
        ignored = {i, *self._inside(i)} if slide else {i}
        for place in self._rng.uniform(-LARGEST, LARGEST, (TRIES, 2)):
            way = place[None]
            if slide:
                way = self._places[i] + np.linspace(0, 1, 25)[:, None] * (place - self._places[i])
            if self._is_free(i, way, ignored):
                return place
        return None

    def _is_free(self, i: int, way: Floats, ignored: set[int]) -> bool:
        """Return whether an object has enough space at all points [p 2] of a way.

        The way must also keep its distance from the paths that other objects take in the current
        slot of `SLOT_FRAMES` frames.
        """
        others = [
            j
            for j, cone in enumerate(self._cone)
            if j not in ignored and (cone is None or cone == i)
        ]
        apart = np.array([self.items[i].radius + self.items[j].radius + GAP for j in others])
        paths = self._places[None]
        if self._started:
            paths = self.positions[self._first : self._first + SLOT_FRAMES : 3, :, :2]
        distance = np.linalg.norm(way[:, None, None] - paths[:, others], axis=-1)  # p t o
        return bool((distance >= apart).all())


def _smooth(count: int) -> Floats:
    """Return values from 0 to 1 that begin and end slowly, [count]."""
    share = np.linspace(0, 1, count)
    return share**2 * (3 - 2 * share)
