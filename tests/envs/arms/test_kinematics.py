import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.arms.franka import FRANKA_PANDA as ARM
from envs.arms.franka import FRANKA_PANDA_PIXMC
from envs.arms.kinematics import (
    forward_kinematics,
    joint_frames,
    solve_ik,
    solve_ik_many,
    tool_pose,
)
from envs.catalogue import variant
from envs.geometry import rotation_matrix, rotation_vector, rotation_vectors
from envs.simulation.mujoco_backend import MujocoSimulator
from envs.simulation.scene import Appearance, Start

TASK = variant("toto/FrankaPick-v0").task

# PixMC's start; the hand's pose there was computed from the URDF of the public suite.
START = [1.157, -1.066, -0.155, -2.239, -1.841, 1.003, 0.469]
HAND_POSITION = [0.7838, 0.0142, 0.8003]
HAND_X = [-0.899, -0.431, 0.076]
HAND_Z = [-0.437, 0.893, -0.108]
LEFT_PAD, RIGHT_PAD = [0.739, 0.111, 0.824], [0.738, 0.102, 0.755]

JOINTS = st.tuples(
    *(st.floats(low, high) for low, high in zip(ARM.lower_rad, ARM.upper_rad, strict=True))
)


@pytest.fixture(scope="module")
def simulator():
    built = MujocoSimulator()
    built.build(TASK.scene(ARM), ARM)
    return built


def angle_deg(left, right):
    cosine = np.dot(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def in_world(T_base_hand):
    T_world_base = np.diag([-1.0, -1.0, 1.0, 1.0])
    T_world_base[0, 3] = 1.0
    return T_world_base @ T_base_hand


def quaternion_matrix(quaternion):
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_hand_is_where_the_published_kinematics_put_it():
    hand = in_world(forward_kinematics(ARM, START))
    np.testing.assert_allclose(hand[:3, 3], HAND_POSITION, atol=1e-3)
    assert angle_deg(hand[:3, 0], HAND_X) < 0.1
    assert angle_deg(hand[:3, 2], HAND_Z) < 0.1


def test_finger_pads_are_where_the_published_kinematics_put_them(simulator):
    simulator.reset(Start(arm_rad=np.array(START), hand=np.array([0.035])), Appearance())
    bodies = [tip.body for tip in ARM.fingertips]
    for pose, finger, pad in zip(
        simulator.bodies(bodies), ARM.fingertips, (LEFT_PAD, RIGHT_PAD), strict=True
    ):
        tip = pose[:3] + quaternion_matrix(pose[3:]) @ finger.offset_m
        np.testing.assert_allclose(tip, pad, atol=1.1e-3)


@given(JOINTS)
def test_model_has_the_same_kinematics(simulator, joints):
    simulator.reset(Start(arm_rad=np.array(joints), hand=np.zeros(1)), Appearance())
    pose = simulator.bodies([ARM.hand_body])[0]
    hand = in_world(forward_kinematics(ARM, joints))
    np.testing.assert_allclose(pose[:3], hand[:3, 3], atol=1e-9)
    np.testing.assert_allclose(quaternion_matrix(pose[3:]), hand[:3, :3], atol=1e-9)


@given(st.floats(0.4, 0.6), st.floats(-0.2, 0.2), st.floats(0.42, 0.55), st.floats(-0.7, 0.7))
def test_inverse_finds_every_pose_over_the_table(x, y, z, yaw):
    rest = np.array(TASK.start_arm_rad)
    goal = np.eye(4)
    goal[:2, :2] = [[np.cos(yaw), np.sin(yaw)], [np.sin(yaw), -np.cos(yaw)]]
    goal[2, 2] = -1.0
    goal[:3, 3] = [x, y, z]
    joints, off_m, off_rad = solve_ik(ARM, goal, rest, rest=rest, num_iterations=60)
    assert off_m < 0.003
    assert off_rad < 0.02
    reached = tool_pose(ARM, joints)
    assert np.linalg.norm(reached[:3, 3] - goal[:3, 3]) == pytest.approx(off_m, abs=1e-9)
    assert (joints >= ARM.lower_rad).all()
    assert (joints <= ARM.upper_rad).all()


@given(
    st.floats(0.0, np.pi),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)).filter(
        lambda axis: np.linalg.norm(axis) > 0.1
    ),
)
def test_rotation_vector_undoes_a_rotation(angle, axis):
    axis = np.array(axis) / np.linalg.norm(axis)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    vector = rotation_vector(rotation)
    assert np.linalg.norm(vector) == pytest.approx(angle, abs=1e-6)
    if 1e-3 < angle < np.pi - 1e-3:
        np.testing.assert_allclose(vector, angle * axis, atol=1e-6)


def test_limits_and_gains_are_the_tables():
    servos = FRANKA_PANDA_PIXMC.servos
    assert [servo.lower for servo in servos] == [
        -2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973,
    ]  # fmt: skip
    assert [servo.upper for servo in servos] == [
        2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973,
    ]  # fmt: skip
    assert [servo.max_force for servo in servos] == [87.0] * 4 + [12.0] * 3
    assert [servo.max_speed for servo in servos] == [2.175] * 4 + [2.61] * 3
    assert {(servo.stiffness, servo.damping) for servo in servos} == {(400.0, 80.0)}
    for servo in FRANKA_PANDA_PIXMC.hand_servos:
        assert (servo.lower, servo.upper, servo.max_speed, servo.max_force) == (0, 0.04, 0.2, 200)
    for pixmc, robot in zip(servos, ARM.servos, strict=True):
        assert (pixmc.lower, pixmc.upper, pixmc.max_force) == (
            robot.lower, robot.upper, robot.max_force,
        )  # fmt: skip


def test_frames_of_many_poses_are_those_of_each() -> None:
    poses = np.random.default_rng(3).uniform(-2.0, 2.0, (4, 5, 7))
    frames = joint_frames(ARM, poses)
    assert frames.shape == (4, 5, 8, 4, 4)
    np.testing.assert_array_equal(frames[2, 3, -1], forward_kinematics(ARM, poses[2, 3]))


def test_the_wrong_number_of_joints_is_named() -> None:
    with pytest.raises(ValueError, match="7 joints"):
        forward_kinematics(ARM, np.zeros(6))


def test_inverses_of_many_poses_are_those_of_each():
    rng = np.random.default_rng(0)
    lower, upper = np.array(ARM.lower_rad), np.array(ARM.upper_rad)
    starts = rng.uniform(lower, upper, (40, 7))
    poses = np.stack([tool_pose(ARM, joints) for joints in rng.uniform(lower, upper, (40, 7))])
    how = {"rest": (lower + upper) / 2, "num_iterations": 8}
    many = solve_ik_many(ARM, poses, starts, **how)
    each = [solve_ik(ARM, pose, start, **how)[0] for pose, start in zip(poses, starts, strict=True)]
    np.testing.assert_array_equal(many, np.stack(each))


def test_vectors_of_many_rotations_are_those_of_each():
    special = [[0, 0, 0], [1e-11, 0, 0], [np.pi, 0, 0], [0, -np.pi, 0], [2.0, 1.0, 0.5]]
    vectors = [*special, *np.random.default_rng(0).normal(size=(50, 3))]
    rotations = np.stack([rotation_matrix(np.array(vector, dtype=float)) for vector in vectors])
    each = np.stack([rotation_vector(rotation) for rotation in rotations])
    np.testing.assert_array_equal(rotation_vectors(rotations), each)
