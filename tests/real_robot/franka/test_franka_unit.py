"""The Franka driver without a robot: versions, config, threads, modes and errors."""

import errno
import socket
import struct
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from real_robot.franka import FrankaConfig, FrankaRobot
from real_robot.franka import robot as robot_module
from real_robot.franka import versions as versions_module
from real_robot.franka.versions import read_server_version, require_port, require_version
from real_robot.robot import CommandRefusedError, ConnectionLostError, Robot, RobotError
from real_robot.station import _connect as connect_station
from tests.real_robot.franka import fake_franky
from tests.real_robot.franka.fake_franky import HOME, wait_for

HEADER = struct.Struct("<III")


@pytest.fixture(scope="module")
def config():
    import yaml

    from toto_robot.config import from_dict
    from toto_robot.config_files import CHECKOUT

    data = yaml.safe_load((CHECKOUT / "franka" / "twin.yaml").read_text())
    return replace(from_dict(FrankaConfig, data), priority=0)


# versions


@pytest.fixture
def server(monkeypatch):
    """Return a way to start a robot's server that answers once with what a function gives."""
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(versions_module, "ROBOT_PORT", listener.getsockname()[1])
    threads, seen = [], []

    def start(answer):
        def run():
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(100))
                connection.sendall(answer)
                if answer == b"":
                    time.sleep(0.3)  # silence, not an end

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return seen

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def answer_of(version, status=0):
    return HEADER.pack(0, 0, HEADER.size + 3) + struct.pack("<BH", status, version)


@pytest.mark.parametrize(("version", "status"), [(10, 0), (9, 1), (5, 1)])
def test_the_version_is_read_also_of_a_robot_that_refuses_ours(server, version, status) -> None:
    seen = server(answer_of(version, status))
    assert read_server_version("127.0.0.1", 2.0) == version
    command, _, size = HEADER.unpack(seen[0][: HEADER.size])
    assert (command, size) == (0, len(seen[0]))
    assert struct.unpack("<HH", seen[0][HEADER.size :])[0] == 10


def test_a_silent_server_and_another_server_have_different_messages(server) -> None:
    server(b"")
    with pytest.raises(ConnectionLostError, match=r"does not answer within 0\.1 s.*activated"):
        read_server_version("127.0.0.1", 0.1)
    server(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ConnectionLostError, match="is not a Franka"):
        read_server_version("127.0.0.1", 2.0)
    server(HEADER.pack(0, 0, 15))  # and then it closes
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        read_server_version("127.0.0.1", 2.0)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the host 'franka' is not found"),
        (ConnectionRefusedError(), "activate the Franka Control Interface"),
        (TimeoutError(), r"does not answer within 0\.5 s: is it switched on"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "the robot at franka cannot be reached"),
    ],
)
def test_a_missing_robot_is_reported_with_what_to_check(monkeypatch, error, words) -> None:
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ConnectionLostError, match=words):
        read_server_version("franka", 0.5)


def test_a_missing_hand_is_reported(monkeypatch) -> None:
    def refuse(*_, **__):
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ConnectionLostError, match="gripper: null"):
        require_port("franka", 1338, 0.5)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (5, "a Panda.*libfranka_0-9-2_wheels"),
        (6, "5.2 to 5.4.*Update the robot's system.*libfranka_0-12-1_wheels"),
        (7, "libfranka_0-13-3_wheels"),
        (8, "libfranka_0-14-2_wheels"),
        (9, "5.7.2 to 5.8.*libfranka_0-17-0_wheels"),
        (11, "newer"),
        (3, "other versions: 5"),
    ],
)
def test_another_version_is_refused_with_the_wheel_that_fits(version, words) -> None:
    with pytest.raises(RobotError, match=words):
        require_version(version)


def test_our_version_is_fine() -> None:
    require_version(10)


