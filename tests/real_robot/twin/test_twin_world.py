"""The twin's physics, stepped by the test without server and clock."""

import threading

import numpy as np
import pytest

from envs.arms.kinematics import tool_pose
from envs.catalogue import variant
from tests.real_robot.twin_fixture import require_twin

CHOSEN = variant("toto/FrankaPick-v0")
HOME = np.array(CHOSEN.task.start_arm_rad)
# column by column, as on the wire: -45 degrees about the flange's z, and along it
HALF = float(np.sqrt(0.5))
HAND_TOOL = [HALF, -HALF, 0, 0, HALF, HALF, 0, 0, 0, 0, 1, 0, 0, 0, 0.1034, 1]


@pytest.fixture
def world():
    require_twin()
    from real_robot.twin.shared import Shared
    from real_robot.twin.world import World

    world = World(CHOSEN.task.scene(CHOSEN.arm), CHOSEN.arm, HOME, Shared(2))
    world.update_ee_transform(HAND_TOOL)
    world.initialize_simulation()
    return world


def put(world, joints_rad):
    world.data.qpos[:7] = joints_rad
    world.data.qvel[:] = 0.0
    world.update_joint_positions(joints_rad)
    world._position_feedforward.reset(joints_rad)
    world._read_and_publish_state()


def test_tool_and_jacobian_are_in_the_frame_of_the_base(world):
    joints = HOME + np.array([0.4, -0.3, 0.2, -0.4, 0.3, 0.5, -0.6])
    put(world, joints)
    pose = tool_pose(CHOSEN.arm, joints)
    np.testing.assert_allclose(world.ee_pose(), pose, atol=1e-9)
    jacobian, step = world.ee_jacobian(), 1e-6
    for joint in range(7):
        turned = joints.copy()
        turned[joint] += step
        after = tool_pose(CHOSEN.arm, turned)
        np.testing.assert_allclose(
            jacobian[:3, joint], (after[:3, 3] - pose[:3, 3]) / step, atol=1e-5
        )
        spin = (after[:3, :3] - pose[:3, :3]) @ pose[:3, :3].T / step
        np.testing.assert_allclose(
            jacobian[3:, joint], [spin[2, 1], spin[0, 2], spin[1, 0]], atol=1e-5
        )


def test_a_cartesian_command_moves_the_tool_there(world):
    from franka_sim.control_modes import ControlMode

    start = world.ee_pose()
    world.set_control_mode(ControlMode.CARTESIAN_POSE)
    goal = start.copy()
    for step in range(1500):
        share = min(step / 1000, 1.0)
        goal[:3, 3] = start[:3, 3] + (3 * share**2 - 2 * share**3) * np.array([-0.04, 0.06, 0.03])
        world.update_cartesian_pose(goal.T.ravel())
        world.step()
    np.testing.assert_allclose(world.ee_pose(), goal, atol=1e-3)


def test_joints_follow_without_chatter(world):
    torques, errors = [], []
    for step in range(1500):
        share = min(step / 1000, 1.0)
        goal = HOME + (3 * share**2 - 2 * share**3) * np.array(
            [0.3, -0.2, 0.2, -0.3, 0.3, 0.3, 0.3]
        )
        world.update_joint_positions(goal)
        world.step()
        torques.append(world.get_robot_state()["tau_J"])
        errors.append(np.abs(world.data.qpos[:7] - goal).max())
    assert max(errors) < 1e-3  # rad
    assert np.abs(np.diff(torques[10:], axis=0)).max() < 2.0  # N m a step; chatter: 130


def test_what_is_held_does_not_creep(world):
    world.put_box("cube", np.array([0.5, 0.2, 0.4225]), 0.0)
    joint = world.model.joint("cube").qposadr[0]
    gravity = world.model.opt.gravity.copy()
    world.model.opt.gravity[:] = 0.0
    world.data.qpos[joint : joint + 3] = world.to_world(world.ee_pose()[:3, 3])
    world.data.qpos[joint + 3 : joint + 7] = world.data.body("hand").xquat
    world.fingers.move(0.0, 0.1, 40.0)
    world.step(1500)
    assert world.fingers.at_rest
    world.model.opt.gravity[:] = gravity
    world.step(300)
    before = world.data.qpos[joint + 2]
    world.step(1000)
    assert abs(world.data.qpos[joint + 2] - before) < 1e-4  # m, in a second


def test_work_of_other_threads_is_done_between_steps(world):
    answers = []
    asker = threading.Thread(target=lambda: answers.append(world.jobs.call(lambda: 7)))
    asker.start()
    while asker.is_alive():
        world.step()
    assert answers == [7]

    def refuse():
        raise ValueError("no")

    failed = []

    def ask():
        try:
            world.jobs.call(refuse)
        except ValueError as error:
            failed.append(str(error))

    asker = threading.Thread(target=ask)
    asker.start()
    while asker.is_alive():
        world.step()
    assert failed == ["no"]
    with pytest.raises(TimeoutError, match="did not answer within"):
        world.jobs.call(lambda: 1, timeout_s=0.01)


def test_positions_are_read_whole():
    from real_robot.twin.shared import Shared

    shared = Shared(2)
    shared.write(np.arange(5.0), np.zeros(4))
    np.testing.assert_array_equal(shared.read(5), np.arange(5.0))
    shared.set_mode(1, "stalled")
    assert (shared.mode(0), shared.mode(1)) == ("live", "stalled")
    assert not shared.cameras_ready
    shared.set_cameras_ready()
    assert shared.cameras_ready
    assert shared.mode(0) == "live"
