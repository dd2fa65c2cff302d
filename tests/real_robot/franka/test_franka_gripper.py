"""The hand carries out the newest request and grasps an object in its way; no call waits."""

import time

import pytest

from real_robot.franka.config import GripperConfig
from real_robot.franka.gripper import Gripper
from tests.real_robot.franka import fake_franky
from tests.real_robot.franka.fake_franky import wait_for

CONFIG = GripperConfig(
    speed_m_s=0.1, force_n=20.0, grasp_below_m=0.01, tolerance_m=0.001, homing=False
)


@pytest.fixture
def hand():
    return fake_franky.Gripper()


@pytest.fixture
def gripper(hand):
    running = Gripper(hand, CONFIG)
    yield running
    hand.go_on.set()
    running.close()


def test_it_opens_by_moving_and_closes_by_grasping(hand, gripper) -> None:
    gripper.request(0.0)
    wait_for(lambda: gripper.state().width_m == 0.0)
    gripper.request(0.06)
    wait_for(lambda: gripper.state().width_m == 0.06)
    assert hand.log == [("grasp", 0.0), ("move", 0.06)]
    assert gripper.state().error is None


def test_nothing_waits_and_only_the_newest_request_counts(hand, gripper) -> None:
    hand.go_on.clear()
    began_s = time.monotonic()
    for width_m in (0.07, 0.05, 0.03, 0.06):
        gripper.request(width_m)
        wait_for(lambda: hand.log)
    assert time.monotonic() - began_s < 2.0  # the first motion has not ended yet
    hand.go_on.set()
    wait_for(lambda: gripper.state().width_m == 0.06)
    assert hand.log == [("move", 0.07), ("move", 0.06)]


def test_a_width_that_hardly_differs_is_ignored(hand, gripper) -> None:
    gripper.request(0.05)
    wait_for(lambda: gripper.state().width_m == 0.05)
    for width_m in (0.0505, 0.0495, 0.05):
        gripper.request(width_m)
    time.sleep(0.05)
    assert hand.log == [("move", 0.05)]


def test_it_holds_what_it_meets_and_does_not_grasp_it_anew(hand, gripper) -> None:
    hand.object_m = 0.045
    gripper.request(0.0)
    wait_for(lambda: gripper.state().is_grasping)
    assert gripper.state().width_m == 0.045
    gripper.request(0.005)  # still closed: the force is kept
    gripper.request(0.03)
    time.sleep(0.05)
    assert hand.log == [("grasp", 0.0)]
    gripper.request(0.08)
    wait_for(lambda: gripper.state().width_m == 0.08)
    assert not gripper.state().is_grasping


def test_on_its_way_to_a_width_it_holds_what_is_in_between(hand, gripper) -> None:
    hand.object_m = 0.045
    gripper.request(0.03)
    wait_for(lambda: gripper.state().is_grasping)
    assert hand.log == [("move", 0.03), ("grasp", 0.03)]
    assert gripper.state().error is None


def test_closed_fingers_hold_nothing_whatever_the_hand_says(hand, gripper) -> None:
    gripper.request(0.0)
    wait_for(lambda: gripper.state().width_m == 0.0)
    assert hand.is_grasped
    assert not gripper.state().is_grasping


def test_a_failed_motion_is_reported_and_the_next_one_runs(hand, gripper) -> None:
    hand.error = RuntimeError("libfranka gripper: Command failed!")
    gripper.request(0.02)
    wait_for(lambda: gripper.state().error is not None)
    assert "move to 0.0200 m failed" in gripper.state().error
    hand.error = None
    gripper.request(0.04)
    wait_for(lambda: gripper.state().width_m == 0.04)
    wait_for(lambda: gripper.state().error is None)


def test_a_motion_that_failed_is_tried_again_at_the_next_request(hand, gripper) -> None:
    hand.error = RuntimeError("libfranka gripper: Command failed!")
    gripper.request(0.02)
    wait_for(lambda: gripper.state().error is not None)
    hand.error = None
    time.sleep(0.05)
    assert hand.log == [("move", 0.02)]  # not by itself
    gripper.request(0.02)
    wait_for(lambda: gripper.state().width_m == 0.02)
    wait_for(lambda: gripper.state().error is None)


def test_a_hand_that_is_gone_has_an_old_stamp_and_a_word(hand, gripper) -> None:
    hand.is_gone = True
    wait_for(lambda: gripper.state().error is not None)
    stamp_s = gripper.state().stamp_s
    time.sleep(0.05)
    assert gripper.state().stamp_s == stamp_s
    assert "does not answer" in gripper.state().error
    hand.is_gone = False
    wait_for(lambda: gripper.state().stamp_s > stamp_s)
    assert gripper.state().error is None


def test_a_width_that_is_no_number_is_refused(gripper) -> None:
    with pytest.raises(ValueError, match="finite"):
        gripper.request(float("nan"))
