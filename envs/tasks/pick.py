"""Pick: grasp a cube on a table and lift it; the task of MVP's PixMC suite (arXiv 2210.03109)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arms import Arm
from ..scene import Box, Camera, Lighting, Paint, Scene
from ..simulator import Simulator

Floats = NDArray[np.float64]

CUBE, TABLE, FLOOR = "cube", "table", "floor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Say how an episode begins: joints (rad), fingers (m from the middle) and cube pose [7]."""

    joint_positions: Floats
    finger_position_m: float
    box_poses: dict[str, Floats]


@dataclass(frozen=True, kw_only=True, slots=True)
class PickState:
    """What the task measures: positions [*b 3], quaternions [*b 4] w first, forces in newtons."""

    cube_position: Floats
    cube_quaternion: Floats
    tool_position: Floats
    tool_quaternion: Floats
    fingertip_positions: Floats  # *b 2 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PickTask:
    """Lift the cube to a height and keep it there.

    Sizes, colours, start ranges, goal and reward weights are PixMC's. Ours: the arm starts with
    its gripper over the table, so that the hand camera normally sees the cube (in PixMC it starts
    beside it), and the cube may be turned.

    Attributes:
        joint_noise_rad: the start is uniform within this around `start_joint_positions`.
        cube_center_m: middle of the square from which the cube's place is drawn (x, y).
        cube_spread_m: half the edges of that square.
        cube_yaw_rad: the cube is turned by up to this to either side.
        goal_height_m: height of the cube's centre above the floor.
        goal_tolerance_m: how far from it still counts as success.
        hold_s: how long success must last without a break.
        fall_m: an episode ends when the cube is lower than its place on the table by this.
    """

    start_joint_positions: tuple[float, ...] = (0.0, -0.22, 0.0, -1.62, 0.0, 1.40, 0.785)
    joint_noise_rad: float = 0.1
    cube_size_m: float = 0.045
    cube_mass_kg: float = 0.0911
    cube_center_m: tuple[float, float] = (0.5, 0.0)
    cube_spread_m: tuple[float, float] = (0.1, 0.2)
    cube_yaw_rad: float = math.pi
    table_height_m: float = 0.4
    goal_height_m: float = 0.8
    goal_tolerance_m: float = 0.1
    hold_s: float = 1 / 6
    fall_m: float = 0.04
    timestep_s: float = 0.002

    name: ClassVar[str] = "pick"
    paints: ClassVar[tuple[str, ...]] = (CUBE, TABLE, FLOOR)
    state_names: ClassVar[tuple[str, ...]] = (
        *(f"cube_position_{axis}" for axis in "xyz"),
        *(f"cube_quaternion_{axis}" for axis in "wxyz"),
        *(f"tool_position_{axis}" for axis in "xyz"),
        *(f"tool_quaternion_{axis}" for axis in "wxyz"),
    )

    def scene(self, arm: Arm) -> Scene:
        """Describe table, cube, floor, cameras and light around an arm."""
        edge = self.cube_size_m
        return Scene(
            base_position_m=(1.0, 0.0, 0.0),
            base_yaw_rad=math.pi,
            boxes=(
                Box(
                    name=FLOOR,
                    size_m=(6.0, 6.0, 0.1),
                    position_m=(0.0, 0.0, -0.05),
                    paint=Paint(rgb=(0.42, 0.46, 0.52), pattern="checker"),
                ),
                Box(
                    name=TABLE,
                    size_m=(0.6, 1.0, self.table_height_m),
                    position_m=(0.5, 0.0, self.table_height_m / 2),
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
            cameras=(
                # PixMC's place on the hand; a little wider than life, so that the cube is
                # normally in the picture at the start.
                Camera(
                    name="hand",
                    body=arm.hand_body,
                    position_m=(0.07, 0.0, 0.04),
                    target_m=(0.05, 0.0, 0.20),
                    up=(1.0, 0.0, 0.0),
                    fov_y_deg=90.0,
                ),
                # As close as the whole workspace and the lift allow: the cube is 7 to 9 pixels
                # wide in a picture of 128, so a token of 8 x 8 pixels can tell where it is.
                Camera(
                    name="front",
                    body=None,
                    position_m=(-0.20, 0.0, 1.15),
                    target_m=(0.57, 0.0, 0.615),
                    up=(0.0, 0.0, 1.0),
                    fov_y_deg=41.0,
                ),
            ),
            viewer=Camera(
                name="viewer",
                body=None,
                position_m=(-0.35, -0.95, 1.25),
                target_m=(0.68, 0.0, 0.50),
                up=(0.0, 0.0, 1.0),
                fov_y_deg=45.0,
            ),
            lighting=Lighting(
                direction=(0.45, 0.35, -1.0),
                diffuse=(0.55, 0.55, 0.53),
                ambient=(0.38, 0.38, 0.40),
                head=(0.18, 0.18, 0.18),
            ),
            timestep_s=self.timestep_s,
        )

    @property
    def cube_rest_height_m(self) -> float:
        """Give the height of the cube's centre when it lies on the table."""
        return self.table_height_m + self.cube_size_m / 2

    def sample_start(self, arm: Arm, rng: np.random.Generator) -> Start:
        """Draw joints, and the cube's place and yaw; the gripper is open."""
        noise = rng.uniform(-self.joint_noise_rad, self.joint_noise_rad, len(arm.servos))
        joints = np.clip(np.array(self.start_joint_positions) + noise, arm.lower_rad, arm.upper_rad)
        place = np.array(self.cube_center_m) + rng.uniform(-1.0, 1.0, 2) * self.cube_spread_m
        yaw = rng.uniform(-self.cube_yaw_rad, self.cube_yaw_rad)
        pose = np.array(
            [*place, self.cube_rest_height_m, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
        )
        return Start(
            joint_positions=joints,
            finger_position_m=arm.gripper.upper,
            box_poses={CUBE: pose},
        )

    def measure(self, simulator: Simulator, arm: Arm) -> PickState:
        """Ask the simulator for what rewards, success and the privileged state need."""
        poses = simulator.bodies((CUBE, arm.hand_body, *arm.finger_bodies))
        positions, quaternions = poses[..., :3], poses[..., 3:]
        approach = _z_axis(quaternions[..., 1:, :])  # of hand and fingers
        offsets = np.array([arm.tcp_m, arm.fingertip_m, arm.fingertip_m])[:, None]
        tips = positions[..., 1:, :] + offsets * approach
        return PickState(
            cube_position=positions[..., 0, :],
            cube_quaternion=quaternions[..., 0, :],
            tool_position=tips[..., 0, :],
            tool_quaternion=quaternions[..., 1, :],
            fingertip_positions=tips[..., 1:, :],
        )

    def privileged(self, state: PickState) -> Floats:
        """Give the numbers named in `state_names` [*b s], which no policy on a robot would have."""
        return np.concatenate(
            [
                state.cube_position,
                state.cube_quaternion,
                state.tool_position,
                state.tool_quaternion,
            ],
            axis=-1,
        )

    def rewards(self, state: PickState, action: Floats) -> dict[str, Floats]:
        """Give the reward's named terms of one control step, with PixMC's weights."""
        distances = np.linalg.norm(
            state.fingertip_positions - state.cube_position[..., None, :], axis=-1
        )
        height_m = state.cube_position[..., 2]
        lifted = height_m - self.cube_rest_height_m > 0.015
        to_goal_m = np.abs(self.goal_height_m - height_m)
        return {
            "reach": (0.08 / (0.04 + np.maximum(distances, 0.02))).sum(axis=-1),
            "lift": np.where(lifted, 2.0, 0.0),
            "height": lifted * 1.28 / (0.04 + to_goal_m),
            "goal": np.where(to_goal_m <= 0.04, 2.0, 0.0),
            "action": -0.01 * np.square(action).sum(axis=-1),
        }

    def at_goal(self, state: PickState) -> NDArray[np.bool_]:
        """Say whether the cube is at the goal height now."""
        return np.abs(state.cube_position[..., 2] - self.goal_height_m) <= self.goal_tolerance_m

    def failed(self, state: PickState) -> NDArray[np.bool_]:
        """Say whether the cube has fallen off the table."""
        return state.cube_position[..., 2] < self.cube_rest_height_m - self.fall_m

    def num_hold_steps(self, rate_hz: float) -> int:
        """Give how many control steps in a row must be at the goal."""
        return max(1, math.ceil(self.hold_s * rate_hz - 1e-9))


def _z_axis(quaternions: Floats) -> Floats:
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    return np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=-1)
