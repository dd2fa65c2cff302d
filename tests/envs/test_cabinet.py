import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.catalogue import make, variant
from envs.simulation.mujoco_backend import MujocoSimulator
from envs.simulation.scene import Appearance, Paint, Start
from envs.tasks.cabinet_fixture import CABINET, DRAWER, DRAWER_TRAVEL_M, PROP_NAMES
from envs.tasks.task import num_hold_steps, state_names

FRANKA, KUKA = variant("toto/FrankaCabinet-v0"), variant("toto/KukaCabinet-v0")
ARM, TASK = FRANKA.arm, FRANKA.task
NOMINAL_M = (0.05, 0.0, 0.45)
PULL_N = 12.0


@pytest.fixture(scope="module")
def simulator():
    made = MujocoSimulator()
    made.build(TASK.scene(ARM), ARM)
    yield made
    made.close()


def nominal():
    """Start with everything in the middle of its range, and the hand away from the cabinet."""
    boxes = {box.name: box.position_m for box in TASK.scene(ARM).boxes if box.mass_kg}
    return Start(
        arm_rad=np.array([np.pi / 2, *TASK.start_arm_rad[1:]]),
        hand=np.array(TASK.start_hand),
        box_poses={name: np.array([*place, 1.0, 0, 0, 0]) for name, place in boxes.items()},
        fixture_positions_m={CABINET: np.array(NOMINAL_M)},
    )


def parts():
    (cabinet,) = TASK.scene(ARM).fixtures
    return {part.name: part for part in cabinet.parts}


def extent(shapes):
    """Return the edges [3] of the box around shapes that are not turned, and its middle [3]."""
    middle = np.array([shape.position_m for shape in shapes])
    half = np.array([shape.size_m for shape in shapes]) / 2
    low, high = (middle - half).min(axis=0), (middle + half).max(axis=0)
    return high - low, (low + high) / 2


def pull(simulator, force_n, num_steps):
    """Push or pull the drawer from outside."""
    body = simulator._model.body(DRAWER).id
    simulator._data.xfrc_applied[body, 0] = force_n
    simulator.step(num_steps)
    simulator._data.xfrc_applied[body, 0] = 0.0


def look_away(env):
    """Turn the arm, so that the drawer can come out."""
    action = np.zeros(env.action_space.shape, np.float32)
    action[0] = 1.0
    for _ in range(15):
        env.step(action)


def state(tips, opening=0.0, handle=(0.4, 0.0, 0.78)):
    return {
        "opening": np.array(opening),
        "fingertips_to_handle": np.array(handle) - np.array(tips),
    }


def pinched(opening=0.0):
    return state([(0.4, 0.0, 0.792), (0.4, 0.0, 0.768)], opening)


# --- the cabinet, against pixmc's table -------------------------------------------------------


def test_handle_is_where_pixmc_has_it(simulator):
    simulator.reset(nominal(), Appearance())
    measured = TASK.measure(simulator, ARM)
    np.testing.assert_allclose(measured["handle_position"], (0.4065, 0.0, 0.7772), atol=1e-9)
    assert measured["opening"] == 0.0
    assert measured["opening_left"] == 0.4


def test_carcass_and_front_have_the_tables_sizes():
    walls = [shape for shape in parts()["carcass"].shapes if shape.solid]
    np.testing.assert_allclose(extent(walls)[0], (0.63, 0.762, 0.783))
    fronts = [shape for shape in parts()[DRAWER].shapes if shape.paint == "cabinet_front"]
    np.testing.assert_allclose(extent(fronts)[0], (0.027, 0.764, 0.129))
    tray = [shape for shape in parts()[DRAWER].shapes if shape.paint == "cabinet_body"]
    np.testing.assert_allclose(extent(tray)[0][:2], (0.51, 0.71))


