"""The contract of `Robot`, for the fake robot and for the Franka driver on a twin."""

import time
from dataclasses import replace

import numpy as np
import pytest

from real_robot.franka import FrankaConfig, FrankaRobot
from real_robot.robot import CommandRefusedError, ConnectionLostError, Robot
from real_robot.twin.client import TwinClient
from tests.real_robot.fake_robot import FakeRobot
from tests.real_robot.franka.fake_franky import wait_for
from tests.real_robot.safety.safety_cases import HOME
from tests.real_robot.starved import blame_the_machine
from tests.real_robot.twin_fixture import require_twin, twin  # noqa: F401

REST_RAD_S = 0.02


def twin_config(address) -> FrankaConfig:
    """Return configs/franka/twin.yaml for a twin."""
    import yaml

    from toto_robot.config import from_dict
    from toto_robot.config_files import CHECKOUT

    data = yaml.safe_load((CHECKOUT / "franka" / "twin.yaml").read_text())
    return replace(from_dict(FrankaConfig, data), address=address)


class PatientRobot(FrankaRobot):
    """The driver; a machine that is too busy for 1 kHz is not a fault of the driver."""

    def command(self, joint_positions_rad):
        try:
            return super().command(joint_positions_rad)
        except CommandRefusedError as error:
            with TwinClient(self._config.address) as client:
                if "user" not in str(error):
                    blame_the_machine(client, error)
            raise


@pytest.fixture(params=["fake", "twin"])
def robot(request):
    """Return a connected robot at its home pose, hand open."""
    if request.param == "fake":
        with FakeRobot(HOME, time.monotonic) as fake:
            yield fake
        return
    require_twin("franky")
    running = request.getfixturevalue("twin")
    with running.client() as client:
        client.reset()
        client.rates()  # from here on
    with PatientRobot(twin_config(running.address)) as driver:
        if driver.state().errors:
            driver.recover()
        yield driver


def speed(robot):
    return float(np.abs(robot.state().joint_velocities_rad_s).max())


def lead(robot, change_rad, seconds, rate_hz=20.0):
    """Command a straight line of targets; give the last."""
    start = robot.state().joint_positions_rad
    count = max(1, int(seconds * rate_hz))
    for index in range(1, count + 1):
        target = start + change_rad * (index / count)
        robot.command(target)
        time.sleep(1 / rate_hz)
    return target


def test_it_keeps_the_protocol(robot) -> None:
    assert isinstance(robot, Robot)
    assert robot.name.startswith("franka_")
    assert "server version 10" in robot.description
    assert robot.limits.num_joints == 7


def test_its_state_is_fresh_and_complete(robot) -> None:
    state = robot.state()
    assert time.monotonic() - state.stamp_s < 0.1
    assert np.isfinite(state.joint_positions_rad).all()
    assert state.mode == "idle"
    assert state.errors == ()
    assert state.gripper.max_width_m == pytest.approx(0.08, abs=1e-3)
    assert state.gripper.width_m == pytest.approx(0.08, abs=2e-3)
    lower, upper = robot.limits.lower_rad, robot.limits.upper_rad
    assert (state.joint_positions_rad > lower).all()
    assert (state.joint_positions_rad < upper).all()


def test_states_go_on_while_nothing_is_commanded(robot) -> None:
    stamp_s = robot.state().stamp_s
    wait_for(lambda: robot.state().stamp_s > stamp_s)


def test_it_goes_to_targets_and_holds_the_last(robot) -> None:
    change = np.array([0.1, 0.05, -0.1, 0.1, 0.0, -0.1, 0.2])
    target = lead(robot, change, 1.0)
    assert robot.state().mode == "moving"
    wait_for(lambda: np.abs(robot.state().joint_positions_rad - target).max() < 0.005)
    time.sleep(0.3)  # without another target
    assert np.abs(robot.state().joint_positions_rad - target).max() < 0.005
    assert speed(robot) < REST_RAD_S


def test_command_gives_what_was_sent_and_keeps_no_hold_of_it(robot) -> None:
    here = robot.state().joint_positions_rad
    target = here.copy()
    np.testing.assert_array_equal(robot.command(target), here)
    target += 1.0
    time.sleep(0.2)
    assert np.abs(robot.state().joint_positions_rad - here).max() < 0.005


def test_stop_brings_it_to_rest_where_it_is_then(robot) -> None:
    lead(robot, np.array([0.3, 0, 0, 0, 0, 0, 0]), 0.5)
    robot.stop()
    here = robot.state().joint_positions_rad
    assert robot.state().mode == "idle"
    assert speed(robot) < REST_RAD_S
    time.sleep(0.2)
    assert np.abs(robot.state().joint_positions_rad - here).max() < 0.003
    robot.stop()
    lead(robot, np.array([-0.1, 0, 0, 0, 0, 0, 0]), 0.3)  # and it goes on from there
    assert robot.state().mode == "moving"


def test_irregular_targets_do_no_harm(robot) -> None:
    random = np.random.default_rng(0)
    start = robot.state().joint_positions_rad
    for index in range(12):
        target = start + 0.02 * index * np.array([1, 0, 1, 0, 0, 1, 0])
        robot.command(target)
        time.sleep(random.uniform(0.005, 0.15))
    wait_for(lambda: np.abs(robot.state().joint_positions_rad - target).max() < 0.005)
    assert robot.state().errors == ()


def test_the_hand_goes_to_a_width(robot) -> None:
    robot.move_gripper(0.04)
    wait_for(lambda: abs(robot.state().gripper.width_m - 0.04) < 0.002)
    robot.move_gripper(0.08)
    wait_for(lambda: abs(robot.state().gripper.width_m - 0.08) < 0.002)
    assert not robot.state().gripper.is_grasping


