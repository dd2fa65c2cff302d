"""The outline is where the object is seen: the cube of a simulated picture fills it."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from envs.arms.franka import FRANKA_PANDA as ARM
from envs.arms.kinematics import forward_kinematics
from envs.catalogue import variant
from envs.simulation.mujoco_backend import MujocoSimulator
from envs.simulation.scene import Appearance, Quality, Start
from real_robot.calibration.calibration import project
from real_robot.trials.overlay import T_base_camera, calibration_of_scene, draw_overlay, outline
from real_robot.trials.poses import Pose

TASK = variant("toto/FrankaPick-v0").task
SCENE = TASK.scene(ARM)
TABLE_M, SIZE_M, PIXELS = 0.4, TASK.cube_size_m, 256
POSE = Pose(x_m=0.47, y_m=-0.08, yaw_rad=0.4)
JOINTS = np.array(TASK.start_arm_rad)


def calibration(name):
    (camera,) = (camera for camera in SCENE.cameras if camera.name == name)
    return calibration_of_scene(
        camera,
        PIXELS,
        PIXELS,
        base_position_m=SCENE.base_position_m,
        base_yaw_rad=SCENE.base_yaw_rad,
    )


@pytest.fixture(scope="module")
def pictures():
    """Return what both cameras see of a cube at `POSE`."""
    simulator = MujocoSimulator()
    simulator.build(SCENE, ARM)
    yaw = SCENE.base_yaw_rad
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    place = SCENE.base_position_m[:2] + turn @ [POSE.x_m, POSE.y_m]
    half = (yaw + POSE.yaw_rad) / 2
    cube = np.array([*place, TABLE_M + SIZE_M / 2, math.cos(half), 0.0, 0.0, math.sin(half)])
    start = Start(arm_rad=JOINTS, hand=np.array([0.04]), box_poses={"cube": cube})
    simulator.reset(start, Appearance())
    yield {name: simulator.render(name, PIXELS, PIXELS, Quality()) for name in ("front", "hand")}
    simulator.close()


@pytest.mark.parametrize("name", ["front", "hand"])
def test_the_outline_is_filled_by_the_cube(name, pictures) -> None:
    picture = pictures[name].astype(int)
    blue = picture[..., 2] - picture[..., 0] > 60
    T_base_hand = forward_kinematics(ARM, JOINTS)
    there = calibration(name)
    T_camera_base = np.linalg.inv(T_base_camera(there, T_base_hand))
    corners = np.concatenate(outline(POSE, SIZE_M, TABLE_M))
    pixels = project(corners, T_camera_base, there.intrinsics)
    hull = cv2.convexHull(np.round(pixels * 16).astype(np.int32))
    filled = np.zeros((PIXELS, PIXELS), np.uint8)
    cv2.fillConvexPoly(filled, hull, 1, cv2.LINE_8, 4)
    both, either = (blue & (filled > 0)).sum(), (blue | (filled > 0)).sum()
    assert both > 150  # px: it is seen
    assert both / either > 0.85
    drawn = draw_overlay(
        pictures[name],
        POSE,
        there,
        size_m=SIZE_M,
        table_m=TABLE_M,
        T_base_hand=T_base_hand,
        text="trial 1",
    )
    assert drawn.shape == (2 * PIXELS, 2 * PIXELS, 3)
    assert (drawn != cv2.resize(pictures[name], (512, 512), interpolation=cv2.INTER_CUBIC)).any()


def test_points_are_projected_as_opencv_does() -> None:
    rng = np.random.default_rng(0)
    bent = replace(calibration("front").intrinsics, distortion=(-0.2, 0.05, 0.001, -0.002, 0.01))
    points = rng.uniform([-0.3, -0.3, 0.4], [0.3, 0.3, 1.2], (20, 3))
    expected, _ = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), bent.matrix, np.array(bent.distortion)
    )
    np.testing.assert_allclose(project(points, np.eye(4), bent), expected[:, 0], atol=1e-6)
    assert np.isnan(project(np.array([[0.0, 0.0, -1.0]]), np.eye(4), bent)).all()


def test_what_cannot_be_shown_is_said() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    there = calibration("front")
    far = Pose(x_m=-3.0, y_m=0.0, yaw_rad=0.0)
    with pytest.raises(ValueError, match="not in the image of camera 'front'"):
        draw_overlay(image, far, there, size_m=0.05, table_m=TABLE_M)
    with pytest.raises(ValueError, match="on the hand: T_base_hand is needed"):
        draw_overlay(image, POSE, calibration("hand"), size_m=0.05, table_m=TABLE_M)
    with pytest.raises(ValueError, match=r"has no mounting: run python -m real_robot\.calib"):
        draw_overlay(image, POSE, replace(there, mounting=None), size_m=0.05, table_m=TABLE_M)
