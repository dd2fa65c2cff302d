"""The translator equals the simulated environment for the same Interface."""

import math
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from envs.arms.franka import FRANKA_PANDA
from real_robot.limits import PANDA
from real_robot.robot import GripperState, RobotState
from real_robot.translator import GripperSwitch, Translator


@pytest.fixture(scope="module")
def env():
    env = gymnasium.make("envs:toto/FrankaPick-v0", cameras=(), disable_env_checker=True)
    yield env.unwrapped
    env.close()


def state_of(env):
    """Return the state that a driver would report for the simulated arm."""
    joints, velocities = env.simulator.joints(FRANKA_PANDA.joint_names)
    fingers, _ = env.simulator.joints(FRANKA_PANDA.hand_joint_names)
    return RobotState(
        stamp_s=0.0,
        joint_positions_rad=joints,
        joint_velocities_rad_s=velocities,
        joint_torques_nm=np.zeros(7),
        external_torques_nm=np.zeros(7),
        gripper=GripperState(
            stamp_s=0.0,
            width_m=float(fingers.sum()),
            max_width_m=0.08,
            is_grasping=False,
            error=None,
        ),
        mode="idle",
        errors=(),
        command_success_rate=1.0,
    )


def test_targets_and_proprioception_are_those_of_the_environment(env):
    observation, _ = env.reset(seed=5)
    translator = Translator(env.interface, FRANKA_PANDA, PANDA)
    translator.begin(state_of(env))
    rng = np.random.default_rng(0)
    for _ in range(30):
        proprio = translator.proprio(state_of(env))
        np.testing.assert_allclose(proprio, observation["proprio"], atol=2e-6)
        action = rng.uniform(-1.2, 1.2, 8).astype(np.float32)
        target = translator.target(action)
        translator.sent(target)
        observation, *_ = env.step(action)
        np.testing.assert_allclose(
            translator.joint_targets_rad, env._controller.arm_targets, atol=1e-12
        )


def test_an_increment_is_added_to_the_sent_target_not_the_requested_one(env):
    env.reset(seed=5)
    translator = Translator(env.interface, FRANKA_PANDA, PANDA)
    state = state_of(env)
    translator.begin(state)
    ones = np.ones(8, np.float32)
    requested = translator.target(ones)
    np.testing.assert_allclose(requested.joint_positions_rad, state.joint_positions_rad + 0.1)
    assert requested.gripper_width_m == pytest.approx(0.08)
    translator.sent(replace(requested, joint_positions_rad=state.joint_positions_rad + 0.04))
    np.testing.assert_allclose(
        translator.target(ones).joint_positions_rad, state.joint_positions_rad + 0.14
    )


def test_the_tracking_error_is_what_the_arm_has_still_to_do(env):
    env.reset(seed=5)
    names = tuple(f"{joint}_tracking_error" for joint in FRANKA_PANDA.joint_names)
    translator = Translator(replace(env.interface, proprio=names), FRANKA_PANDA, PANDA)
    state = state_of(env)
    translator.begin(state)
    np.testing.assert_array_equal(translator.proprio(state), 0.0)
    translator.sent(translator.target(np.array([1, 0, 0, -1, 0, 0, 0.5, 1], np.float32)))
    np.testing.assert_allclose(
        translator.proprio(state), [0.1, 0, 0, -0.1, 0, 0, 0.05], rtol=0, atol=1e-6
    )


def test_the_action_of_a_target_is_the_one_that_leads_there(env):
    env.reset(seed=6)
    translator = Translator(env.interface, FRANKA_PANDA, PANDA)
    translator.begin(state_of(env))
    action = np.array([0.5, -0.5, 0.2, 0, 0.1, -1, 1, -0.25], np.float32)
    target = translator.target(action)
    back = translator.action_of(target.joint_positions_rad, target.gripper_width_m)
    np.testing.assert_allclose(back, action, atol=1e-6)


def test_nan_is_passed_to_the_safety_layer(env):
    env.reset(seed=6)
    translator = Translator(env.interface, FRANKA_PANDA, PANDA)
    translator.begin(state_of(env))
    action = np.zeros(8, np.float32)
    action[2] = np.nan
    assert np.isnan(translator.target(action).joint_positions_rad[2])
    assert translator.target(np.zeros(3, np.float32)).joint_positions_rad.shape == (3,)


def commanded(translator, openings):
    """Request openings one by one; return the widths that are sent to the hand, m."""
    widths = []
    for requested in openings:
        target = translator.target(np.array([0, 0, 0, 0, 0, 0, 0, requested], np.float32))
        translator.sent(target)
        widths.append(round(target.gripper_width_m, 6))
    return widths


def test_a_switch_opens_and_closes_and_lets_the_hand_finish(env):
    env.reset(seed=6)
    switch = GripperSwitch(close_below=-0.2, open_above=0.2, hold_s=0.3)
    translator = Translator(env.interface, FRANKA_PANDA, PANDA, switch)
    translator.begin(state_of(env))
    hold = math.ceil(0.3 * env.interface.rate_hz)
    assert commanded(translator, [0.9, 0.1, -0.19]) == [0.08, 0.08, 0.08]  # doubt changes nothing
    closing = [-0.3] + [1.0] * hold
    assert commanded(translator, closing) == [0.0] * (hold + 1)  # not called back
    assert translator.gripper_command == -1.0
    assert commanded(translator, [0.0, 0.5]) == [0.0, 0.08]  # now it may
    translator.begin(state_of(env))
    assert commanded(translator, [-1.0]) == [0.0]  # a new episode waits for nothing


def test_without_a_switch_the_hand_gets_every_width(env):
    env.reset(seed=6)
    translator = Translator(env.interface, FRANKA_PANDA, PANDA)
    translator.begin(state_of(env))
    assert commanded(translator, [0.5, -0.5, 2.0]) == [0.06, 0.02, 0.08]


def test_a_nan_opening_gives_no_command(env):
    env.reset(seed=6)
    switch = GripperSwitch(close_below=-0.2, open_above=0.2, hold_s=0.3)
    translator = Translator(env.interface, FRANKA_PANDA, PANDA, switch)
    translator.begin(state_of(env))
    assert math.isnan(translator.gripper_order(math.nan))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"close_below": 0.3}, "close_below <= open_above"),
        ({"open_above": 1.1}, "close_below <= open_above"),
        ({"hold_s": math.inf}, "hold_s must be finite"),
    ],
)
def test_an_invalid_switch_is_refused(fields, words) -> None:
    with pytest.raises(ValueError, match=words):
        GripperSwitch(**{"close_below": -0.2, "open_above": 0.2, "hold_s": 0.8, **fields})


def test_an_interface_that_the_robot_cannot_keep_is_refused(env):
    interface = env.interface
    with pytest.raises(ValueError, match="joint_increment actions joint1_increment"):
        Translator(
            replace(interface, action=interface.action[:-1], action_scale=(0.1,) * 7),
            FRANKA_PANDA,
            PANDA,
        )
    with pytest.raises(ValueError, match=r"has no reading cube_x .* it has joint1_position"):
        Translator(replace(interface, proprio=(*interface.proprio, "cube_x")), FRANKA_PANDA, PANDA)
