"""The twin's arm and hand behave like a real arm through franky."""

import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from envs.arms.franka import FRANKA_PANDA
from envs.arms.kinematics import joint_frames, tool_pose
from real_robot.limits import FR3, limits_from_urdf
from real_robot.scheduling import realtime_priority
from real_robot.twin import STANDARD, TwinConfig, start_twin
from tests.real_robot.starved import StarvedError
from tests.real_robot.twin_fixture import above, connect, require_twin, twin  # noqa: F401

CONFIGS = Path(__file__).parents[3] / "configs"
TABLE_M = 0.4
HALF_CUBE_M = 0.0225


@pytest.fixture
def client(twin):  # noqa: F811
    # as on a control PC: with a millisecond to answer, a client must not wait for others
    with realtime_priority(STANDARD.priority - 1), twin.client() as client:
        client.disconnect_robot()  # pytest keeps what a failed test held
        client.release_user_stop()
        client.reset()
        yield client


def joints_of(robot):
    return np.array(robot.state.q)


def turned(robot, *by_rad):
    """Return the joints turned on from where they are, the first of them first."""
    joints = joints_of(robot)
    joints[: len(by_rad)] += by_rad
    return joints


def move(robot, joints_rad, *, asynchronous=False):
    """Move; that the machine lost commands on the way is a `StarvedError`."""
    import franky

    with blamed_for_lost_commands(robot):
        robot.move(franky.JointMotion(franky.JointState(joints_rad)), asynchronous=asynchronous)


def set_off(robot, *by_rad, speed_rad_s=0.05):
    """Begin to turn, and wait until the arm moves."""
    move(robot, turned(robot, *by_rad), asynchronous=True)
    if not eventually(lambda: np.abs(robot.state.dq).max() > speed_rad_s, 2.0):
        with blamed_for_lost_commands(robot):
            robot.join_motion()
        pytest.fail("the arm does not move")


@contextmanager
def blamed_for_lost_commands(robot):
    """Raise a `StarvedError` for a motion that ended because too few commands came in time."""
    import franky

    try:
        yield
    except franky.ControlException as error:
        rate = re.search(r"control_command_success_rate: ([\d.]+)", str(error))
        if rate is None or float(rate[1]) > 0.99:
            raise
        robot.recover_from_errors()  # for the test that is run next
        raise StarvedError(f"this machine lost a twin's commands: {error}") from error


def names_of(errors):
    return {name for name in dir(errors) if getattr(errors, name) is True}


def torques_of(joints_rad, point_m, force_n):
    """Return what a force on a point of the hand does to the joints."""
    frames = joint_frames(FRANKA_PANDA, joints_rad)[:-1]
    return np.cross(frames[:, :3, 2], point_m - frames[:, :3, 3]) @ force_n


def end_of_motion(robot):
    """Wait for an asynchronous motion and give the message that it ended with."""
    import franky

    with pytest.raises(franky.ControlException) as caught:
        robot.join_motion()
    return str(caught.value)