# config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"address": ""}, "address"),
        ({"address": "10.0.0.1 "}, "address"),
        ({"collision_torque_nm": (20.0,) * 6 + (0.0,)}, "collision_torque_nm"),
        ({"stop_timeout_s": 0.0}, "stop_timeout_s"),
        ({"priority": 100}, "priority"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"torque_rate_nm_s": 1001.0}, "the arm's limit"),
        ({"stiffness_nm_rad": (-1.0,) * 7}, "stiffness"),
        ({"velocity_fraction": 0.0}, "velocity_fraction"),
        ({"smoothing_s": float("inf")}, "smoothing_s"),
    ],
)
def test_tracking_that_makes_no_sense_is_refused(config, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        replace(config.tracking, **changes)


def test_an_inertia_is_symmetric(config) -> None:
    payload = replace(config.payload, inertia_kg_m2=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    matrix = np.array(payload.inertia_matrix()).reshape(3, 3)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), [1.0, 2.0, 3.0])


# the driver on a fake franky


@pytest.fixture
def driver(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "franky", fake_franky)
    monkeypatch.setattr(robot_module, "read_server_version", lambda *_: 10)
    monkeypatch.setattr(robot_module, "require_port", lambda *_: None)
    quick = replace(config, stop_timeout_s=0.5, recover_timeout_s=1.0)
    with FrankaRobot(quick) as driver:
        yield driver


def fake_of(driver):
    return driver._arm._robot


def test_it_is_a_robot(driver) -> None:
    assert isinstance(driver, Robot)
    assert driver.name == "franka_fr3"
    assert "server version 10" in driver.description


def test_connecting_sets_thresholds_and_payload_and_reads_limits(config, driver) -> None:
    log = fake_of(driver).log
    assert log[0] == ("collision", [40.0] * 7, [40.0] * 6)
    assert log[1][:2] == ("load", 0.0)
    assert driver.limits.upper_rad[0] == 2.7
    assert driver.limits.acceleration_rad_s2[0] == 10.0
    assert fake_of(driver).realtime_config == "ignore"


@pytest.mark.parametrize("mode", ["Reflex", "UserStopped"])
def test_a_robot_that_stopped_itself_is_connected_after_a_person_has_helped(
    config, driver, monkeypatch, mode
) -> None:
    robots = []

    class Stopped(fake_franky.Robot):
        """The constructor sends a setting, as that of franky does."""

        def __init__(self, *where, **how):
            super().__init__(*where, **how)
            self.mode = "Idle" if robots else mode
            robots.append(self)
            self.set_collision_behavior(20.0, 30.0)

    monkeypatch.setattr(fake_franky, "Robot", Stopped)
    asked = []
    connect_station(driver, lambda question: asked.append(question) or "")
    assert driver.state().mode == "idle"
    (question,) = asked
    assert f'not possible in the current mode ("{mode}")' in question
    assert "press and release the user stop" in question
    robots.clear()
    with pytest.raises(CommandRefusedError, match="current mode"):
        connect_station(driver, None)  # no person is at a twin


def test_without_a_connection_everything_says_so(config) -> None:
    driver = FrankaRobot(config)
    for call in (
        driver.state,
        driver.recover,
        lambda: driver.command(HOME),
        lambda: driver.move_gripper(0.0),
        lambda: driver.limits,
    ):
        with pytest.raises(ConnectionLostError, match=r"call connect\(\)"):
            call()
    driver.stop()
    driver.close()


def test_without_franky_it_says_what_to_install(config, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "franky", None)
    monkeypatch.setattr(robot_module, "read_server_version", lambda *_: 10)
    with pytest.raises(ImportError, match=r"toto-robot\[franka\]"):
        FrankaRobot(config).connect()


def test_an_older_robot_is_refused_before_franky_is_asked(config, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "franky", None)
    monkeypatch.setattr(robot_module, "read_server_version", lambda *_: 9)
    with pytest.raises(RobotError, match="libfranka_0-17-0"):
        FrankaRobot(config).connect()


def test_the_controller_starts_where_the_arm_is_and_goes_to_the_target(driver) -> None:
    fake, target = fake_of(driver), HOME + 0.05
    sent = driver.command(target)
    np.testing.assert_array_equal(sent, target)
    wait_for(lambda: np.allclose(fake.q, target, atol=1e-5))
    motion = fake.motion
    np.testing.assert_array_equal(motion.references[0].q, HOME)
    steps = np.diff([reference.q for reference in motion.references], axis=0)
    assert np.abs(steps).max() < 0.03, "a target must not become a step"
    assert motion.arguments["max_delta_tau"] == 1.0
    assert driver.state().mode == "moving"