def test_handle_has_the_tables_sizes_and_room_for_a_finger():
    bar, *posts = (shape for shape in parts()[DRAWER].shapes if shape.paint == "cabinet_handle")
    edges, middle = extent([bar, *posts])
    np.testing.assert_allclose(edges, (0.039, 0.167, 0.024))
    np.testing.assert_allclose(middle, (0.2925, 0.0, 0.009))
    assert all(shape.grippable for shape in (bar, *posts))
    # between bar and front, and between the posts
    assert bar.position_m[0] - bar.size_m[0] / 2 - 0.273 == pytest.approx(0.027)
    assert np.abs(posts[0].position_m[1] - posts[1].position_m[1]) - 0.02 == pytest.approx(0.127)


def test_drawer_slides_as_the_table_says():
    drawer = parts()[DRAWER]
    joint = drawer.joint
    assert drawer.position_m == (0.0515, 0.0, 0.3172)
    assert (joint.kind, joint.axis) == ("slide", (1.0, 0.0, 0.0))
    assert (joint.lower, joint.upper) == (0.0, 0.4)
    assert (joint.damping, joint.armature, joint.friction) == (10.0, 0.005, 0.01)
    assert sum(shape.mass_kg for shape in drawer.shapes) == pytest.approx(5.3)


def test_there_are_two_drawers_and_two_doors_with_handles():
    moving = {name: part.joint.kind for name, part in parts().items() if part.joint}
    assert sorted(moving.values()) == ["hinge", "hinge", "slide", "slide"]
    for name in moving:
        assert any(shape.paint == "cabinet_handle" for shape in parts()[name].shapes)


def test_props_are_cubes_of_density_400():
    props = [box for box in TASK.scene(ARM).boxes if box.name in PROP_NAMES]
    assert len(props) == 4
    for box in props:
        assert box.size_m == (0.08, 0.08, 0.08)
        assert box.mass_kg / 0.08**3 == pytest.approx(400, rel=0.002)


@pytest.mark.parametrize("side", ["left", "right"])
def test_doors_open_outwards(simulator, side):
    simulator.reset(nominal(), Appearance())
    body = simulator._model.body(f"door_{side}").id
    geom = simulator._model.geom(f"door_{side}/1").id  # its handle
    before = simulator._data.geom_xpos[geom].copy()
    simulator._data.xfrc_applied[body, 0] = 40.0
    simulator.step(300)
    simulator._data.xfrc_applied[body, 0] = 0.0
    assert simulator.joints([f"door_{side}"])[0][0] > 0.1
    assert simulator._data.geom_xpos[geom, 0] > before[0] + 0.03


# --- physics ----------------------------------------------------------------------------------


def test_drawer_opens_by_a_small_force_to_its_stop(simulator):
    simulator.reset(nominal(), Appearance())
    pull(simulator, PULL_N, 250)
    half_second = float(simulator.joints([DRAWER])[0][0])
    assert 0.1 < half_second < 0.3  # 6.1 kg at 12 N, damped: 1/2 a t^2 is 0.24 m
    pull(simulator, PULL_N, 500)
    assert simulator.joints([DRAWER])[0][0] == pytest.approx(DRAWER_TRAVEL_M, abs=0.002)


def test_props_stay_in_the_drawer_while_it_opens(simulator):
    simulator.reset(nominal(), Appearance())
    before = simulator.bodies((DRAWER, *PROP_NAMES))[:, :3]
    pull(simulator, PULL_N, 700)
    after = simulator.bodies((DRAWER, *PROP_NAMES))[:, :3]
    assert after[0, 0] - before[0, 0] > 0.39
    shifted = (after[1:] - after[0]) - (before[1:] - before[0])
    assert np.abs(shifted[:, :2]).max() < 0.05
    assert np.abs(shifted[:, 2]).max() < 0.002


