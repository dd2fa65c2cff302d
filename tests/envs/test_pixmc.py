"""PixMC's protocol against its table, for every arm and task that there is."""

import dataclasses
import math

import numpy as np
import pytest

from envs import ENVIRONMENTS
from envs.arms.kinematics import solve_ik, tool_pose
from envs.catalogue import make, variant
from envs.manipulation import ManipulationEnv
from envs.tasks.pick import PickTask

PICK = "toto/FrankaPick-v0"
# proprioception, privileged state, actions
SIZES = {"Franka": (18, 34, 9), "Kuka": (46, 77, 23)}


def pixmc(name, **options):
    return make(env_id=name, protocol="pixmc", cameras=(), privileged=True, **options)


@pytest.fixture(scope="module")
def env():
    made = pixmc(PICK)
    yield made
    made.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_sizes_and_rates_are_the_tables(name):
    env = pixmc(name)
    proprio, state, action = SIZES["Franka" if "Franka" in name else "Kuka"]
    observation, _ = env.reset(seed=0)
    assert observation["proprio"].shape == (proprio,)
    assert observation["state"].shape == (state,)
    assert env.action_space.shape == (action,)
    assert env.num_steps == 500
    assert env.interface.rate_hz == 60
    for box in (env.observation_space["proprio"], env.observation_space["state"]):
        assert (box.low == -5).all()
        assert (box.high == 5).all()
    scale = np.array(env.interface.action_scale)
    np.testing.assert_allclose(scale[:7], 0.125)
    np.testing.assert_allclose(scale[7:], 0.0125 if "Franka" in name else 0.125)


@pytest.mark.parametrize("rate_hz", [20, 30, 100])
def test_a_rate_that_the_physics_cannot_keep_is_refused(rate_hz):
    found = variant("toto/FrankaPick-v0")
    protocol = dataclasses.replace(found.protocol, rate_hz=rate_hz)
    with pytest.raises(ValueError, match=f"1/{rate_hz} s need a whole number of physics steps"):
        ManipulationEnv(arm=found.arm, task=found.task, protocol=protocol, cameras=())


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_default_picture_is_the_hands_at_224(name):
    env = make(env_id=name, protocol="pixmc")
    assert [(camera.name, camera.height) for camera in env.interface.cameras] == [("hand", 224)]
    camera = next(one for one in variant(name, "pixmc").task.cameras if one.name == "hand")
    # 298 pixels for 120 degrees across: a focal length of 86.03 pixels, whatever the size
    focal_px = 224 / 2 / math.tan(math.radians(camera.fov_y_deg) / 2)
    assert focal_px == pytest.approx(86.03, abs=0.01)
    env.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_proprioception_is_scaled_by_the_joint_limits(name):
    env = pixmc(name)
    observation, _ = env.reset(seed=1)
    arm, chosen = env.arm, env.save().variation.start
    lower = np.array([servo.lower for servo in (*arm.servos, *arm.hand_servos)])
    upper = np.array([servo.upper for servo in (*arm.servos, *arm.hand_servos)])
    joints = np.concatenate([chosen.arm_rad, chosen.hand])
    half = len(joints)
    expected = 2 * (joints - lower) / (upper - lower) - 1
    np.testing.assert_allclose(observation["proprio"][:half], expected, atol=1e-5)
    np.testing.assert_allclose(observation["proprio"][half:], 0, atol=1e-5)
    np.testing.assert_allclose(observation["state"][: 2 * half], observation["proprio"])


def test_actions_add_to_a_stored_target_which_alone_is_cut(env):
    env.reset(seed=0)
    start = env.save()
    action = np.zeros(9, dtype=np.float32)
    action[0], action[7], action[8] = 1.0, -1.0, 1.0
    for _ in range(3):
        env.step(action)
    now = env.save()
    # the arm cannot follow at 7.5 rad/s; the target does not wait
    assert now.arm_targets[0] - start.arm_targets[0] == pytest.approx(3 * 0.125)
    assert env.arm.servos[0].max_speed / 60 * 3 < 0.125
    np.testing.assert_allclose(
        now.hand_targets - start.hand_targets,
        np.clip(start.hand_targets + np.array([-0.0375, 0.0375]), 0, 0.04) - start.hand_targets,
    )
    for _ in range(60):
        env.step(action)
    assert env.save().arm_targets[0] == env.arm.upper_rad[0]


