"""The Kuka with its hand against the public description and PixMC's table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.arms.kinematics import forward_kinematics, solve_ik
from envs.arms.kuka import FINGERS, KUKA_ALLEGRO, KUKA_ALLEGRO_PIXMC
from envs.catalogue import make, variant
from envs.expert_check import run_episode
from envs.experts.kuka_pick import KukaPickExpert
from envs.geometry import points_on
from envs.simulation.mujoco_backend import MujocoSimulator
from envs.simulation.mujoco_model import mujoco
from envs.simulation.scene import Appearance, Start

NAME = "toto/KukaPick-v0"
# PixMC's start, at scale 0.9; computed from the URDF of the public suite.
START = [0.0, -0.4, 0.0, -1.0, 0.0, 1.0, 0.0]
MOUNT, PALM = [0.800, 0.0, 0.931], [0.728, 0.019, 0.921]
GRASP_POINTS = {
    "index": [0.554, -0.025, 0.916],
    "middle": [0.551, 0.026, 0.916],
    "ring": [0.554, 0.078, 0.916],
    "thumb": [0.764, -0.138, 0.902],
}
THUMB_LOWER = 0.279244444444


@pytest.fixture(scope="module")
def simulator():
    built = MujocoSimulator()
    built.build(variant(NAME).task.scene(KUKA_ALLEGRO), KUKA_ALLEGRO)
    return built


@pytest.fixture(scope="module")
def env():
    made = make(env_id=NAME, cameras=(), privileged=True)
    yield made
    made.close()


def pose(simulator, joints, hand=None):
    hand = np.zeros(16) if hand is None else hand
    hand[12] = max(hand[12], THUMB_LOWER)
    simulator.reset(Start(arm_rad=np.array(joints), hand=hand), Appearance())


def test_frames_are_where_the_table_has_them(simulator):
    pose(simulator, START)
    mount, palm = simulator.bodies(["hand", "palm"])
    np.testing.assert_allclose(mount[:3], MOUNT, atol=1e-3)
    np.testing.assert_allclose(palm[:3], PALM, atol=1e-3)
    tips = KUKA_ALLEGRO.fingertips
    points = points_on(
        simulator.bodies([tip.body for tip in tips]), np.array([tip.offset_m for tip in tips])
    )
    for tip, point in zip(tips, points, strict=True):
        np.testing.assert_allclose(point, GRASP_POINTS[tip.name], atol=1e-3)
    # the palm that the task measures is that body, not the cube (the published code's trap)
    measured = variant(NAME).task.measure(simulator, KUKA_ALLEGRO)
    np.testing.assert_allclose(measured["palm_position"], palm[:3], atol=1e-6)


def test_hand_points_forward_at_the_start(simulator):
    hand = forward_kinematics(KUKA_ALLEGRO, START)
    # base frame: x towards the table; 0.1 degree
    assert hand[0, 2] > np.cos(np.deg2rad(1.8))  # the arm itself points up by 1.7 degrees
    np.testing.assert_allclose(hand[:3, 2], [np.cos(0.0292), 0, -0.0292], atol=2e-3)
    np.testing.assert_allclose(hand[:3, 0], [-0.0292, 0, -1], atol=2e-3)


@given(st.lists(st.floats(-2.0, 2.0), min_size=7, max_size=7))
@settings(max_examples=30, deadline=None)
def test_model_has_the_same_kinematics(simulator, joints):
    pose(simulator, joints)
    found = simulator.bodies(["hand"])[0]
    T_base_hand = forward_kinematics(KUKA_ALLEGRO, joints)
    np.testing.assert_allclose(found[:3], [1, 0, 0] + T_base_hand[:3, 3] * [-1, -1, 1], atol=1e-6)
    # the base is turned by half a turn; 1e-6 is 0.00006 degrees, the table's 0.1 degree is 1.7e-3
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.array(found[3:7]))
    expected = np.diag([-1.0, -1.0, 1.0]) @ T_base_hand[:3, :3]
    np.testing.assert_allclose(rotation.reshape(3, 3), expected, atol=1e-6)


def test_masses_are_the_descriptions():
    model = mujoco.MjModel.from_xml_path(str(KUKA_ALLEGRO.model))
    masses = [float(model.body(f"link{index}").mass[0]) for index in range(8)]
    assert masses == pytest.approx([5, 3.4525, 3.4821, 4.05623, 3.4822, 2.1633, 2.3466, 3.129])
    assert float(model.body("palm").mass[0]) == pytest.approx(0.4154)


def test_limits_and_gains_are_the_tables():
    arm = KUKA_ALLEGRO_PIXMC.servos
    assert [servo.upper for servo in arm] == pytest.approx(
        [2.967, 2.094, 2.967, 2.094, 2.967, 2.094, 3.054], abs=1e-3
    )
    assert all(servo.lower == -servo.upper for servo in arm)
    assert [servo.max_force for servo in arm] == [320, 320, 176, 176, 110, 40, 40]
    assert {(servo.stiffness, servo.damping) for servo in arm} == {(400.0, 80.0)}
    hand = KUKA_ALLEGRO_PIXMC.hand_servos
    assert len(hand) == 16
    assert {servo.max_force for servo in hand} == {0.7}
    assert [servo.name.split("_")[0] for servo in hand[::4]] == list(FINGERS)
    bounds = {servo.name: (servo.lower, servo.upper) for servo in hand}
    for finger in ("index", "middle", "ring"):
        assert bounds[f"{finger}_joint_0"] == pytest.approx((-0.558, 0.558), abs=1e-3)
        for index in (1, 2, 3):
            assert bounds[f"{finger}_joint_{index}"] == pytest.approx((-0.279, 1.728), abs=1e-3)
    thumb = [bounds[f"thumb_joint_{index}"] for index in range(4)]
    expected = [(0.279, 1.571), (-0.332, 1.152), (-0.279, 1.728), (-0.279, 1.763)]
    np.testing.assert_allclose(thumb, expected, atol=1e-3)


def test_thumb_always_starts_at_its_limit():
    task = variant(NAME, "pixmc").task
    rng = np.random.default_rng(0)
    hands = np.array([task.sample_start(KUKA_ALLEGRO_PIXMC, rng).hand for _ in range(50)])
    assert (hands[:, 12] == THUMB_LOWER).all()
    assert hands[:, 0].std() > 0.05


def test_hand_touches_itself_and_the_arm_does_not(simulator):
    fist = np.full(16, 1.5)
    fist[[0, 4, 8]] = 0.0
    pose(simulator, START, fist)
    tips = [f"{finger}_link_{index}" for finger in FINGERS for index in (2, 3)]
    assert simulator.contact_forces(tips).max() > 0
    pose(simulator, [0.0, 0.0, 0.0, 2.09, 0.0, 0.5, 0.0])
    assert simulator.contact_forces([f"link{index}" for index in range(6)]).max() == 0


@given(st.floats(0.4, 0.6), st.floats(-0.2, 0.2), st.floats(-0.7, 0.7))
@settings(max_examples=20, deadline=None)
def test_inverse_finds_every_grasp_over_the_table(x, y, turn):
    yaw, pitch = np.arctan2(y, x) + turn, np.deg2rad(30)
    forward, up = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([0, 0, 1.0])
    goal = np.eye(4)
    goal[:3, 2] = np.cos(pitch) * forward - np.sin(pitch) * up
    goal[:3, 0] = -np.sin(pitch) * forward - np.cos(pitch) * up
    goal[:3, 1] = np.cross(goal[:3, 2], goal[:3, 0])
    goal[:3, 3] = [x, y, 0.44]
    rest = np.array(variant(NAME).task.start_arm_rad)
    _, off_m, off_rad = solve_ik(KUKA_ALLEGRO, goal, rest, rest=rest, num_iterations=150)
    assert off_m < 0.005
    assert off_rad < 0.04


def test_expert_picks_the_cube_from_ten_starts(env):
    expert = KukaPickExpert()
    steps = [run_episode(env, expert.act, seed) for seed in range(10)]
    assert sum(taken is not None for taken in steps) >= 9


def test_expert_recovers_from_a_kick_and_a_push(env):
    expert = KukaPickExpert()
    steps = [
        run_episode(env, expert.act, seed, kick_steps=2, push_m=0.03) for seed in range(100, 106)
    ]
    assert sum(taken is not None for taken in steps) >= 5


def test_expert_has_no_memory(env):
    one, other = KukaPickExpert(), KukaPickExpert()
    observation, _ = env.reset(seed=1)
    for _ in range(20):
        action = one.act(observation)
        assert env.action_space.contains(action)
        last = observation
        observation, *_ = env.step(action)
    np.testing.assert_array_equal(one.act(last), other.act({"state": last["state"]}))


def test_cube_is_normally_in_the_hands_picture_at_the_start():
    env = make(env_id=NAME, cameras=("hand",))
    seen = 0
    for seed in range(40):
        red, green, blue = np.moveaxis(env.reset(seed=seed)[0]["image_hand"].astype(int), -1, 0)
        seen += ((blue - red > 60) & (blue - green > 25)).sum() > 20
    env.close()
    assert seen >= 36