def test_closed_drawer_and_its_props_rest(simulator):
    simulator.reset(nominal(), Appearance())
    before = simulator.bodies(PROP_NAMES)
    simulator.step(500)
    np.testing.assert_allclose(simulator.bodies(PROP_NAMES), before, atol=0.001)
    assert abs(simulator.joints([DRAWER])[0][0]) < 1e-6


def test_cabinet_is_moved_with_all_that_is_in_it():
    env = make(env_id="toto/FrankaCabinet-v0", cameras=(), privileged=True)
    env.reset(seed=3)
    names = np.array(env.state_names)
    x = int(np.flatnonzero(names == "handle_position_x")[0])
    simulator = env.simulator
    before, props = env.step(np.zeros(8))[0]["state"][x], simulator.bodies(PROP_NAMES)[:, :3]
    env.displace((0.03, 0.0, 0.0))
    np.testing.assert_allclose(simulator.bodies(PROP_NAMES)[:, :3] - props, [[0.03, 0, 0]] * 4)
    assert env.step(np.zeros(8))[0]["state"][x] == pytest.approx(before + 0.03, abs=1e-4)
    env.close()


def test_paints_can_be_changed(simulator):
    plain = {}
    for name in ("cabinet_body", "cabinet_front", "cabinet_top", "cabinet_handle", "prop"):
        simulator.reset(nominal(), Appearance())
        pull(simulator, 40.0, 300)
        plain[name] = simulator.render("front", 64, 64).astype(int)
        simulator.reset(nominal(), Appearance(paints={name: Paint(rgb=(0.0, 1.0, 0.0))}))
        pull(simulator, 40.0, 300)
        green = simulator.render("front", 64, 64).astype(int)
        changed = np.abs(green - plain[name]).sum(axis=-1) > 60
        assert 5 < changed.sum() < 2500
        assert green[changed, 1].mean() > green[changed, 0].mean() + 60


# --- start, rewards, success ------------------------------------------------------------------


@given(st.integers(0, 2**32))
def test_start_is_within_its_ranges(seed):
    start = TASK.sample_start(ARM, np.random.default_rng(seed))
    assert np.abs(start.arm_rad - TASK.start_arm_rad).max() <= TASK.arm_noise_rad
    place = start.fixture_positions_m[CABINET]
    assert (np.abs(place - NOMINAL_M) <= (0.075, 0.075, 0.05)).all()
    middle = np.mean([start.box_poses[name][:3] for name in PROP_NAMES], axis=0)
    expected = np.mean([nominal().box_poses[name][:3] for name in PROP_NAMES], axis=0)
    np.testing.assert_allclose(middle - place, expected - NOMINAL_M, atol=1e-9)


def test_rewards_of_the_franka_at_states_computed_by_hand():
    far = TASK.rewards(state([(0.4, 0.3, 0.88), (0.4, 0.3, 0.80)]), np.zeros(8))
    reach = 0.06 / (0.016 + math.hypot(0.3, 0.1)) + 0.06 / (0.016 + math.hypot(0.3, 0.02))
    assert far["reach"] == pytest.approx(reach)
    assert sum(far.values()) == pytest.approx(reach)
    held = TASK.rewards(pinched(0.2), np.full(8, 0.5))
    assert held["reach"] == pytest.approx(2 * 0.06 / (0.016 + 0.012))
    assert held["around"] == 0.5
    assert held["ajar"] == 1.0
    assert held["opening"] == pytest.approx(1.2)
    assert held["held"] == pytest.approx(3 * 0.2)
    assert held["goal"] == 0.0
    assert held["action"] == pytest.approx(-0.01 * 8 * 0.25)
    assert TASK.rewards(pinched(0.3), np.zeros(8))["goal"] == 1.0
    # nearer than 8 mm is not worth more
    touching = TASK.rewards(state([(0.4, 0.0, 0.781), (0.4, 0.0, 0.779)]), np.zeros(8))
    assert touching["reach"] == pytest.approx(2 * 0.06 / (0.016 + 0.008))