def eventually(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_config_file_says_the_standard():
    with (CONFIGS / "twin.yaml").open() as file:
        said = yaml.safe_load(file)
    del said["defaults"], said["out"]
    assert TwinConfig(**said) == STANDARD


def test_only_loopback_addresses():
    with pytest.raises(ValueError, match=r"127\.a\.b\.c, got '0\.0\.0\.0'"):
        TwinConfig(
            **{**{n: getattr(STANDARD, n) for n in STANDARD.__slots__}, "address": "0.0.0.0"}
        )


def test_limits_that_it_sends_are_those_that_it_enforces_and_within_an_fr3(twin):  # noqa: F811
    from franka_sim.limits.tables import JOINT_POSITION_LIMITS

    robot, _ = connect(twin.address)
    sent = limits_from_urdf(robot.model_urdf, FR3)
    lower, upper = zip(*JOINT_POSITION_LIMITS, strict=True)
    assert sent.lower_rad == lower
    assert sent.upper_rad == upper
    assert sent.velocity_rad_s == FR3.velocity_rad_s
    assert sent.braking_rad_s2 == FR3.braking_rad_s2
    # franka-sim's model is older than system 5.9: its joints turn less far, joint 3 by 6 mrad more
    assert np.all(np.array(sent.upper_rad) < np.array(FR3.upper_rad) + 0.006)
    assert np.all(np.array(sent.lower_rad) > np.array(FR3.lower_rad) - 0.006)


def test_moves_and_says_where_the_tool_is(twin, client):  # noqa: F811
    robot, _ = connect(twin.address)
    goal = turned(robot, 0.3, -0.2, 0.2, -0.3, 0.3, 0.3, 0.3)
    move(robot, goal)
    assert eventually(lambda: np.abs(joints_of(robot) - goal).max() < 3e-3)  # rad
    state = robot.state
    said = np.array(state.O_T_EE.matrix)
    expected = tool_pose(FRANKA_PANDA, np.array(state.q))
    assert np.abs(said[:3, 3] - expected[:3, 3]).max() < 1e-4  # m
    assert np.abs(said[:3, :3] - expected[:3, :3]).max() < 1e-4  # rad
    assert np.abs(state.tau_ext_hat_filtered).max() < 0.1  # N m: nothing touches it


def test_follows_a_joint_impedance_controller(twin, client):  # noqa: F811
    import franky

    robot, _ = connect(twin.address)
    start = joints_of(robot)
    goal = start + np.array([0.1, 0.0, 0.0, 0.0, 0.0, 0.0, -0.1])
    # the driver's gains: with critical damping, franky's own, light joints swing up when commands
    # are a few milliseconds late
    with (CONFIGS / "franka/twin.yaml").open() as file:
        tracking = yaml.safe_load(file)["tracking"]
    stiffness, damping = (np.array(tracking[k]) for k in ("stiffness_nm_rad", "damping_nms_rad"))
    with franky.JointImpedanceTracker(
        robot, stiffness=stiffness, damping=damping, period=0.05
    ) as tracker:
        for step in range(40):
            tracker.tick()
            tracker.set_target(start + min(step / 20, 1.0) * (goal - start))
        reached = np.array(tracker.state.q)
        rate = robot.state.control_command_success_rate
    assert np.abs(reached - goal).max() < 0.02  # rad: there is no integral part
    assert rate > 0.5


@pytest.mark.slow  # 8 s at a quarter of full speed; the expert picks it in test_loop_twin.py
def test_picks_the_cube_up_and_holds_it(twin, client):  # noqa: F811
    robot, gripper = connect(twin.address)
    start = joints_of(robot)
    client.place(0.5, 0.1, 0.4)
    x, y, z, *_ = client.object_pose()
    over = above(x, y, z + 0.12, start, yaw_rad=0.4)
    at = above(x, y, z, over, yaw_rad=0.4)
    assert gripper.open(0.1)
    move(robot, over)
    move(robot, at)
    assert gripper.grasp(2 * HALF_CUBE_M, 0.1, 40.0, 0.005, 0.005)
    assert not client.succeeded()
    up = above(0.5, y, 0.6, over, yaw_rad=0.4)
    move(robot, above(0.45, y, 0.74, up, yaw_rad=0.4))
    assert client.succeeded()
    height = client.object_pose()[2]
    time.sleep(2.0)
    assert client.object_pose()[2] == pytest.approx(height, abs=0.001)  # m: nothing slips
    assert gripper.is_grasped
    assert gripper.width == pytest.approx(2 * HALF_CUBE_M, abs=0.002)
    weight_n = np.array([0.0, 0.0, -0.0911 * 9.81])
    expected = torques_of(joints_of(robot), client.object_pose()[:3], weight_n)
    assert np.abs(robot.state.tau_ext_hat_filtered - expected).max() < 0.1  # N m
    assert gripper.move(0.08, 0.1)
    assert eventually(lambda: not gripper.is_grasped)
    assert eventually(lambda: client.object_pose()[2] < 0.5)


def test_an_empty_grasp_is_reported(twin, client):  # noqa: F811
    _, gripper = connect(twin.address)
    assert not gripper.grasp(0.045, 0.1, 40.0, 0.005, 0.005)
    assert gripper.width == pytest.approx(0.0, abs=0.001)
    assert not gripper.is_grasped


def test_a_push_shows_in_external_torques(twin, client):  # noqa: F811
    robot, _ = connect(twin.address)
    force = np.array([0.0, 8.0, -5.0])
    joints = joints_of(robot)
    client.push("hand", force, 1.5)
    hand = joint_frames(FRANKA_PANDA, joints)[-1]
    expected = torques_of(joints, hand[:3, 3] + hand[:3, :3] @ [-0.01, 0.0, 0.03], force)
    assert eventually(
        lambda: np.abs(robot.state.tau_ext_hat_filtered - expected).max() < 0.15  # N m
    )
    assert eventually(lambda: np.abs(robot.state.tau_ext_hat_filtered).max() < 0.05)


def test_pressing_the_table_ends_in_a_reflex_and_recovers(twin, client):  # noqa: F811
    robot, _ = connect(twin.address, torque_nm=30.0, force_n=15.0)
    start = joints_of(robot)
    client.place(0.5, -0.2, 0.0)
    over = above(0.5, 0.15, TABLE_M + 0.06, start)
    move(robot, over)
    move(robot, above(0.5, 0.15, TABLE_M - 0.03, over), asynchronous=True)
    message = end_of_motion(robot)
    assert "reflex" in message
    assert names_of(robot.state.last_motion_errors) & {"joint_reflex", "cartesian_reflex"}
    assert robot.state.robot_mode.name == "Reflex"
    assert np.abs(robot.state.tau_ext_hat_filtered).max() > 1.0  # N m: it presses
    assert robot.recover_from_errors()
    robot.set_collision_behavior(60.0, 60.0)
    move(robot, over)
    assert eventually(lambda: np.abs(joints_of(robot) - over).max() < 3e-3)  # rad


def test_user_stop_stops_and_stays(twin, client):  # noqa: F811
    import franky

    robot, _ = connect(twin.address)
    goal = turned(robot, 0.8)
    move(robot, goal, asynchronous=True)
    assert eventually(lambda: np.abs(robot.state.dq).max() > 0.1)
    client.press_user_stop()
    assert "User Stop" in end_of_motion(robot)
    assert robot.state.robot_mode.name == "UserStopped"
    assert eventually(lambda: np.abs(robot.state.dq).max() < 1e-3)  # rad/s
    stopped = joints_of(robot)
    assert abs(stopped[0] - goal[0]) > 0.1  # rad: it did not arrive
    with pytest.raises(franky.CommandException):
        move(robot, goal)
    with pytest.raises(franky.CommandException):
        robot.recover_from_errors()
    client.release_user_stop()
    assert eventually(lambda: robot.state.robot_mode.name == "Idle")
    assert np.abs(joints_of(robot) - stopped).max() < 1e-3  # rad: nothing moved by itself
    move(robot, stopped)


@pytest.mark.parametrize(
    "error",
    [
        "joint_motion_generator_velocity_discontinuity",
        "joint_velocity_violation",
        "joint_reflex",
        "cartesian_reflex",
        "communication_constraints_violation",
        "tau_J_range_violation",
    ],
)
def test_named_errors(twin, client, error):  # noqa: F811
    robot, _ = connect(twin.address)
    set_off(robot, 0.5)
    client.fail(error)
    assert error.lower() in end_of_motion(robot).lower()
    assert {name.lower() for name in names_of(robot.state.last_motion_errors)} == {error.lower()}
    assert robot.recover_from_errors()


def test_an_error_is_reported_for_its_own_motion_only(twin, client):  # noqa: F811
    robot, _ = connect(twin.address)
    for error in ("joint_reflex", "cartesian_reflex"):
        set_off(robot, 0.3)
        client.fail(error)
        end_of_motion(robot)
        assert names_of(robot.state.last_motion_errors) == {error}
        assert robot.recover_from_errors()


def test_unknown_errors_and_bodies_are_named(client):
    with pytest.raises(ValueError, match="unknown error 'tired'; known: cartesian"):
        client.fail("tired")
    with pytest.raises(ValueError, match="needs a motion to end, but none runs"):
        client.fail("joint_reflex")
    with pytest.raises(ValueError, match=r"no body 'knee'; known: .*link7, hand"):
        client.push("knee", (0, 0, 1), 0.1)


def test_lost_commands_end_the_motion(twin, client):  # noqa: F811
    robot, _ = connect(twin.address)
    set_off(robot, 0.5)
    client.drop_commands(0.2)
    assert "communication_constraints_violation" in end_of_motion(robot)
    time.sleep(0.3)
    assert robot.recover_from_errors()
    move(robot, turned(robot, 0.05))


def test_it_can_be_led(twin, client):  # noqa: F811
    robot, _ = connect(twin.address)
    start = joints_of(robot)
    path = start + np.linspace(0, 1, 11)[1:, None] * [0.2, 0.1, 0, -0.1, 0, 0.1, 0]
    client.lead(path, 1.0)
    assert eventually(lambda: robot.state.robot_mode.name == "Guiding")
    with pytest.raises(ValueError, match="it is kGuiding"):
        client.lead(path, 1.0)
    assert eventually(lambda: robot.state.robot_mode.name == "Idle")
    assert not client.status()["leading"]
    assert eventually(lambda: np.abs(joints_of(robot) - path[-1]).max() < 1e-3)  # rad
    move(robot, start)


def test_it_is_not_reset_while_it_moves(twin, client):  # noqa: F811
    robot, _ = connect(twin.address)
    set_off(robot, 0.3)
    with pytest.raises(ValueError, match="stop it before a reset"):
        client.reset()
    robot.join_motion()
    client.reset()
    assert eventually(lambda: abs(joints_of(robot)[0]) < 1e-3)


_PYLIBFRANKA = """
import contextlib, os, sys
import numpy as np
import pylibfranka as f

with contextlib.suppress(PermissionError):  # its loop is Python, and has a millisecond a turn
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))
robot = f.Robot(sys.argv[1], f.RealtimeConfig.kIgnore)
start = np.array(robot.read_once().q)
control = robot.start_joint_position_control(f.ControllerMode.JointImpedance)
time_s = 0.0
while time_s <= 2.0:
    state, period = control.readOnce()
    time_s += period.to_sec()
    goal = start.copy()
    goal[6] += 0.05 * (1 - np.cos(np.pi * min(time_s, 2.0) / 2.0))
    command = f.JointPositions(list(goal))
    command.motion_finished = time_s > 2.0
    control.writeOnce(command)
print(np.array(robot.read_once().q)[6] - start[6])
"""


def test_pylibfranka_connects_and_moves(twin, client):  # noqa: F811
    # a process of its own: it cannot be imported beside franky
    require_twin("pylibfranka")
    done = subprocess.run(
        [sys.executable, "-c", _PYLIBFRANKA, twin.address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(0.1, abs=0.003)  # rad


def test_frozen_thawed_and_killed():
    require_twin("franky")
    import franky

    with start_twin() as mortal:
        robot, _ = connect(mortal.address)
        set_off(robot, 0.8, speed_rad_s=0.1)
        mortal.freeze()
        with pytest.raises(franky.NetworkException):
            robot.join_motion()
        mortal.thaw()
        assert mortal.running()
        mortal.kill()
        assert not mortal.running()
        with pytest.raises(franky.NetworkException):
            connect(mortal.address)
        with pytest.raises(ConnectionError):
            mortal.client()


_STARTER = """
import time
from real_robot.twin import start_twin
with start_twin() as twin:
    twin.freeze()
    print(twin.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow  # a process that starts a twin, and a frozen one that is waited for
def test_a_frozen_twin_does_not_outlive_the_process_that_started_it():
    require_twin()
    with subprocess.Popen([sys.executable, "-c", _STARTER], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
    assert eventually(lambda: not Path(f"/proc/{pid}/cmdline").exists(), 10.0)


def test_an_address_in_use_is_reported():
    require_twin()
    taken = replace(STANDARD, address="127.9.8.7")
    with (
        socket.create_server(("127.9.8.7", 1337)),
        pytest.raises(RuntimeError, match=r"(?s)127\.9\.8\.7 did not start.*already in use"),
        start_twin(taken),
    ):
        pass
