"""The cabinet task of PixMC, the benchmark of MVP (arXiv 2203.06173): open the top drawer."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toto_robot.moved import moved_names

from ..arms.arm import Arm
from ..geometry import Floats, Vector, points_on
from ..simulation.scene import Scene, Space, Start
from ..simulation.simulator import Measurable
from .cabinet_fixture import (
    CABINET,
    DRAWER,
    DRAWER_TRAVEL_M,
    HANDLE_M,
    PROP_EDGE_M,
    PROP_NAMES,
    cabinet,
    prop_positions_m,
    props,
)
from .room import BASE_POSITION_M, BASE_YAW_RAD, FLOOR_BOX, LIGHTING
from .task import ArmTask, Measured, draw_hand, draw_joints

# The directional light comes from the robot's side, so that the fronts are bright.
_LIGHT_DIRECTION = (-0.55, 0.45, -1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class CabinetTask(ArmTask):
    """The task of opening the top drawer of a cabinet and keeping it open.

    Attributes, in addition to those of `ArmTask`:
        cabinet_m: [3] mean position of the cabinet, m. The position is drawn uniformly from a
            cuboid around this point.
        cabinet_spread_m: [3] half edge lengths of this cuboid, m.
        goal_opening_m: required opening of the drawer, m.
        goal_distance_m: for success, every fingertip must be nearer to the handle than this, m;
            None: the fingertips can be anywhere.
        reach_margin_m: distance of a fingertip from the handle below which the reach reward does
            not increase, m.
        around_bonus: reward if at least one fingertip is above the handle and one is below.
        held_weight: reward per metre of opening if at least one fingertip is above the handle, at
            least one is below, and all fingertips are within 0.04 m of the handle.
        name: name of the task.
        things: names of the boxes and fixtures that `displace` moves together.
    """

    cabinet_m: Vector = (0.05, 0.0, 0.45)
    cabinet_spread_m: Vector = (0.075, 0.075, 0.05)
    goal_opening_m: float = 0.32
    goal_distance_m: float | None
    reach_margin_m: float = 0.008
    around_bonus: float
    held_weight: float

    name: str = "cabinet"
    things: tuple[str, ...] = (CABINET, *PROP_NAMES)

    def scene(self, arm: Arm) -> Scene:
        """Return the scene: the cabinet, the boxes in its drawer, floor, cameras and lights."""
        return Scene(
            base_position_m=BASE_POSITION_M,
            base_yaw_rad=BASE_YAW_RAD,
            boxes=(FLOOR_BOX, *props(self.cabinet_m)),
            fixtures=(cabinet(self.cabinet_m),),
            cameras=self.cameras,
            viewer=self.viewer,
            lighting=replace(LIGHTING, direction=_LIGHT_DIRECTION),
            timestep_s=self.timestep_s,
        )

    def sample_start(self, arm: Arm, rng: np.random.Generator) -> Start:
        """Draw the positions of arm, hand and cabinet; the drawer is closed, with boxes in it."""
        joints = draw_joints(arm, rng, self.start_arm_rad, self.arm_noise_rad)
        place = np.array(self.cabinet_m) + rng.uniform(-1.0, 1.0, 3) * self.cabinet_spread_m
        hand = draw_hand(arm, rng, self.start_hand, self.hand_noise)
        prop_poses = {
            name: np.array([*position, 1.0, 0.0, 0.0, 0.0])
            for name, position in prop_positions_m(tuple(place)).items()
        }
        return Start(
            arm_rad=joints, hand=hand, box_poses=prop_poses, fixture_positions_m={CABINET: place}
        )

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Areas for distractors: the floor in front of the cabinet, on both sides of the drawer."""
        return tuple(
            Space(center_m=(0.62, side * 0.5, 0.0), half_m=(0.2, 0.28)) for side in (1, -1)
        )

    def middle(self, start: Start) -> Floats:
        """Return the cabinet's position [3] in the world frame, m."""
        return start.fixture_positions_m[CABINET]

    def vary(self, start: Start, scale: float, shift_m: Floats, yaw_rad: float) -> Start:
        """Return the start with the cabinet moved, and with the boxes in its drawer resized.

        Args:
            start: the start.
            scale: factor for the edge lengths of the boxes in the drawer.
            shift_m: [3] shift of the cabinet with the boxes, m.
            yaw_rad: ignored, because the cabinet always faces the robot.
        """
        del yaw_rad
        edge = scale * PROP_EDGE_M
        lower = np.array([0.0, 0.0, (edge - PROP_EDGE_M) / 2])
        poses, sizes = dict(start.box_poses), dict(start.box_sizes_m)
        for name in PROP_NAMES:
            poses[name] = poses[name].copy()
            poses[name][:3] += shift_m + lower
            sizes[name] = (edge, edge, edge)
        places = {CABINET: start.fixture_positions_m[CABINET] + shift_m}
        return replace(start, box_poses=poses, box_sizes_m=sizes, fixture_positions_m=places)

    def measure(self, simulator: Measurable, arm: Arm) -> Measured:
        """Return the opening of the drawer and the positions of handle, tool, palm and fingertips.

        Also returned are the orientation of the tool, the vectors from fingertips to handle, and
        the distance by which the drawer can still be opened.
        """
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
        """Return the number of elements of each quantity that `state` can contain, by name."""
        sizes = {"handle_position": 3, "opening": 1, "opening_left": 1, "tool_position": 3}
        sizes |= {"tool_quaternion": 4, "palm_position": 3}
        for tip in arm.fingertips:
            sizes |= {f"{tip.name}_position": 3, f"{tip.name}_to_handle": 3}
        return sizes

    def rewards(self, measured: Measured, action: Floats) -> dict[str, Floats]:
        """Return the reward terms of one control step, by name; the weights are those of PixMC."""
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
        """Return whether the drawer is open and, if required, the fingertips are at its handle."""
        opened = np.asarray(measured["opening"] >= self.goal_opening_m)
        if self.goal_distance_m is None:
            return opened
        distances = np.linalg.norm(measured["fingertips_to_handle"], axis=-1)
        return opened & (distances < self.goal_distance_m).all(axis=-1)

    def failed(self, measured: Measured) -> NDArray[np.bool_]:
        """Return False, because the task can succeed at any time of the episode."""
        return np.zeros(np.shape(measured["opening"]), dtype=np.bool_)


__getattr__ = moved_names(__name__, {"DRAWER_M": f"{__package__}.cabinet_fixture:DRAWER_M"})