def test_rewards_of_the_kuka_know_no_grasp():
    tips = [(0.4, 0.0, 0.80), (0.4, 0.0, 0.80), (0.4, 0.0, 0.80), (0.4, 0.0, 0.76)]
    terms = KUKA.task.rewards(state(tips, 0.35), np.zeros(23))
    assert terms["reach"] == pytest.approx((3 * 0.04 + 0.08) / (0.016 + 0.02))
    assert terms["around"] == terms["held"] == 0.0
    assert terms["ajar"] == terms["goal"] == 1.0
    assert terms["opening"] == pytest.approx(2.1)


@pytest.mark.parametrize(("opening", "there"), [(0.319, False), (0.3201, True), (0.4, True)])
def test_goal_is_an_open_drawer(opening, there):
    assert bool(TASK.at_goal(pinched(opening))) is there
    away = state([(0.8, 0.0, 0.8)] * 4, opening)
    assert bool(KUKA.task.at_goal(away)) is there


@pytest.mark.parametrize(
    ("above_m", "below_m", "there"),
    [(0.012, 0.012, True), (0.039, 0.039, True), (0.041, 0.012, False), (0.012, 0.041, False)],
)
def test_goal_of_the_franka_is_a_held_handle(above_m, below_m, there):
    tips = [(0.4, 0.0, 0.78 + above_m), (0.4, 0.0, 0.78 - below_m)]
    assert bool(TASK.at_goal(state(tips, 0.35))) is there


def test_goal_is_held_for_a_sixth_of_a_second():
    assert num_hold_steps(TASK, 10.0) == 2
    assert num_hold_steps(TASK, 60.0) == 10


def test_nothing_is_a_failure_for_good():
    assert not TASK.failed(pinched(0.0))
    assert not TASK.failed(pinched(0.4))


def test_success_of_the_kuka_needs_two_steps_and_stays():
    env = make(env_id="toto/KukaCabinet-v0", cameras=())
    env.reset(seed=0)
    look_away(env)
    still = np.zeros(23, np.float32)
    simulator = env.simulator
    pull(simulator, 40.0, 500)
    found = [env.step(still)[-1]["success"] for _ in range(2)]
    assert found == [False, True]
    pull(simulator, -40.0, 500)
    assert simulator.joints([DRAWER])[0][0] < 0.1
    assert env.step(still)[-1]["success"]
    env.close()


def test_success_of_the_franka_needs_its_hand():
    env = make(env_id="toto/FrankaCabinet-v0", cameras=())
    env.reset(seed=0)
    look_away(env)
    pull(env.simulator, 40.0, 500)
    assert env.simulator.joints([DRAWER])[0][0] > 0.32
    for _ in range(3):
        assert not env.step(np.zeros(8))[-1]["success"]
    env.close()


def test_many_worlds_at_once_give_what_each_gives():
    states = [pinched(), pinched(0.35), state([(0.6, 0.0, 0.9), (0.6, 0.0, 0.8)], 0.33)]
    stacked = {name: np.stack([one[name] for one in states]) for name in states[0]}
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 8))
    together = TASK.rewards(stacked, actions)
    for index, one in enumerate(states):
        for name, term in TASK.rewards(one, actions[index]).items():
            assert together[name][index] == pytest.approx(term)
        assert TASK.at_goal(stacked)[index] == TASK.at_goal(one)
        assert TASK.failed(stacked)[index] == TASK.failed(one)


@pytest.mark.parametrize(
    ("name", "first", "size"),
    [("Franka", "left", 16), ("Kuka", "palm", 31)],
    ids=["franka", "kuka"],
)
def test_pixmc_state_ends_with_what_is_left(name, first, size):
    chosen = variant(f"toto/{name}Cabinet-v0", "pixmc")
    names = state_names(chosen.task, chosen.arm)
    assert len(names) == size
    assert names[0] == f"{first}_position_x"
    assert names[-1] == "opening_left"
