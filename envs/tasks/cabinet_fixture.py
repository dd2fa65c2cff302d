"""The cabinet of the cabinet task, and the four boxes in its drawer.

The sizes are those of PixMC, except that the floor of the drawers is thicker. The model is our own
and consists of primitive shapes: carcass, drawers, doors and handles. PixMC's handle is a mesh of
four pieces. Here a handle is a bar on two posts. A gripper can pinch the bar, and fingers can hook
over it.
"""

import math

import numpy as np

from ..geometry import Vector
from ..simulation.scene import Box, Fixture, Paint, Part, PassiveJoint, Shape

CABINET, DRAWER = "cabinet", "drawer"
PROP_NAMES = ("prop_1", "prop_2", "prop_3", "prop_4")

# The point of the handle from which PixMC measures distances, in the drawer's frame.
HANDLE_M = (0.305, 0.0, 0.01)
# Position of the top drawer's frame in the cabinet's frame, and the drawer's travel.
DRAWER_M = (0.0515, 0.0, 0.3172)
DRAWER_TRAVEL_M = 0.4

_CARCASS_M = (0.63, 0.762, 0.783)
_WALL_M = 0.022
_FRONT_M = (0.027, 0.764, 0.129)
# The faces of front and handle in the drawer's frame: the handle protrudes by 39 mm.
_FRONT_FACE_M, _HANDLE_FACE_M = 0.273, 0.312
_FRONT_HEIGHT_M = 0.009  # centre of front and handle in the drawer's frame
_CARCASS_FRONT_M = DRAWER_M[0] + _FRONT_FACE_M - _FRONT_M[0]
_TRAY_M = (0.51, 0.71, 0.09)
_TRAY_WALL_M = 0.015
# PixMC's tray has a floor of 5 mm; with 10 mm, objects never penetrate it.
_TRAY_FLOOR_M = 0.01
_BAR_M = (0.012, 0.167, 0.024)
_POST_M = 0.02

PROP_EDGE_M, _PROP_PITCH_M, _PROP_MASS_KG = 0.08, 0.09, 0.205
# The centre of the four props, in the drawer's frame.
_PROPS_MIDDLE_M = (0.0, 0.0)

_PAINTS = {
    "cabinet_body": Paint(rgb=(0.74, 0.69, 0.60)),
    "cabinet_front": Paint(rgb=(0.87, 0.81, 0.68)),
    "cabinet_top": Paint(rgb=(0.22, 0.38, 0.62)),
    "cabinet_handle": Paint(rgb=(0.20, 0.20, 0.22)),
}
_PROP_PAINT = Paint(rgb=(0.80, 0.36, 0.22))


def cabinet(position_m: Vector) -> Fixture:
    """Return the closed cabinet with its centre at a position [3] in the world frame, m."""
    return Fixture(name=CABINET, position_m=position_m, parts=_parts(), paints=_PAINTS)


def props(cabinet_m: Vector) -> tuple[Box, ...]:
    """Return the four boxes in the drawer of a cabinet with its centre at `cabinet_m` [3]."""
    return tuple(
        Box(
            name=name,
            size_m=(PROP_EDGE_M,) * 3,
            position_m=position,
            paint=_PROP_PAINT,
            paint_name="prop",
            mass_kg=_PROP_MASS_KG,
        )
        for name, position in prop_positions_m(cabinet_m).items()
    )


def prop_positions_m(cabinet_m: tuple[float, ...]) -> dict[str, Vector]:
    """Return the positions [3], m, of the four boxes on the floor of the closed drawer, by name."""
    x, y, z = np.add(cabinet_m, DRAWER_M)
    height = z + _tray_floor_m() + _TRAY_FLOOR_M / 2 + PROP_EDGE_M / 2
    half = _PROP_PITCH_M / 2
    middle_x, middle_y = x + _PROPS_MIDDLE_M[0], y + _PROPS_MIDDLE_M[1]
    corners = [(a * half, b * half) for a in (-1, 1) for b in (-1, 1)]
    return {
        name: (float(middle_x + a), float(middle_y + b), float(height))
        for name, (a, b) in zip(PROP_NAMES, corners, strict=True)
    }


def _tray_floor_m() -> float:
    """Return the height of the centre of the drawer's floor in the drawer's frame, m."""
    return _FRONT_HEIGHT_M - _FRONT_M[2] / 2 + _TRAY_FLOOR_M / 2


def _parts() -> tuple[Part, ...]:
    """Return the bodies of the cabinet: carcass, two drawers and two doors."""
    # Gaps of 3 mm between the fronts.
    below_m = DRAWER_M[2] - _FRONT_M[2] - 0.003
    doors_top_m = below_m + _FRONT_HEIGHT_M - _FRONT_M[2] / 2 - 0.003
    return (
        Part(name="carcass", position_m=(0.0, 0.0, 0.0), shapes=_carcass()),
        _drawer(DRAWER, DRAWER_M[2], grippable=True),
        _drawer("drawer_below", below_m, grippable=False),
        _door("door_left", 1.0, doors_top_m),
        _door("door_right", -1.0, doors_top_m),
    )