def test_a_command_does_not_wait_for_the_robot(driver) -> None:
    fake = fake_of(driver)
    with fake._lock:  # no state comes
        began_s = time.monotonic()
        driver.command(HOME)
        driver.state()
        assert time.monotonic() - began_s < 1.0


def test_stop_ends_at_rest_and_the_next_command_starts_anew(driver) -> None:
    fake = fake_of(driver)
    driver.command(HOME + 0.2)
    wait_for(lambda: np.abs(fake.q - HOME).max() > 0.02)
    driver.stop()
    wait_for(lambda: driver.state().mode == "idle")
    assert fake.log[-1] == ("move", "TorqueStopMotion")
    here = fake.q.copy()
    assert np.abs(here - HOME).max() < 0.19, "it must not go on to the target"
    driver.stop()
    driver.command(here)
    wait_for(lambda: driver.state().mode == "moving")
    np.testing.assert_array_equal(fake.motion.references[0].q, here)


def test_an_arm_that_does_not_come_to_rest_is_stopped_hard(driver, monkeypatch) -> None:
    fake = fake_of(driver)
    driver.command(HOME)
    wait_for(lambda: fake.motion is not None)
    monkeypatch.setattr(fake, "move", lambda *_, **__: None)  # the gentle way has no effect
    driver.stop()
    assert ("stop",) in fake.log
    wait_for(lambda: driver.state().mode == "idle")
    assert driver.state().errors == ()


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("Guiding", "guiding"),
        ("Reflex", "reflex"),
        ("UserStopped", "user_stopped"),
        ("AutomaticErrorRecovery", "recovering"),
        ("Other", "other"),
        ("SomethingNew", "other"),
    ],
)
def test_modes_are_reported_and_refuse_commands(driver, name, mode) -> None:
    fake_of(driver).mode = name
    wait_for(lambda: driver.state().mode == mode)
    with pytest.raises(CommandRefusedError, match=f"the robot is {mode}"):
        driver.command(HOME)


def test_a_reflex_ends_the_motion_with_the_robots_own_name_of_it(driver) -> None:
    driver.command(HOME)
    fake = fake_of(driver)
    wait_for(lambda: fake.motion is not None)
    fake.end("Reflex", "joint_velocity_violation")
    wait_for(lambda: driver.state().errors == ("joint_velocity_violation",))
    with pytest.raises(CommandRefusedError, match="joint_velocity_violation"):
        driver.command(HOME)
    driver.recover()
    assert driver.state().errors == ()
    driver.command(HOME)


def test_a_reflex_without_current_errors_has_the_last_motions(driver) -> None:
    fake_of(driver).mode = "Reflex"
    wait_for(lambda: driver.state().errors == ("joint_reflex",))


def test_a_motion_that_ends_while_the_robot_is_idle_again_is_not_started_silently(driver) -> None:
    driver.command(HOME)
    fake = fake_of(driver)
    wait_for(lambda: fake.motion is not None)
    with fake._lock:  # the thread waits for a state, and finds a target and an end
        driver.command(HOME)
        fake.end("Idle", words="something happened!")
    wait_for(lambda: driver.state().errors)
    time.sleep(0.05)
    assert fake.log.count(("move", "JointImpedanceTrackingMotion")) == 1
    assert "something happened" in driver.state().errors[0]
    assert "success_rate" not in driver.state().errors[0]
    with pytest.raises(CommandRefusedError, match="something happened"):
        driver.command(HOME)
    driver.stop()  # the episode is over: the next one may begin
    assert driver.state().errors == ()
    driver.command(HOME)


def test_the_user_stop_is_no_matter_for_recover(driver) -> None:
    fake = fake_of(driver)
    fake.mode = "UserStopped"
    wait_for(lambda: driver.state().mode == "user_stopped")
    with pytest.raises(CommandRefusedError, match="user stop is pressed"):
        driver.recover()
    assert ("recover",) not in fake.log


