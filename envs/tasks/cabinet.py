"""Cabinet: pull a drawer open by its handle; the task of MVP's PixMC suite (arXiv 2203.06173).

The cabinet is our own, of primitive shapes, with PixMC's sizes: carcass, top drawer, its joint and
its handle. PixMC's handle is a mesh of four pieces; this one is a bar on two posts, so that it can
be pinched and hooked.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm
from ..geometry import Floats, Vector, points_on
from ..simulation.scene import (
    Box,
    Camera,
    Fixture,
    Paint,
    Part,
    PassiveJoint,
    Scene,
    Shape,
    Space,
    Start,
)
from ..simulation.simulator import Simulator
from .room import BASE_POSITION_M, BASE_YAW_RAD, FLOOR_BOX, LIGHTING
from .task import Measured, draw_hand, draw_joints

CABINET, DRAWER = "cabinet", "drawer"
PROP_NAMES = ("prop_1", "prop_2", "prop_3", "prop_4")

# The point of the handle that PixMC measures to, in the drawer's frame.
HANDLE_M = (0.305, 0.0, 0.01)
# Where the top drawer's frame is in the cabinet's, and how far it can be pulled.
DRAWER_M = (0.0515, 0.0, 0.3172)
DRAWER_TRAVEL_M = 0.4

_CARCASS_M = (0.63, 0.762, 0.783)
_WALL_M = 0.022
_FRONT_M = (0.027, 0.764, 0.129)
# The faces of front and handle in the drawer's frame: the handle stands 39 mm proud.
_FRONT_FACE_M, _HANDLE_FACE_M = 0.273, 0.312
_FRONT_HEIGHT_M = 0.009  # of the middle of the front, and of the handle, in the drawer's frame
_CARCASS_FRONT_M = DRAWER_M[0] + _FRONT_FACE_M - _FRONT_M[0]
_TRAY_M = (0.51, 0.71, 0.09)
_TRAY_WALL_M = 0.015
# PixMC's tray has a floor of 5 mm; what lies on one of 10 mm is never pressed through.
_TRAY_FLOOR_M = 0.01
_BAR_M = (0.012, 0.167, 0.024)
_POST_M = 0.02

_PROP_EDGE_M, _PROP_PITCH_M, _PROP_MASS_KG = 0.08, 0.09, 0.205
# The middle of the four props, in the drawer's frame.
_PROPS_MIDDLE_M = (0.0, 0.0)

# The far light comes from the robot's side, so that the fronts are bright.
_LIGHT_DIRECTION = (-0.55, 0.45, -1.0)

_PAINTS = {
    "cabinet_body": Paint(rgb=(0.74, 0.69, 0.60)),
    "cabinet_front": Paint(rgb=(0.87, 0.81, 0.68)),
    "cabinet_top": Paint(rgb=(0.22, 0.38, 0.62)),
    "cabinet_handle": Paint(rgb=(0.20, 0.20, 0.22)),
}
_PROP_PAINT = Paint(rgb=(0.80, 0.36, 0.22))


@dataclass(frozen=True, kw_only=True, slots=True)
class CabinetTask:
    """Open the top drawer and keep it open.

    Attributes:
        start_arm_rad: joints of the arm at the start.
        start_hand: positions of the hand's servos at the start, rad or m.
        arm_noise_rad: the arm starts within this around `start_arm_rad`, evenly.
        hand_noise: the hand starts within this around `start_hand`, evenly, within its limits.
        cabinet_m: middle of the box from which the cabinet's place is drawn.
        cabinet_spread_m: half the edges of that box.
        goal_opening_m: how far the drawer must be open.
        goal_distance_m: no fingertip may be farther from the handle than this; None if it need
            not be held.
        hold_s: how long success must last without a break.
        reach_m: how much each fingertip's nearness is worth, in the order of the arm's fingertips.
        reach_margin_m: nearer than this is not worth more.
        around_bonus: what it is worth when one fingertip is above the handle and one below.
        held_weight: what a metre of opening is worth more when, besides, all are near the handle.
        state: what of `measure` is in the privileged state.
        cameras: the cameras that policies may use.
        viewer: the camera for people.
        timestep_s: of the physics.
        name: of the task.
        things: what it is about.
    """

    start_arm_rad: tuple[float, ...]
    start_hand: tuple[float, ...]
    arm_noise_rad: float
    hand_noise: float
    cabinet_m: Vector = (0.05, 0.0, 0.45)
    cabinet_spread_m: Vector = (0.075, 0.075, 0.05)
    goal_opening_m: float = 0.32
    goal_distance_m: float | None
    hold_s: float = 1 / 6
    reach_m: tuple[float, ...]
    reach_margin_m: float = 0.008
    around_bonus: float
    held_weight: float
    state: tuple[str, ...]
    cameras: tuple[Camera, ...]
    viewer: Camera
    timestep_s: float

    name: str = "cabinet"
    things: tuple[str, ...] = (CABINET, *PROP_NAMES)

    def scene(self, arm: Arm) -> Scene:
        """Describe cabinet, props, floor, cameras and light around an arm."""
        return Scene(
            base_position_m=BASE_POSITION_M,
            base_yaw_rad=BASE_YAW_RAD,
            boxes=(
                FLOOR_BOX,
                *(
                    Box(
                        name=name,
                        size_m=(_PROP_EDGE_M,) * 3,
                        position_m=position,
                        paint=_PROP_PAINT,
                        paint_name="prop",
                        mass_kg=_PROP_MASS_KG,
                    )
                    for name, position in _prop_positions_m(self.cabinet_m).items()
                ),
            ),
            fixtures=(
                Fixture(name=CABINET, position_m=self.cabinet_m, parts=_parts(), paints=_PAINTS),
            ),
            cameras=self.cameras,
            viewer=self.viewer,
            lighting=replace(LIGHTING, direction=_LIGHT_DIRECTION),
            timestep_s=self.timestep_s,
        )

    def sample_start(self, arm: Arm, rng: np.random.Generator) -> Start:
        """Draw joints, and the cabinet's place; the props lie in the closed drawer."""
        joints = draw_joints(arm, rng, self.start_arm_rad, self.arm_noise_rad)
        place = np.array(self.cabinet_m) + rng.uniform(-1.0, 1.0, 3) * self.cabinet_spread_m
        hand = draw_hand(arm, rng, self.start_hand, self.hand_noise)
        props = {
            name: np.array([*position, 1.0, 0.0, 0.0, 0.0])
            for name, position in _prop_positions_m(tuple(place)).items()
        }
        return Start(
            arm_rad=joints, hand=hand, box_poses=props, fixture_positions_m={CABINET: place}
        )

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Give the floor before the cabinet, to either side of the way."""
        return tuple(
            Space(center_m=(0.62, side * 0.5, 0.0), half_m=(0.2, 0.28)) for side in (1, -1)
        )

    def middle(self, start: Start) -> Floats:
        """Give where the cabinet is."""
        return start.fixture_positions_m[CABINET]

    def vary(self, start: Start, scale: float, shift_m: Floats, yaw_rad: float) -> Start:
        """Move the cabinet with what is in it, and resize the props; a cabinet is not turned."""
        del yaw_rad
        edge = scale * _PROP_EDGE_M
        lower = np.array([0.0, 0.0, (edge - _PROP_EDGE_M) / 2])
        poses, sizes = dict(start.box_poses), dict(start.box_sizes_m)
        for name in PROP_NAMES:
            poses[name] = poses[name].copy()
            poses[name][:3] += shift_m + lower
            sizes[name] = (edge, edge, edge)
        places = {CABINET: start.fixture_positions_m[CABINET] + shift_m}
        return replace(start, box_poses=poses, box_sizes_m=sizes, fixture_positions_m=places)

    def measure(self, simulator: Simulator, arm: Arm) -> Measured:
        """Ask the simulator for drawer, handle, tool, palm and fingertips."""
        tips = arm.fingertips
        bodies = (DRAWER, arm.hand_body, arm.hand_body, *(tip.body for tip in tips))
        poses = simulator.bodies(bodies)
        offsets = np.array(
            [HANDLE_M, arm.tool_offset_m, arm.palm_offset_m, *(tip.offset_m for tip in tips)]
        )
        points = points_on(poses, offsets)
        handle = points[..., 0, :]
        to_handle = handle[..., None, :] - points[..., 3:, :]
        opening = simulator.joints((DRAWER,))[0][..., 0]
        measured = {
            "handle_position": handle,
            "opening": opening,
            "opening_left": DRAWER_TRAVEL_M - opening,
            "tool_position": points[..., 1, :],
            "tool_quaternion": poses[..., 1, 3:],
            "palm_position": points[..., 2, :],
            "fingertips_to_handle": to_handle,
        }
        for index, tip in enumerate(tips):
            measured[f"{tip.name}_position"] = points[..., 3 + index, :]
            measured[f"{tip.name}_to_handle"] = to_handle[..., index, :]
        return measured

    def sizes(self, arm: Arm) -> dict[str, int]:
        """Give how many numbers each measured quantity has."""
        sizes = {"handle_position": 3, "opening": 1, "opening_left": 1, "tool_position": 3}
        sizes |= {"tool_quaternion": 4, "palm_position": 3}
        for tip in arm.fingertips:
            sizes |= {f"{tip.name}_position": 3, f"{tip.name}_to_handle": 3}
        return sizes

    def rewards(self, measured: Measured, action: Floats) -> dict[str, Floats]:
        """Give the reward's named terms of one control step, with PixMC's weights."""
        to_handle, opening = measured["fingertips_to_handle"], measured["opening"]
        distances = np.linalg.norm(to_handle, axis=-1)
        near = np.array(self.reach_m) / (0.016 + np.maximum(distances, self.reach_margin_m))
        upwards = to_handle[..., 2]
        around = (upwards.min(axis=-1) < 0.0) & (upwards.max(axis=-1) > 0.0)
        held = around & (distances < 0.04).all(axis=-1)
        return {
            "reach": near.sum(axis=-1),
            "around": np.where(around, self.around_bonus, 0.0),
            "ajar": np.where(opening > 0.01, 1.0, 0.0),
            "opening": 6.0 * opening,
            "held": np.where(held, self.held_weight * opening, 0.0),
            "goal": np.where(opening >= 0.3, 1.0, 0.0),
            "action": -0.01 * np.square(action).sum(axis=-1),
        }

    def at_goal(self, measured: Measured) -> NDArray[np.bool_]:
        """Say whether the drawer is open now and, where that counts, the hand at its handle."""
        opened = np.asarray(measured["opening"] >= self.goal_opening_m)
        if self.goal_distance_m is None:
            return opened
        distances = np.linalg.norm(measured["fingertips_to_handle"], axis=-1)
        return opened & (distances < self.goal_distance_m).all(axis=-1)

    def failed(self, measured: Measured) -> NDArray[np.bool_]:
        """Say no: what has been done wrong can always be made good."""
        return np.zeros(np.shape(measured["opening"]), dtype=np.bool_)


def _prop_positions_m(cabinet_m: tuple[float, ...]) -> dict[str, Vector]:
    """Place four props on the floor of the closed drawer."""
    x, y, z = np.add(cabinet_m, DRAWER_M)
    height = z + _tray_floor_m() + _TRAY_FLOOR_M / 2 + _PROP_EDGE_M / 2
    half = _PROP_PITCH_M / 2
    middle_x, middle_y = x + _PROPS_MIDDLE_M[0], y + _PROPS_MIDDLE_M[1]
    corners = [(a * half, b * half) for a in (-1, 1) for b in (-1, 1)]
    return {
        name: (float(middle_x + a), float(middle_y + b), float(height))
        for name, (a, b) in zip(PROP_NAMES, corners, strict=True)
    }


def _tray_floor_m() -> float:
    """Give the height of the middle of the tray's floor in the drawer's frame."""
    return _FRONT_HEIGHT_M - _FRONT_M[2] / 2 + _TRAY_FLOOR_M / 2


def _parts() -> tuple[Part, ...]:
    """Give carcass, two drawers and two doors."""
    # 3 mm of air between the fronts.
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
        # A plinth, so that a cabinet that stands high does not seem to float.
        Shape(
            size_m=(depth - 0.06, width - 0.06, 0.12),
            position_m=(x - 0.02, 0.0, -height / 2 - 0.06),
            paint="cabinet_body",
            solid=False,
        ),
    )


def _drawer(name: str, height_m: float, *, grippable: bool) -> Part:
    """Make a drawer of 5.3 kg: front, tray and handle."""
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
    """Make a door that hangs at the left (1, towards +y) or right (-1) edge of the cabinet."""
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
    """Make a bar on two posts, 0.15 kg; `foot_m` is the middle of its feet on the front."""
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