def _carcass() -> tuple[Shape, ...]:
    depth, width, height = _CARCASS_M
    x = _CARCASS_FRONT_M - depth / 2
    side_y, lid_z = (width - _WALL_M) / 2, (height - _WALL_M) / 2

    def wall(size_m: Vector, position_m: Vector, paint: str = "cabinet_body") -> Shape:
        return Shape(size_m=size_m, position_m=position_m, paint=paint)

    return (
        wall((depth, _WALL_M, height - 2 * _WALL_M), (x, side_y, 0.0)),
        wall((depth, _WALL_M, height - 2 * _WALL_M), (x, -side_y, 0.0)),
        wall((_WALL_M, width - 2 * _WALL_M, height), (x - (depth - _WALL_M) / 2, 0.0, 0.0)),
        wall((depth, width, _WALL_M), (x, 0.0, lid_z), "cabinet_top"),
        wall((depth, width, _WALL_M), (x, 0.0, -lid_z)),
        # A plinth, so that a raised cabinet does not seem to float.
        Shape(
            size_m=(depth - 0.06, width - 0.06, 0.12),
            position_m=(x - 0.02, 0.0, -height / 2 - 0.06),
            paint="cabinet_body",
            solid=False,
        ),
    )


def _drawer(name: str, height_m: float, *, grippable: bool) -> Part:
    """Return a drawer with front, tray and handle; the mass is 5.3 kg.

    Args:
        name: name of the drawer.
        height_m: height of the drawer's origin in the cabinet's frame, m.
        grippable: whether the handle has torsional friction, so that it does not rotate in a grasp.
    """
    length, width, wall_height = _TRAY_M
    x = _FRONT_FACE_M - _FRONT_M[0] - length / 2
    floor_z = _tray_floor_m()
    wall_z = floor_z + (_TRAY_FLOOR_M + wall_height) / 2
    wall_y = (width - _TRAY_WALL_M) / 2

    def board(size_m: Vector, position_m: Vector, mass_kg: float) -> Shape:
        return Shape(size_m=size_m, position_m=position_m, mass_kg=mass_kg, paint="cabinet_body")

    return Part(
        name=name,
        position_m=(DRAWER_M[0], DRAWER_M[1], height_m),
        joint=PassiveJoint(
            kind="slide",
            axis=(1.0, 0.0, 0.0),
            lower=0.0,
            upper=DRAWER_TRAVEL_M,
            damping=10.0,
            armature=0.005,
            friction=0.01,
        ),
        shapes=(
            Shape(
                size_m=_FRONT_M,
                position_m=(_FRONT_FACE_M - _FRONT_M[0] / 2, 0.0, _FRONT_HEIGHT_M),
                mass_kg=2.5,
                paint="cabinet_front",
            ),
            board((length, width, _TRAY_FLOOR_M), (x, 0.0, floor_z), 1.55),
            board((length, _TRAY_WALL_M, wall_height), (x, wall_y, wall_z), 0.35),
            board((length, _TRAY_WALL_M, wall_height), (x, -wall_y, wall_z), 0.35),
            board(
                (_TRAY_WALL_M, width - 2 * _TRAY_WALL_M, wall_height),
                (x - (length - _TRAY_WALL_M) / 2, 0.0, wall_z),
                0.4,
            ),
            *_handle((_FRONT_FACE_M, 0.0, _FRONT_HEIGHT_M), upright=False, grippable=grippable),
        ),
    )


def _door(name: str, side: float, top_m: float) -> Part:
    """Return a door.

    Args:
        name: name of the door.
        side: edge with the hinge: 1 for the left edge (towards +y), -1 for the right edge.
        top_m: height of the upper edge in the cabinet's frame, m.
    """
    thickness, width, _ = _FRONT_M
    door_width, bottom_m = width / 2 - 0.002, -_CARCASS_M[2] / 2
    return Part(
        name=name,
        position_m=(_CARCASS_FRONT_M, side * width / 2, (top_m + bottom_m) / 2),
        joint=PassiveJoint(
            kind="hinge",
            axis=(0.0, 0.0, side),
            lower=0.0,
            upper=math.pi / 2,
            damping=10.0,
            armature=0.005,
            friction=0.01,
        ),
        shapes=(
            Shape(
                size_m=(thickness, door_width, top_m - bottom_m),
                position_m=(thickness / 2, -side * door_width / 2, 0.0),
                mass_kg=3.0,
                paint="cabinet_front",
            ),
            *_handle((thickness, -side * (door_width - 0.04), 0.08), upright=True, grippable=False),
        ),
    )


def _handle(foot_m: Vector, *, upright: bool, grippable: bool) -> tuple[Shape, ...]:
    """Return a handle of 0.15 kg: a bar on two posts.

    Args:
        foot_m: [3] midpoint between the two posts on the front of the drawer or door, in the frame
            of this body, m.
        upright: whether the bar is vertical; otherwise it is horizontal.
        grippable: whether the bar has torsional friction, so that it does not rotate in a grasp.
    """
    x, y, z = foot_m
    thickness, length, height = _BAR_M
    proud = _HANDLE_FACE_M - _FRONT_FACE_M
    post = proud - thickness
    ends = (length - _POST_M) / 2

    def piece(size_m: Vector, along_m: float, position_x_m: float, mass_kg: float) -> Shape:
        depth, wide, tall = size_m
        return Shape(
            size_m=(depth, tall, wide) if upright else size_m,
            position_m=(position_x_m, y, z + along_m)
            if upright
            else (position_x_m, y + along_m, z),
            mass_kg=mass_kg,
            paint="cabinet_handle",
            grippable=grippable,
        )

    return (
        piece(_BAR_M, 0.0, x + proud - thickness / 2, 0.11),
        piece((post, _POST_M, height), ends, x + post / 2, 0.02),
        piece((post, _POST_M, height), -ends, x + post / 2, 0.02),
    )
