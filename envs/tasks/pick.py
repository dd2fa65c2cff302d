"""The pick task of PixMC, the benchmark of MVP (arXiv 2203.06173): grasp a cube and lift it."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm
from ..geometry import Floats, points_on, turned
from ..simulation.scene import Box, Paint, Scene, Space, Start
from ..simulation.simulator import Measurable
from .room import BASE_POSITION_M, BASE_YAW_RAD, FLOOR_BOX, LIGHTING
from .task import ArmTask, Measured, draw_hand, draw_joints, tool_palm_and_tips

CUBE, TABLE = "cube", "table"
TABLE_HEIGHT_M = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class PickTask(ArmTask):
    """The task of lifting a cube to a goal height and keeping it there.

    Attributes, in addition to those of `ArmTask`:
        cube_size_m: edge length of the cube, m.
        cube_mass_kg: mass of the cube, kg.
        cube_center_m: [2] mean position (x, y) of the cube, m. The position is drawn uniformly from
            a rectangle around this point.
        cube_spread_m: [2] half edge lengths of this rectangle, m.
        cube_yaw_rad: the yaw of the cube is drawn uniformly within plus or minus this value, rad.
        goal_height_m: goal height of the cube's centre above the floor, m.
        goal_tolerance_m: maximum difference from the goal height at which the task succeeds, m.
        fall_m: the episode fails when the cube is this far below its height on the table, m.
        reach_margin_m: distance of a fingertip from the cube below which the reach reward does not
            increase, m.
        lifted_m: the reward counts the cube as lifted when it is this far above its height on the
            table, m.
        goal_bonus_m: maximum difference from the goal height at which the reward has a bonus, m.
        name: name of the task.
        things: names of the boxes and fixtures that `displace` moves together.
    """

    cube_size_m: float
    cube_mass_kg: float
    cube_center_m: tuple[float, float] = (0.5, 0.0)
    cube_spread_m: tuple[float, float] = (0.1, 0.2)
    cube_yaw_rad: float
    goal_height_m: float = 0.8
    goal_tolerance_m: float = 0.1
    fall_m: float
    reach_margin_m: float
    lifted_m: float
    goal_bonus_m: float

    name: str = "pick"
    things: tuple[str, ...] = (CUBE,)

    def scene(self, arm: Arm) -> Scene:
        """Return the scene: table, cube, floor, cameras and lights."""
        edge = self.cube_size_m
        return Scene(
            base_position_m=BASE_POSITION_M,
            base_yaw_rad=BASE_YAW_RAD,
            boxes=(
                FLOOR_BOX,
                Box(
                    name=TABLE,
                    size_m=(0.6, 1.0, TABLE_HEIGHT_M),
                    position_m=(0.5, 0.0, TABLE_HEIGHT_M / 2),
                    paint=Paint(rgb=(0.80, 0.76, 0.70)),
                ),
                Box(
                    name=CUBE,
                    size_m=(edge, edge, edge),
                    position_m=(*self.cube_center_m, self.cube_rest_height_m),
                    paint=Paint(rgb=(0.0, 0.447, 0.741)),
                    mass_kg=self.cube_mass_kg,
                ),
            ),
            cameras=self.cameras,
            viewer=self.viewer,
            lighting=LIGHTING,
            timestep_s=self.timestep_s,
        )

    @property
    def cube_rest_height_m(self) -> float:
        """Height of the cube's centre above the floor when the cube is on the table, m."""
        return TABLE_HEIGHT_M + self.cube_size_m / 2

    def sample_start(self, arm: Arm, rng: np.random.Generator) -> Start:
        """Draw the positions of arm and hand, and the position and yaw of the cube."""
        joints = draw_joints(arm, rng, self.start_arm_rad, self.arm_noise_rad)
        place = np.array(self.cube_center_m) + rng.uniform(-1.0, 1.0, 2) * self.cube_spread_m
        yaw = rng.uniform(-self.cube_yaw_rad, self.cube_yaw_rad)
        pose = np.array(
            [*place, self.cube_rest_height_m, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
        )
        hand = draw_hand(arm, rng, self.start_hand, self.hand_noise)
        return Start(arm_rad=joints, hand=hand, box_poses={CUBE: pose})

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Areas for distractors: the top of the table."""
        return (Space(center_m=(0.5, 0.0, TABLE_HEIGHT_M), half_m=(0.28, 0.46)),)

    def middle(self, start: Start) -> Floats:
        """Return the cube's position [3] in the world frame, m."""
        return start.box_poses[CUBE][:3]

    def vary(self, start: Start, scale: float, shift_m: Floats, yaw_rad: float) -> Start:
        """Return the start with the cube resized, moved and rotated.

        The cube stays on the table if `shift_m` is horizontal.

        Args:
            start: the start.
            scale: factor for the edge length of the cube.
            shift_m: [3] shift of the cube, m.
            yaw_rad: rotation of the cube about the vertical, rad.
        """
        pose, edge = start.box_poses[CUBE].copy(), scale * self.cube_size_m
        pose[:3] += shift_m
        pose[2] += (edge - self.cube_size_m) / 2
        pose[3:] = turned(pose[3:], yaw_rad)
        sizes = {**start.box_sizes_m, CUBE: (edge, edge, edge)}
        return replace(start, box_poses={**start.box_poses, CUBE: pose}, box_sizes_m=sizes)

    def measure(self, simulator: Measurable, arm: Arm) -> Measured:
        """Return the positions of cube, tool, palm and fingertips.

        Also returned are the orientations of cube and tool, the vectors from fingertips to cube,
        and the height of the goal above the cube's centre.
        """
        tips = arm.fingertips
        bodies, offsets = tool_palm_and_tips(
            arm.hand_body, arm.tool_offset_m, arm.palm_offset_m, tips
        )
        poses = simulator.bodies((CUBE, *bodies))
        points = points_on(poses[..., 1:, :], offsets)
        cube = poses[..., 0, :3]
        to_cube = cube[..., None, :] - points[..., 2:, :]
        measured = {
            "cube_position": cube,
            "cube_quaternion": poses[..., 0, 3:],
            "tool_position": points[..., 0, :],
            "tool_quaternion": poses[..., 1, 3:],
            "palm_position": points[..., 1, :],
            "fingertips_to_cube": to_cube,
            "height_left": self.goal_height_m - cube[..., 2],
        }
        for index, tip in enumerate(tips):
            measured[f"{tip.name}_position"] = points[..., 2 + index, :]
            measured[f"{tip.name}_to_cube"] = to_cube[..., index, :]
        return measured

    def sizes(self, arm: Arm) -> dict[str, int]:
        """Return the number of elements of each quantity that `state` can contain, by name."""
        sizes = {"cube_position": 3, "cube_quaternion": 4, "tool_position": 3}
        sizes |= {"tool_quaternion": 4, "palm_position": 3, "height_left": 1}
        for tip in arm.fingertips:
            sizes |= {f"{tip.name}_position": 3, f"{tip.name}_to_cube": 3}
        return sizes

    def rewards(self, measured: Measured, action: Floats) -> dict[str, Floats]:
        """Return the reward terms of one control step, by name; the weights are those of PixMC."""
        distances = np.sqrt(np.square(measured["fingertips_to_cube"]).sum(axis=-1))
        height_m = measured["cube_position"][..., 2]
        lifted = height_m - self.cube_rest_height_m > self.lifted_m
        to_goal_m = np.abs(self.goal_height_m - height_m)
        near = np.array(self.reach_m) / (0.04 + np.maximum(distances, self.reach_margin_m))
        return {
            "reach": near.sum(axis=-1),
            "lift": np.where(lifted, 2.0, 0.0),
            "height": lifted * 1.28 / (0.04 + to_goal_m),
            "goal": np.where(to_goal_m <= self.goal_bonus_m, 2.0, 0.0),
            "action": -0.01 * np.square(action).sum(axis=-1),
        }

    def at_goal(self, measured: Measured) -> NDArray[np.bool_]:
        """Return whether the cube is within the tolerance of the goal height."""
        height_m = measured["cube_position"][..., 2]
        return np.abs(height_m - self.goal_height_m) <= self.goal_tolerance_m

    def failed(self, measured: Measured) -> NDArray[np.bool_]:
        """Return whether the cube has fallen off the table."""
        return measured["cube_position"][..., 2] < self.cube_rest_height_m - self.fall_m
