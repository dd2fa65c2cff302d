"""What the safety layer does in each situation, and what it says about it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from envs.arms.kinematics import solve_ik, tool_pose
from real_robot.limits import FR3
from real_robot.robot import CommandRefusedError, ConnectionLostError, Robot
from real_robot.safety.config import SafetyConfig, Watchdog
from real_robot.safety.layer import Ages, RecoveryRefusedError, SafetyLayer, UnsafeStartError
from tests.real_robot.fake_robot import FakeRobot
from tests.real_robot.safety.safety_cases import (
    ARM,
    CONFIG,
    FRESH,
    HOME,
    PERIOD_S,
    Judge,
    state_at,
    target,
    velocity_bounds,
)
from toto_robot.config import from_dict, to_dict

ROOT = Path(__file__).parents[3]


def layer_at(pose=HOME, config=CONFIG, now_s=0.0):
    layer = SafetyLayer(config, FR3, ARM)
    layer.begin(state_at(pose, now_s), start=pose, now_s=now_s)
    return layer


def run(layer, requested, num_ticks, *, now_s=0.0, measured=None, ages=FRESH):
    """Return the decisions on one requested target over some time steps."""
    decisions, last = [], HOME if measured is None else measured
    for _ in range(num_ticks):
        decision = layer.command(target(requested), state_at(last, now_s), ages, now_s)
        decisions.append(decision)
        last = decision.target.joint_positions_rad
        now_s += PERIOD_S
    return decisions


def turned(joint, angle_rad):
    """Return the home pose with one joint turned."""
    pose = HOME.copy()
    pose[joint - 1] += angle_rad
    return pose


def names(decision):
    return [intervention.name for intervention in decision.interventions]


def test_a_small_wish_passes_untouched() -> None:
    requested = turned(1, 0.001)
    decision = layer_at().command(target(requested, 0.03), state_at(HOME, 0.0), FRESH, 0.0)
    assert np.array_equal(decision.target.joint_positions_rad, requested)
    assert decision.target.gripper_width_m == 0.03
    assert (decision.verdict, decision.causes, decision.interventions) == ("move", (), ())
    assert not decision.ended


def test_each_cap_says_how_much_it_took() -> None:
    decision = layer_at().command(target(HOME + 9.0), state_at(HOME, 0.0), FRESH, 0.0)
    found = {item.name: item.amount for item in decision.interventions}
    assert list(found)[:3] == ["joint_limit", "step", "velocity"]
    beyond = (HOME + 9.0) - (np.array(FR3.upper_rad) - 0.1)
    assert found["joint_limit"] == pytest.approx(beyond.max())
    # from rest one period of acceleration: 0.3 * 10 rad/s2 * (0.1 s)^2
    step = decision.target.joint_positions_rad - HOME
    assert step.max() == pytest.approx(0.03)
    assert all(item.unit == "rad" and item.detail for item in decision.interventions)


def test_a_far_wish_is_reached_in_many_steps_and_ends_at_the_margin() -> None:
    requested = turned(1, 5.0)
    config = replace(
        CONFIG, workspace=replace(CONFIG.workspace, low_m=(-1, -1, 0), high_m=(1, 1, 1))
    )
    decisions = run(layer_at(config=config), requested, 150)
    reached = decisions[-1].target.joint_positions_rad
    # Joint 1's speed at its end is 0 already o^2 / 2d = 7.5 mrad before it.
    assert FR3.upper_rad[0] - 0.1 - 0.008 < reached[0] <= FR3.upper_rad[0] - 0.1
    assert np.allclose(reached[1:], HOME[1:])


def test_velocity_shrinks_towards_the_end_as_the_robot_says() -> None:
    for half, limit, away in ((0, FR3.lower_rad, -0.1), (1, FR3.upper_rad, 0.1)):
        far, near, beyond = (
            np.sign(away) * velocity_bounds(FR3, positions)[half]
            for positions in (np.zeros(7), np.array(limit) - away, np.array(limit) + away)
        )
        assert far[0] == 2.62
        assert near[0] == pytest.approx(-0.30 + np.sqrt(2 * 6.0 * 0.1))
        assert beyond.tolist() == [0.0] * 7


def test_the_tool_slides_along_the_table_and_never_through_it() -> None:
    above = tool_pose(ARM, HOME)
    above[:3, 3] = [0.45, 0.0, 0.1]
    start, error_m, _ = solve_ik(ARM, above, HOME, rest=HOME, num_iterations=200)
    assert error_m < 1e-3
    below = above.copy()
    below[:3, 3] = [0.45, 0.2, -0.1]
    requested, _, _ = solve_ik(ARM, below, start, rest=start, num_iterations=200)
    layer, judge = layer_at(start), Judge(CONFIG, FR3)
    last, seen = start, set()
    for tick in range(120):
        now_s = tick * PERIOD_S
        decision = layer.command(target(requested), state_at(last, now_s), FRESH, now_s)
        last = decision.target.joint_positions_rad
        judge.check_place(last)
        seen.update(names(decision))
    tool = tool_pose(ARM, last)[:3, 3]
    assert "workspace" in seen
    assert tool[2] < 0.03  # it went down as far as it may ...
    assert tool[1] > 0.1  # ... and on, sideways
    (wall,) = [item for item in decision.interventions if item.name == "workspace"]
    assert "above the table" in wall.detail


@pytest.mark.parametrize(
    ("ages", "word"),
    [
        (Ages(action_s=0.3, cameras_s={"hand": 0.0}), "action"),
        (Ages(action_s=0.0, cameras_s={"hand": 0.0, "front": 0.4}), "camera front"),
    ],
)
def test_what_is_late_makes_the_arm_hold_and_what_comes_again_lets_it_go_on(ages, word) -> None:
    layer = layer_at()
    moving = run(layer, HOME + 0.2, 3)[-1].target.joint_positions_rad
    held = run(layer, HOME + 0.2, 10, now_s=3 * PERIOD_S, measured=moving, ages=ages)
    assert {decision.verdict for decision in held} == {"hold"}
    assert word in held[0].causes[0]
    assert "at most" in held[0].causes[0]
    positions = [decision.target.joint_positions_rad for decision in held]
    assert (positions[0] > moving).all()  # it brakes, it does not jerk
    assert np.array_equal(positions[-1], positions[-2])
    assert not held[-1].ended
    after = run(layer, HOME + 0.2, 1, now_s=13 * PERIOD_S, measured=positions[-1])[0]
    assert after.verdict == "move"


@pytest.mark.parametrize(
    ("ages", "word"),
    [
        (Ages(action_s=1.5, cameras_s={}), "action"),
        (Ages(action_s=0.0, cameras_s={"hand": np.inf}), "camera hand"),
        (Ages(action_s=0.0, cameras_s={"hand": -1.0}), "another clock"),
        (Ages(action_s=np.nan, cameras_s={}), "invalid age"),
    ],
)
def test_what_is_much_too_late_ends_the_episode_at_rest(ages, word) -> None:
    layer = layer_at()
    moving = run(layer, HOME + 0.2, 3)[-1].target.joint_positions_rad
    stopped = run(layer, HOME + 0.2, 1, now_s=3 * PERIOD_S, measured=moving, ages=ages)[0]
    assert stopped.verdict == "stop"
    assert word in stopped.causes[0]
    assert not stopped.ended
    # ... although all is well again
    later = run(layer, HOME + 0.2, 10, now_s=4 * PERIOD_S, measured=moving)
    assert {decision.verdict for decision in later} == {"stop"}
    assert later[-1].ended
    assert later[-1].causes == stopped.causes


def test_a_robot_that_does_not_speak_holds_then_stops() -> None:
    layer = layer_at()
    for age_s, verdict in ((0.02, "move"), (0.1, "hold"), (0.3, "stop")):
        now_s = 1.0 + age_s
        state = state_at(HOME, now_s - age_s)
        decision = layer.command(target(HOME), state, FRESH, now_s)
        assert decision.verdict == verdict
    assert "the robot's state is 0.300 s old" in decision.causes[0]


def test_a_gripper_that_does_not_answer_holds_then_stops_with_its_error() -> None:
    layer = layer_at()
    gone = "the gripper does not answer: timeout"
    for age_s, verdict in ((0.5, "move"), (1.5, "hold"), (2.5, "stop")):
        now_s = 1.0 + age_s
        state = state_at(HOME, now_s)
        gripper = replace(state.gripper, stamp_s=1.0, error=gone)
        decision = layer.command(target(HOME), replace(state, gripper=gripper), FRESH, now_s)
        assert decision.verdict == verdict
    assert f"the gripper's state ({gone}) is 2.500 s old" in decision.causes[0]
    with pytest.raises(UnsafeStartError, match="the gripper's state"):
        layer.begin(replace(state, gripper=gripper), start=None, now_s=now_s)


@pytest.mark.parametrize(
    ("requested", "word"),
    [
        (target([np.nan, *HOME[1:]]), "joint 1 is nan"),
        (target([*HOME[:6], np.inf]), "joint 7 is inf"),
        (target(HOME[:6]), r"shape (6,), expected (7,)"),
        (target(HOME, np.nan), "gripper is nan"),
        (replace(target(HOME), joint_positions_rad="left"), "not a list of numbers"),
        (replace(target(HOME), joint_positions_rad=None), "shape ()"),
        (target(HOME, "wide"), "gripper is wide"),
    ],
)
def test_a_broken_action_ends_the_episode_and_is_named(requested, word) -> None:
    layer = layer_at()
    decision = layer.command(requested, state_at(HOME, 0.0), FRESH, 0.0)
    assert decision.verdict == "stop"
    assert word in decision.causes[0]
    assert decision.ended  # it was at rest
    assert np.array_equal(decision.target.joint_positions_rad, HOME)


def test_a_clock_that_stands_still_or_goes_back_stops_the_arm() -> None:
    layer = layer_at(now_s=5.0)
    layer.command(target(HOME), state_at(HOME, 5.0), FRESH, 5.0)
    decision = layer.command(target(HOME), state_at(HOME, 4.0), FRESH, 4.0)
    assert decision.verdict == "stop"
    assert "clock" in decision.causes[0]


def test_the_gripper_stays_within_its_travel() -> None:
    layer = layer_at()
    decision = layer.command(target(HOME, 0.5), state_at(HOME, 0.0), FRESH, 0.0)
    assert decision.target.gripper_width_m == 0.08
    (change,) = decision.interventions
    assert (change.name, change.unit, change.amount) == ("gripper", "m", pytest.approx(0.42))
    without = replace(state_at(HOME, 0.1), gripper=None)
    decision = layer.command(target(HOME, 0.05), without, FRESH, 0.1)
    assert decision.target.gripper_width_m is None
    assert "no gripper" in decision.interventions[0].detail


@pytest.mark.parametrize("max_width_m", [0.0, 0.005, np.nan, np.inf])
def test_a_hand_that_does_not_know_its_range_is_sent_nothing(max_width_m) -> None:
    """After it is switched on, it reports 0: a request to open would close it with full force."""
    layer, state = layer_at(HOME), state_at(HOME, 0.1)
    unknown = replace(state, gripper=replace(state.gripper, max_width_m=max_width_m))
    decision = layer.command(target(HOME, 0.08), unknown, FRESH, 0.1)
    assert decision.verdict == "move"
    assert decision.target.gripper_width_m is None
    assert "its reported greatest width is" in decision.interventions[0].detail
    with pytest.raises(UnsafeStartError, match=r"gripper\.homing=true"):
        layer.begin(unknown, start=None, now_s=0.1)


def test_a_target_does_not_run_away_from_an_arm_that_is_held() -> None:
    layer = layer_at()
    for tick in range(60):
        now_s = tick * PERIOD_S
        requested = turned(1, 1.5)
        decision = layer.command(target(requested), state_at(HOME, now_s), FRESH, now_s)
    # it may brake past the bound by v^2 / 2a from a step's speed, and goes no farther
    sent = decision.target.joint_positions_rad[0]
    assert 0.2 <= sent - HOME[0] < 0.2 + 0.1
    assert "lead" in names(decision)


def test_the_user_stop_ends_and_nothing_resumes_before_a_person_says_so() -> None:
    clock = iter(np.arange(0.0, 100.0, PERIOD_S)).__next__
    robot = FakeRobot(HOME, lambda: 0.0)
    assert isinstance(robot, Robot)
    layer = SafetyLayer(replace(CONFIG, max_recoveries=3), FR3, ARM)
    with robot:
        layer.begin(robot.state(), start=HOME, now_s=clock())
        robot.fails("user_stopped")
        decision = layer.command(target(HOME), robot.state(), FRESH, 0.1)
        assert (decision.verdict, decision.target, decision.ended) == ("end", None, True)
        assert "user_stopped" in decision.causes[0]
        with pytest.raises(CommandRefusedError, match="release"):
            robot.recover()
        robot.fails("idle")  # released
        assert layer.command(target(HOME), robot.state(), FRESH, 0.2).verdict == "end"
        with pytest.raises(UnsafeStartError, match="user stop was pressed: a person must"):
            layer.begin(robot.state(), start=HOME, now_s=0.0)
        with pytest.raises(RecoveryRefusedError, match="user stop"):
            layer.allow_recovery()
        layer.acknowledge()
        layer.begin(robot.state(), start=HOME, now_s=0.0)
    with pytest.raises(ConnectionLostError, match="connect"):
        robot.state()


def test_reflexes_are_recovered_from_only_by_choice_and_not_for_ever() -> None:
    def reflex(layer):
        layer.begin(state_at(HOME, 0.0), start=None, now_s=0.0)
        bad = replace(state_at(HOME, 0.1), mode="reflex", errors=("joint_velocity_violation",))
        decision = layer.command(target(HOME), bad, FRESH, 0.1)
        assert decision.target is None
        assert "joint_velocity_violation" in " ".join(decision.causes)

    layer = SafetyLayer(CONFIG, FR3, ARM)
    reflex(layer)
    with pytest.raises(RecoveryRefusedError, match="max_recoveries=0"):
        layer.allow_recovery()
    with pytest.raises(UnsafeStartError, match="reflex"):
        layer.begin(state_at(HOME, 0.0), start=None, now_s=0.0)

    layer = SafetyLayer(replace(CONFIG, max_recoveries=2), FR3, ARM)
    for _ in range(2):
        reflex(layer)
        layer.allow_recovery()
    reflex(layer)
    with pytest.raises(RecoveryRefusedError, match="2 of max_recoveries=2"):
        layer.allow_recovery()
    layer.acknowledge()
    reflex(layer)
    layer.allow_recovery()
    with pytest.raises(RecoveryRefusedError, match="no reflex"):
        layer.allow_recovery()


def test_a_start_is_refused_with_every_reason() -> None:
    layer = SafetyLayer(CONFIG, FR3, ARM)
    with pytest.raises(RuntimeError, match="begin"):
        layer.command(target(HOME), state_at(HOME, 0.0), FRESH, 0.0)
    moving = replace(state_at(HOME, 0.0), joint_velocities_rad_s=np.full(7, 0.2))
    with pytest.raises(UnsafeStartError, match=r"joint 1 is 0\.100 rad from") as refused:
        layer.begin(moving, start=turned(1, 0.1), now_s=0.0)
    assert "moves at 0.200 rad/s" in str(refused.value)
    for pose, word in (
        (turned(4, 2.15), "joint 4"),
        (turned(1, 1.5), "tool"),
        (np.full(7, np.nan), "joint 7 is nan"),
    ):
        with pytest.raises(UnsafeStartError, match=word):
            layer.begin(state_at(pose, 0.0), start=None, now_s=0.0)
    with pytest.raises(UnsafeStartError, match="guiding"):
        layer.begin(replace(state_at(HOME, 0.0), mode="guiding"), start=None, now_s=0.0)
    with pytest.raises(UnsafeStartError, match="old"):
        layer.begin(state_at(HOME, 0.0), start=None, now_s=1.0)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("table", HOME),
        # a start of the simulated Franka-pick, whose table is 0.4 m above the arm's base
        ("scene", [0.0, -0.4, 0.0, -2.0, 0.0, 1.6, 0.785]),
    ],
)
def test_a_yaml_says_everything_and_an_episode_can_begin(name, start) -> None:
    data = yaml.safe_load((ROOT / f"configs/safety/{name}.yaml").read_text())
    config = from_dict(SafetyConfig, data)
    assert to_dict(config) == data
    layer = SafetyLayer(config, FR3, ARM)
    layer.begin(state_at(start, 0.0), start=start, now_s=0.0)
    decision = layer.command(target(start), state_at(start, 0.0), FRESH, 0.0)
    assert decision.interventions == ()


def test_a_config_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="hold_after_s"):
        Watchdog(hold_after_s=1.0, stop_after_s=0.5)
    with pytest.raises(ValueError, match="velocity_fraction"):
        replace(CONFIG.motion, velocity_fraction=1.5)
    with pytest.raises(ValueError, match="low_m must be below"):
        replace(CONFIG.workspace, low_m=(1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="leaves joint 2 no room"):
        SafetyLayer(replace(CONFIG, motion=replace(CONFIG.motion, joint_margin_rad=1.9)), FR3, ARM)


@pytest.mark.parametrize(
    "requested",
    [
        replace(target(HOME), joint_positions_rad=[10**400] * 7),
        replace(target(HOME), joint_positions_rad=[*HOME[:6], 10**5000]),
        replace(target(HOME), joint_positions_rad=[1j] * 7),
        replace(target(HOME), joint_positions_rad=[[0.0], [0.0, 1.0]]),
        replace(target(HOME), joint_positions_rad={"joint": 1}),
        target(HOME, 10**400),
        target(HOME, 10**5000),
        target(HOME, 1j),
        target(HOME, [0.04]),
    ],
    ids=lambda requested: "",
)
def test_nothing_that_a_policy_takes_for_numbers_makes_the_layer_raise(requested) -> None:
    decision = layer_at().command(requested, state_at(HOME, 0.0), FRESH, 0.0)
    assert decision.verdict == "stop"
    assert decision.causes[0].startswith("the action")
    np.testing.assert_array_equal(decision.target.joint_positions_rad, HOME)


@pytest.mark.parametrize("joint", [1, 3, 7])
def test_an_arm_far_from_its_last_target_is_stopped_and_not_led(joint) -> None:
    for away, verdict in ((0.45, "move"), (0.55, "stop"), (1.0, "stop"), (-1.0, "stop")):
        layer = layer_at()
        layer.command(target(HOME), state_at(HOME, 0.0), FRESH, 0.0)
        decision = layer.command(target(HOME), state_at(turned(joint, away), 0.1), FRESH, 0.1)
        assert decision.verdict == verdict
        if verdict == "stop":
            assert (
                f"joint {joint} is {abs(away):.3f} rad from its last target" in decision.causes[0]
            )
            # where it was sent, and not where it is
            np.testing.assert_array_equal(decision.target.joint_positions_rad, HOME)
    wide = layer_at(config=replace(CONFIG, max_tracking_error_rad=2.0))
    wide.command(target(HOME), state_at(HOME, 0.0), FRESH, 0.0)
    state = state_at(turned(joint, 1.0), 0.1)
    assert wide.command(target(HOME), state, FRESH, 0.1).verdict == "move"
    with pytest.raises(ValueError, match="max_tracking_error_rad"):
        replace(CONFIG, max_tracking_error_rad=math.nan)
    with pytest.raises(ValueError, match="max_overshoot_rad"):
        replace(CONFIG, max_overshoot_rad=-0.1)


@pytest.mark.parametrize("bound", [FR3.lower_rad, FR3.upper_rad])
def test_a_measured_position_beyond_all_limits_is_not_believed(bound) -> None:
    config = replace(CONFIG, max_tracking_error_rad=100.0)  # so that nothing else stops it
    outwards = np.sign(np.array(bound) - HOME)
    for joint in range(7):
        for beyond, verdict in ((0.04, "move"), (0.06, "stop"), (10.0, "stop"), (1e300, "stop")):
            layer = layer_at(config=config)
            pose = HOME.copy()
            pose[joint] = bound[joint] + outwards[joint] * beyond
            decision = layer.command(target(HOME), state_at(pose, 0.0), FRESH, 0.0)
            assert decision.verdict == verdict, (joint, beyond)
            if verdict == "stop":
                assert f"position of joint {joint + 1}" in decision.causes[0]
                assert "beyond its own limits" in decision.causes[0]


def seen_by_begin(layer, state):
    with pytest.raises(UnsafeStartError):
        layer.begin(state, start=None, now_s=0.0)


def seen_by_command(layer, state):
    layer.begin(state_at(HOME, 0.0), start=None, now_s=0.0)
    layer.command(target(HOME), state, FRESH, 0.1)


def seen_after_a_reflex(layer, state):
    layer.begin(state_at(HOME, 0.0), start=None, now_s=0.0)
    layer.command(target(HOME), replace(state_at(HOME, 0.1), mode="reflex"), FRESH, 0.1)
    layer.command(target(HOME), state, FRESH, 0.2)


def seen_by_somebody(layer, state):
    layer.notice(state)


def seen_on_the_way_home(layer, state):
    other = SafetyLayer(CONFIG, FR3, ARM, attention=layer.attention)
    seen_by_command(other, state)


@pytest.mark.parametrize(
    "see",
    [seen_by_begin, seen_by_command, seen_after_a_reflex, seen_by_somebody, seen_on_the_way_home],
)
def test_a_user_stop_seen_anywhere_wants_a_person_also_when_it_is_released(see) -> None:
    layer = SafetyLayer(replace(CONFIG, max_recoveries=3), FR3, ARM)
    see(layer, replace(state_at(HOME, 0.1), mode="user_stopped"))
    released = state_at(HOME, 0.2)
    layer.notice(released)
    with pytest.raises(RecoveryRefusedError, match="user stop was pressed"):
        layer.allow_recovery()
    with pytest.raises(UnsafeStartError, match="user stop was pressed: a person must"):
        layer.begin(released, start=None, now_s=0.2)
    layer.acknowledge()
    layer.begin(released, start=None, now_s=0.2)


def test_a_reflex_that_is_recovered_from_is_not_seen_anew_while_it_clears() -> None:
    layer = SafetyLayer(replace(CONFIG, max_recoveries=1), FR3, ARM)
    reflex = replace(state_at(HOME, 0.1), mode="reflex", errors=("cartesian_reflex",))
    layer.begin(state_at(HOME, 0.0), start=None, now_s=0.0)
    layer.command(target(HOME), reflex, FRESH, 0.1)
    layer.allow_recovery()
    layer.notice(reflex)  # the robot takes a moment
    layer.notice(state_at(HOME, 0.2))
    layer.begin(state_at(HOME, 0.2), start=None, now_s=0.2)
    layer.command(target(HOME), state_at(HOME, 0.3), FRESH, 0.3)
    layer.command(target(HOME), reflex, FRESH, 0.4)
    with pytest.raises(RecoveryRefusedError, match="1 of max_recoveries=1"):
        layer.allow_recovery()


def test_who_writes_into_a_decided_target_does_not_move_the_next() -> None:
    layer = SafetyLayer(CONFIG, FR3, ARM)
    layer.begin(state_at(HOME, 0.0), start=None, now_s=0.0)
    decision = layer.command(target(HOME), state_at(HOME, 0.1), FRESH, 0.1)
    decision.target.joint_positions_rad[:] += 1.0
    decision = layer.command(target(HOME), state_at(HOME, 0.2), FRESH, 0.2)
    np.testing.assert_array_equal(decision.target.joint_positions_rad, HOME)