def test_joints_keep_their_speed_limits(env):
    limits = np.array([servo.max_speed for servo in env.arm.servos])
    rng = np.random.default_rng(0)
    fastest = np.zeros(7)
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(100):
            observation, *_ = env.step(rng.choice([-1.0, 1.0], 9))
            fastest = np.maximum(fastest, np.abs(10 * observation["proprio"][9:16]))
    # links that throw each other exceed them for a moment; without the bound it is 10 rad/s
    assert (fastest < 1.4 * limits).all()
    assert (fastest > 0.3 * limits).all()


def test_fingers_start_closed_open_or_between_by_themselves(env):
    task = variant(PICK, "pixmc").task
    rng = np.random.default_rng(0)
    hands = np.array([task.sample_start(env.arm, rng).hand for _ in range(4000)])
    for finger in hands.T:
        assert np.mean(finger == 0) == pytest.approx(0.36, abs=0.03)
        assert np.mean(finger == 0.04) == pytest.approx(0.48, abs=0.03)
    assert abs(np.corrcoef(hands.T)[0, 1]) < 0.06


@pytest.mark.parametrize(
    ("held", "success"), [([9], False), ([10], True), ([9, 9], False), ([10, 3], True)]
)
def test_success_is_ten_steps_in_a_row_and_stays(env, monkeypatch, held, success):
    env.reset(seed=0)
    pattern: list[bool] = []
    for count in held:
        pattern += [True] * count + [False]
    left = iter(pattern)
    monkeypatch.setattr(PickTask, "at_goal", lambda self, measured: np.bool_(next(left)))
    ends = [env.step(np.zeros(9))[2:] for _ in pattern]
    assert ends[-1][2]["success"] is success
    assert not any(terminated or truncated for terminated, truncated, _ in ends)


def test_arm_that_touches_something_fails(env):
    env.reset(seed=0)
    state = env.save()
    assert not env.step(np.zeros(9))[2]
    # lie down on the table, elbow first
    env.restore(state)
    action = np.zeros(9)
    action[1], action[3] = 1.0, 1.0
    for _ in range(200):
        *_, terminated, _, _ = env.step(action)
        if terminated:
            break
    assert terminated
    assert not env.step(np.zeros(9))[4]["success"]


def test_cube_can_be_grasped_and_lifted_by_increments(env):
    env.reset(seed=0)
    arm, rest = env.arm, np.array(variant(PICK).task.start_arm_rad)
    cube = env.save().variation.start.box_poses["cube"][:3]
    T_base_tcp = np.diag([1.0, -1.0, -1.0, 1.0])
    success = False
    stages = (  # height above the cube, fingers, steps
        (0.15, 1.0, 150),
        (0.0, 1.0, 80),
        (0.0, -1.0, 40),
        (0.30, -1.0, 200),
    )
    for height_m, fingers, num_steps in stages:
        pull = min(1.0, 0.45 / (1 - cube[0])) if height_m == 0.30 else 1.0
        T_base_tcp[:3, 3] = [(1 - cube[0]) * pull, -cube[1] * pull, cube[2] + height_m]
        for _ in range(num_steps):
            state = env.save()
            goal, off_m, _ = solve_ik(arm, T_base_tcp, state.arm_targets, rest=rest)
            change = 0.1 * np.clip((goal - state.arm_targets) / 0.125, -1, 1)
            _, _, terminated, _, info = env.step(np.append(change, [fingers, fingers]))
            success |= info["success"]
            assert not terminated
    assert off_m < 0.05
    assert np.linalg.norm(tool_pose(arm, state.arm_targets)[:3, 3] - T_base_tcp[:3, 3]) < 0.05
    assert success


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_rewards_have_their_names(name):
    env = pixmc(name)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(env.action_space.sample() * 0)
    assert set(info["reward_terms"]) >= {"reach", "goal", "action"}
    assert reward == pytest.approx(sum(info["reward_terms"].values()))