def test_an_error_that_needs_a_person_is_reported(driver) -> None:
    fake = fake_of(driver)
    fake.mode, fake.errors, fake.heals = "Reflex", ["joint_position_limits_violation"], False
    wait_for(lambda: driver.state().mode == "reflex")
    with pytest.raises(CommandRefusedError, match="joint_position_limits_violation"):
        driver.recover()


def test_a_robot_that_is_gone_ages_and_then_is_lost(driver) -> None:
    fake = fake_of(driver)
    driver.command(HOME)
    wait_for(lambda: fake.motion is not None)
    fake.frozen = True
    time.sleep(0.1)  # a state that was read before may still arrive
    stamp_s = driver.state().stamp_s
    time.sleep(0.1)
    assert driver.state().stamp_s - stamp_s < 0.08, "an old state must not get a new stamp"
    fake.is_gone = True

    def is_lost():
        try:
            driver.state()
        except ConnectionLostError as error:
            return "UDP receive: Timeout" in str(error)
        return False

    wait_for(is_lost)
    with pytest.raises(ConnectionLostError, match="does not answer any more"):
        driver.command(HOME)
    began_s = time.monotonic()
    driver.stop()
    assert time.monotonic() - began_s < 0.5
    driver.connect()  # a new connection is a new robot
    assert driver.state().mode == "idle"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (np.full(7, np.nan), "finite"),
        (np.zeros(6), "7 finite numbers"),
        (HOME + np.array([0, 0, 0, 0, 0, 3.0, 0]), r"joint 6 at 4\.9000 rad is outside"),
    ],
)
def test_what_is_no_target_is_refused(driver, target, words) -> None:
    with pytest.raises(CommandRefusedError, match=words):
        driver.command(target)
    assert fake_of(driver).motion is None


def test_the_hand_moves_and_an_arm_without_a_hand_refuses(driver, config) -> None:
    driver.move_gripper(0.03)
    wait_for(lambda: driver.state().gripper.width_m == 0.03)
    assert driver.gripper_temperature_c == 30.0
    with pytest.raises(CommandRefusedError, match="finite"):
        driver.move_gripper(float("inf"))
    driver._gripper._hand.max_width = 0.0  # it was switched off and on
    wait_for(lambda: driver.state().gripper.max_width_m == 0.0)
    with pytest.raises(CommandRefusedError, match="does not know its maximum width"):
        driver.move_gripper(0.08)
    with FrankaRobot(replace(config, gripper=None)) as bare:
        assert bare.state().gripper is None
        with pytest.raises(CommandRefusedError, match="no gripper"):
            bare.move_gripper(0.03)


def test_closing_ends_the_threads_and_may_be_done_twice(driver) -> None:
    driver.command(HOME)
    driver.close()
    driver.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("franka")]


def test_what_fails_while_connecting_leaves_nothing_behind(config, driver, monkeypatch) -> None:
    def fails(_):
        raise fake_franky.NetworkException("libfranka gripper: Connection refused")

    monkeypatch.setattr(fake_franky, "Gripper", fails)
    with pytest.raises(ConnectionLostError, match="gripper: Connection refused"):
        driver.connect()
    assert not [t for t in threading.enumerate() if t.name.startswith("franka")]
    with pytest.raises(ConnectionLostError, match=r"call connect\(\)"):
        driver.state()


def test_without_a_real_time_kernel_it_says_what_to_do(config, driver, monkeypatch) -> None:
    def fails(*_, **__):
        raise fake_franky.RealtimeException("libfranka: no realtime capabilities.")

    monkeypatch.setattr(fake_franky, "Robot", fails)
    with pytest.raises(RobotError, match="set realtime: ignore"):
        driver.connect()


def test_joints_in_another_order_are_refused(driver, monkeypatch) -> None:
    mixed = fake_franky.URDF.replace("joint1", "jointX").replace("joint2", "joint1")
    monkeypatch.setattr(fake_franky.Robot, "model_urdf", mixed)
    with pytest.raises(RobotError, match="jointX, joint1, joint3"):
        driver.connect()


def test_an_invalid_model_is_reported(config, driver, monkeypatch) -> None:
    monkeypatch.setattr(fake_franky.Robot, "model_urdf", "<robot/>")
    with pytest.raises(RobotError, match="0 revolute joints"):
        driver.connect()