def test_closed_it_takes_no_commands_and_can_be_connected_again(robot) -> None:
    robot.close()
    robot.close()
    with pytest.raises(ConnectionLostError):
        robot.state()
    robot.connect()
    assert robot.state().mode == "idle"


# the twin alone: what a fake does not have


@pytest.fixture
def driver(twin):  # noqa: F811
    with twin.client() as client:
        client.reset()
        client.rates()  # from here on
    with PatientRobot(twin_config(twin.address)) as driver:
        yield driver


def test_limits_come_from_the_robots_own_model(driver) -> None:
    assert "URDF" in driver.limits.source
    assert driver.limits.velocity_rad_s == (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)


def test_it_follows_a_slow_line_closely(driver) -> None:
    """Tolerance: 10 mrad behind the smooth reference, which is late by a period and a half."""
    start, period_s, speed = driver.state().joint_positions_rad, 0.1, 0.2
    direction = np.array([1.0, 0.0, -1.0, 0.5, 0.0, 1.0, 1.0])
    seen, late_s, begun_s = [], 0.0, time.monotonic()
    for index in range(20):
        late_s = max(late_s, time.monotonic() - begun_s - index * period_s)
        driver.command(start + speed * index * period_s * direction)
        while time.monotonic() < begun_s + (index + 1) * period_s:
            if index >= 10:
                seen.append(driver.state())
            time.sleep(0.005)
    errors = [
        state.joint_positions_rad
        - start
        - speed * (state.stamp_s - begun_s - 1.5 * period_s) * direction
        for state in seen
    ]
    typical = np.median(np.abs(errors), axis=0).max()
    if typical >= 0.01:
        with TwinClient(driver._config.address) as client:
            blame_the_machine(client, f"{typical} rad", late_s=late_s, most_late_s=0.03)
    assert typical < 0.01
    assert driver.state().command_success_rate > 0.5


def test_the_user_stop_is_reported_and_not_recovered_from(twin, driver) -> None:  # noqa: F811
    with twin.client() as client:
        lead(driver, np.zeros(7), 0.2)
        client.press_user_stop()
        try:
            wait_for(lambda: driver.state().mode == "user_stopped")
            assert speed(driver) < 0.1
            with pytest.raises(CommandRefusedError, match=r"user_stopped|User Stop"):
                driver.command(driver.state().joint_positions_rad)
            with pytest.raises(CommandRefusedError, match="user stop is pressed"):
                driver.recover()
        finally:
            client.release_user_stop()
    driver.stop()
    wait_for(lambda: driver.state().mode == "idle")
    lead(driver, np.zeros(7), 0.2)
    assert driver.state().mode == "moving"


def test_a_stopped_robot_refuses_settings_and_with_them_a_connection(twin) -> None:  # noqa: F811
    import franky

    with twin.client() as client:
        client.reset()
        with PatientRobot(twin_config(twin.address)) as driver:
            lead(driver, np.zeros(7), 0.2)
            client.fail("cartesian_reflex")
            wait_for(lambda: driver.state().mode == "reflex")
            with pytest.raises(franky.CommandException, match="not possible in the current mode"):
                driver._arm._robot.set_load(0.1, [0.0] * 3, [0.0] * 9)
            driver.recover()
            driver._arm._robot.set_load(0.0, [0.0] * 3, [0.0] * 9)
        client.press_user_stop()
        try:
            with pytest.raises(CommandRefusedError, match="press and release the user stop"):
                FrankaRobot(twin_config(twin.address)).connect()
        finally:
            client.release_user_stop()
        with FrankaRobot(twin_config(twin.address)) as driver:
            assert driver.state().mode == "idle"


def test_a_robot_that_freezes_is_lost_within_two_seconds(twin) -> None:  # noqa: F811
    driver = FrankaRobot(twin_config(twin.address))
    driver.connect()
    lead(driver, np.zeros(7), 0.2)
    twin.freeze()
    try:
        frozen_s, stamp_s = time.monotonic(), driver.state().stamp_s

        def is_lost():
            try:
                assert driver.state().stamp_s - stamp_s < 0.05
            except ConnectionLostError as error:
                return "does not answer any more" in str(error)
            return False

        wait_for(is_lost)
        assert time.monotonic() - frozen_s < 3.0  # 1.0 s of libfranka's, and a busy machine
    finally:
        twin.thaw()
        driver.close()
    with FrankaRobot(twin_config(twin.address)) as again:
        if again.state().errors:
            again.recover()
        lead(again, np.zeros(7), 0.2)
        assert again.state().mode == "moving"


def test_the_check_reports_the_robot_and_moves_nothing(twin, tmp_path, capsys) -> None:  # noqa: F811
    from real_robot.franka.__main__ import FrankaCheckConfig, check
    from toto_robot.cli import compose
    from toto_robot.config import from_dict

    overrides = ["franka@_global_=twin", f"address={twin.address}", "duration_s=0.5"]
    data, _ = compose("franka_check", overrides)
    report = check(from_dict(FrankaCheckConfig, data), tmp_path)
    printed = capsys.readouterr().out
    assert "server version 10" in printed
    assert "joint 6:" in printed
    assert report["mode"] == "idle"
    assert report["states_hz"] > 50
    assert (tmp_path / "franka_check.json").is_file()


def test_the_check_without_a_robot_ends_with_one_line(tmp_path) -> None:
    from real_robot.franka.__main__ import FrankaCheckConfig, check
    from toto_robot.cli import compose
    from toto_robot.config import from_dict

    data, _ = compose("franka_check", ["address=127.254.254.253"])
    with pytest.raises(SystemExit, match="refuses port 1337"):
        check(from_dict(FrankaCheckConfig, data), tmp_path)
