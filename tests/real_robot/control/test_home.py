"""Going home: slowly, through the safety layer, and not through walls."""

from dataclasses import replace

import numpy as np
import pytest

from envs.arms.franka import FRANKA_PANDA
from envs.arms.kinematics import tool_pose
from real_robot.control.home import HomeConfig, NotHomeError, PersonNeededError, go_home
from real_robot.limits import FR3
from real_robot.safety.layer import SafetyLayer
from tests.real_robot.control.loop_cases import JumpingClock
from tests.real_robot.fake_robot import FakeRobot
from tests.real_robot.safety.safety_cases import CONFIG, HOME

HOW = HomeConfig(
    speed_rad_s=0.3,
    acceleration_rad_s2=0.5,
    slack_rad=0.05,
    slack_m=0.02,
    tolerance_rad=0.01,
    settle_s=2.0,
)


def arm_at(pose):
    clock = JumpingClock()
    robot = FakeRobot(pose, clock.now_s)
    robot.connect()
    return robot, clock


def turned(joint, angle_rad):
    pose = HOME.copy()
    pose[joint - 1] += angle_rad
    return pose


def home(robot, clock, **arguments):
    go_home(robot, CONFIG, FRANKA_PANDA, HOME, HOW, clock=clock, **arguments)


def test_the_arm_comes_home_slowly_on_a_line_and_stops() -> None:
    start = HOME + np.array([0.5, 0.2, -0.3, 0.1, 0.4, -0.2, 0.6])
    robot, clock = arm_at(start)
    home(robot, clock, gripper_width_m=0.07)
    path = np.array([start, *robot.log])
    np.testing.assert_allclose(robot.positions, HOME, atol=1e-6)
    assert robot.mode == "idle"
    assert robot.width_m == 0.07
    speeds = np.diff(path, axis=0) / CONFIG.motion.period_s
    assert np.abs(speeds).max() <= HOW.speed_rad_s + 1e-9
    assert np.abs(np.diff(speeds, axis=0)).max() / CONFIG.motion.period_s < 1.1  # rad/s^2
    share = (path - start) / (HOME - start)
    np.testing.assert_allclose(share, share[:, :1] * np.ones(7), atol=1e-9)


def test_an_arm_a_little_beyond_its_margin_comes_back() -> None:
    pose = HOME.copy()
    pose[4] = FR3.upper_rad[4] - CONFIG.motion.joint_margin_rad + 0.03
    robot, clock = arm_at(pose)
    home(robot, clock)
    np.testing.assert_allclose(robot.positions, HOME, atol=1e-6)


def test_an_arm_far_beyond_its_margin_is_left_to_a_person() -> None:
    pose = HOME.copy()
    pose[4] = FR3.upper_rad[4] - 0.01
    robot, clock = arm_at(pose)
    with pytest.raises(NotHomeError, match=r"joint 5 .* outside .*by hand"):
        home(robot, clock)
    assert robot.log == []


def test_a_way_through_the_wall_is_refused_before_the_first_step() -> None:
    reach_m = tool_pose(FRANKA_PANDA, HOME)[0, 3]
    space = replace(CONFIG.workspace, low_m=(0.1, -0.8, -0.02), high_m=(0.9 * reach_m, 0.8, 0.8))
    robot, clock = arm_at(turned(1, 0.7))
    config = replace(CONFIG, workspace=space)
    with pytest.raises(NotHomeError, match=r"leaves the workspace after \d+%: tool high x"):
        go_home(robot, config, FRANKA_PANDA, turned(1, -0.7), HOW, clock=clock)
    assert robot.log == []


def test_an_arm_that_does_not_arrive_is_told_of() -> None:
    robot, clock = arm_at(turned(2, 0.1))
    sends = robot.command

    def blocked(positions):
        sends(positions)
        robot.positions = turned(2, 0.1)
        return positions

    robot.command = blocked
    with pytest.raises(NotHomeError, match=r"joint 2 is 0\.100 rad away"):
        home(robot, clock)
    assert robot.mode == "idle"


def test_a_gripper_that_does_not_open_is_told_of_with_its_error() -> None:
    robot, clock = arm_at(HOME)
    robot.width_m, robot.gripper_error = 0.02, "the gripper's move to 0.0800 m failed: blocked"
    robot.move_gripper = lambda width_m: None
    with pytest.raises(NotHomeError, match=r"the gripper is 0\.060 m away .*; .*failed: blocked"):
        home(robot, clock, gripper_width_m=0.08)


def test_a_reflex_on_the_way_is_told_of() -> None:
    robot, clock = arm_at(turned(1, 0.5))
    sends = robot.command

    def pushed(positions):
        sent = sends(positions)
        if len(robot.log) == 3:
            robot.fails("reflex", "cartesian_reflex")
        return sent

    robot.command = pushed
    with pytest.raises(NotHomeError, match="cartesian_reflex"):
        home(robot, clock)


@pytest.mark.parametrize("mode", ["user_stopped", "reflex"])
def test_the_arm_does_not_set_out_before_a_person_has_acknowledged(mode) -> None:
    robot, clock = arm_at(turned(1, 0.2))
    layer = SafetyLayer(CONFIG, FR3, FRANKA_PANDA)
    robot.fails(mode)
    layer.notice(robot.state())
    robot.fails("idle")  # released
    with pytest.raises(
        PersonNeededError, match=r"a person must check the arm and acknowledge\(\) first"
    ):
        home(robot, clock, attention=layer.attention, gripper_width_m=0.01)
    assert robot.log == []
    assert robot.width_m == 0.08
    layer.acknowledge()
    home(robot, clock, attention=layer.attention)
    np.testing.assert_allclose(robot.positions, HOME, atol=1e-6)


def test_a_user_stop_on_the_way_home_is_remembered() -> None:
    robot, clock = arm_at(turned(1, 0.5))
    layer = SafetyLayer(CONFIG, FR3, FRANKA_PANDA)
    command = robot.command

    def stops(positions):
        sent = command(positions)
        if len(robot.log) == 5:
            robot.fails("user_stopped")
        return sent

    robot.command = stops
    with pytest.raises(NotHomeError, match="user_stopped"):
        home(robot, clock, attention=layer.attention)
    robot.fails("idle")
    with pytest.raises(PersonNeededError):
        home(robot, clock, attention=layer.attention)
    assert len(robot.log) == 5


@pytest.mark.parametrize("mode", ["guiding", "recovering", "other", "reflex"])
def test_the_gripper_does_not_move_where_the_arm_must_not(mode) -> None:
    robot, clock = arm_at(turned(1, 0.1))
    robot.fails(mode)
    layer = SafetyLayer(CONFIG, FR3, FRANKA_PANDA)
    layer.acknowledge()
    robot.width_m = 0.02
    with pytest.raises(NotHomeError):
        home(robot, clock, gripper_width_m=0.08, attention=layer.attention)
    assert (robot.width_m, robot.log) == (0.02, [])
