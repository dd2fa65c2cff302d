"""What every simulator must keep: each batched backend of `BACKENDS`, and the one-world MuJoCo.

A backend whose packages are missing here is skipped. `SameStart` gives a batched simulator the
`reset` of one world, so that the tests hold for both.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from envs.arms.franka import FRANKA_PANDA as ARM
from envs.simulation.backends import BACKENDS, make_backend
from envs.simulation.mujoco_backend import MujocoSimulator
from envs.simulation.scene import (
    Appearance,
    Box,
    Camera,
    CameraShift,
    Fixture,
    Lighting,
    Paint,
    Part,
    PassiveJoint,
    Quality,
    Scene,
    Shape,
    Start,
)
from envs.simulation.simulator import Simulator
from tests.envs.simulation.fake_worker import fake_python

JOINTS = ARM.joint_names + ARM.hand_joint_names
BODIES = ("cube", ARM.hand_body, "drawer")
HEIGHT_PX, WIDTH_PX = 48, 64

SCENE = Scene(
    base_position_m=(1.0, 0.0, 0.0),
    base_yaw_rad=np.pi,
    boxes=(
        Box(
            name="table",
            size_m=(1.0, 1.0, 0.4),
            position_m=(0.0, 0.0, 0.2),
            paint=Paint(rgb=(0.6, 0.6, 0.6)),
        ),
        Box(
            name="cube",
            size_m=(0.06, 0.06, 0.06),
            position_m=(0.2, 0.0, 0.43),
            paint=Paint(rgb=(0.0, 0.0, 0.9)),
            mass_kg=0.2,
        ),
        # Seen from the eye, which looks along x: red is above and left, green below and right.
        Box(
            name="red",
            size_m=(0.1, 0.1, 0.1),
            position_m=(0.0, 0.3, 0.9),
            paint=Paint(rgb=(0.9, 0.0, 0.0)),
        ),
        Box(
            name="green",
            size_m=(0.1, 0.1, 0.1),
            position_m=(0.0, -0.3, 0.5),
            paint=Paint(rgb=(0.0, 0.9, 0.0)),
        ),
    ),
    fixtures=(
        Fixture(
            name="chest",
            position_m=(-0.3, 0.6, 0.6),
            parts=(
                Part(
                    name="drawer",
                    position_m=(0.0, 0.0, 0.1),
                    joint=PassiveJoint(
                        kind="slide",
                        axis=(1.0, 0.0, 0.0),
                        lower=0.0,
                        upper=0.2,
                        damping=1.0,
                        armature=0.01,
                        friction=0.0,
                    ),
                    shapes=(Shape(size_m=(0.1, 0.1, 0.1), paint="wood", mass_kg=1.0),),
                ),
            ),
            paints={"wood": Paint(rgb=(0.6, 0.4, 0.2))},
        ),
    ),
    cameras=(
        Camera(
            name="eye",
            body=None,
            position_m=(-1.5, 0.0, 0.7),
            target_m=(0.0, 0.0, 0.7),
            up=(0.0, 0.0, 1.0),
            fov_y_deg=45.0,
        ),
        Camera(
            name="wrist",
            body=ARM.hand_body,
            position_m=(0.07, 0.0, 0.04),
            target_m=(0.05, 0.0, 0.2),
            up=(1.0, 0.0, 0.0),
            fov_y_deg=90.0,
        ),
    ),
    viewer=Camera(
        name="viewer",
        body=None,
        position_m=(-1.0, -1.0, 1.2),
        target_m=(0.3, 0.0, 0.5),
        up=(0.0, 0.0, 1.0),
        fov_y_deg=45.0,
    ),
    lighting=Lighting(
        direction=(1.0, 0.0, -1.0), diffuse=(0.5,) * 3, ambient=(0.4,) * 3, head=(0.2,) * 3
    ),
    timestep_s=0.002,
)
START = Start(
    arm_rad=np.array([0.0, -0.22, 0.0, -1.62, 0.0, 1.40, 0.785]),
    hand=np.array([0.02]),
    box_poses={"cube": np.array([0.2, 0.1, 0.43, 1.0, 0.0, 0.0, 0.0])},
)
OTHER_START = replace(
    START,
    arm_rad=START.arm_rad + 0.1,
    box_poses={"cube": np.array([0.1, -0.1, 0.43, 0.8, 0.0, 0.0, 0.6])},
    fixture_positions_m={"chest": np.array([-0.25, 0.55, 0.65])},
)


class SameStart:
    """A batched simulator that resets its worlds to the same start, and returns numpy images."""

    def __init__(self, simulator):
        self.batch = simulator

    def __getattr__(self, name):
        return getattr(self.batch, name)

    def reset(self, start, appearance, rows=None):
        num_rows = self.batch.num_worlds if rows is None else len(rows)
        self.batch.reset(rows, [start] * num_rows, [appearance] * num_rows)

    def render(self, *args, **kwargs):
        images = self.batch.render(*args, **kwargs)
        return images if isinstance(images, np.ndarray) else images.cpu().numpy()


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """How a simulator is made, and the shape of its batch: () for one world, or (n,)."""

    make: Callable[[], Simulator]
    batch: tuple[int, ...]

    def broadcast(self, values):
        """Return every world the same."""
        return np.broadcast_to(values, (*self.batch, *np.shape(values))).copy()


def batched(name, num_worlds=2):
    """Return a batched backend; skip the test where its packages are missing."""

    def make():
        options = {"worker_python": isaacgym_python()} if name == "isaacgym" else {}
        try:
            return SameStart(make_backend(name, num_worlds, **options))
        except ImportError as error:
            pytest.skip(str(error))

    return Backend(make=make, batch=(num_worlds,))


@cache
def isaacgym_python():
    """Return the Python of a real Isaac Gym, if the doctor names it, or one with a stand-in."""
    named = os.environ.get("TOTO_ROBOT_ISAACGYM_PYTHON")
    return named or fake_python(Path(tempfile.mkdtemp()))


# What an engine cannot do, and why: the test is skipped for it.
CANNOT = {
    "isaacgym": {
        "test_larger_box_is_heavier": "the size of a box is fixed when the worlds are created",
        "test_sizes_of_an_earlier_episode_leave_no_trace": "the same",
        "test_look_changes_the_picture_alone_and_is_gone_at_the_next_reset": (
            "only colours of boxes can change; test_isaacgym_batch.py tests them"
        ),
        "test_quality_is_heeded": "shadows cannot be chosen, and the stand-in has no samples",
        "test_restored_state_goes_on_to_the_bit": "the memory of PhysX's contacts is not saved",
        "test_state_can_be_restored_in_another_simulator": "the same",
    }
}


@pytest.fixture(autouse=True)
def skip_what_the_engine_cannot_do(request):
    name = request.node.callspec.id.split("-")[0] if hasattr(request.node, "callspec") else ""
    if reason := CANNOT.get(name, {}).get(request.node.originalname):
        pytest.skip(f"{name}: {reason}")


BATCHED = {name: batched(name) for name in BACKENDS}
ALL = {"one world": Backend(make=MujocoSimulator, batch=()), **BATCHED}
SLOW = {"mujoco_warp"}  # compiles for more than a minute before its first step
NEW_EACH = SLOW | {"isaacgym"}  # slow where each test makes a simulator: it starts a process


def cases(values, slow=NEW_EACH):
    """Return one parameter for each of these values by name."""
    return [
        pytest.param(value, id=name, marks=pytest.mark.slow if name in slow else ())
        for name, value in values.items()
    ]


@pytest.fixture(scope="module", params=cases(ALL, SLOW))
def built(request):
    simulator = request.param.make()
    simulator.build(SCENE, ARM)
    yield request.param, simulator
    simulator.close()


@pytest.fixture
def backend(built):
    return built[0]


@pytest.fixture
def simulator(built):
    built[1].reset(START, Appearance())
    return built[1]


def targets(backend, change=0.0):
    return backend.broadcast(np.concatenate([START.arm_rad + change, START.hand]))


def seen(simulator):
    """Return all that can be seen of the physics."""
    positions, velocities = simulator.joints(JOINTS)
    forces = simulator.contact_forces(("cube",))
    return positions, velocities, simulator.bodies(BODIES), forces


def assert_equal(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


# Names and shapes


def test_joints_are_those_asked_for_in_that_order(backend, simulator):
    simulator.set_joint_targets(targets(backend, change=0.1))
    simulator.step(20)
    positions, velocities = simulator.joints(JOINTS)
    assert positions.shape == velocities.shape == (*backend.batch, len(JOINTS))
    backwards, backwards_speed = simulator.joints(JOINTS[::-1])
    np.testing.assert_array_equal(backwards, positions[..., ::-1])
    np.testing.assert_array_equal(backwards_speed, velocities[..., ::-1])
    assert len(np.unique(np.abs(velocities))) > 5


def test_joint_of_a_fixture_is_a_joint(backend, simulator):
    positions, velocities = simulator.joints(("drawer",))
    assert positions.shape == (*backend.batch, 1)
    assert not positions.any()
    assert not velocities.any()


def test_bodies_are_those_asked_for_in_that_order(backend, simulator):
    poses = simulator.bodies(BODIES)
    assert poses.shape == (*backend.batch, len(BODIES), 7)
    np.testing.assert_array_equal(simulator.bodies(BODIES[::-1]), poses[..., ::-1, :])
    np.testing.assert_allclose(np.linalg.norm(poses[..., 3:], axis=-1), 1.0)
    drawer = backend.broadcast([-0.3, 0.6, 0.7, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(poses[..., 2, :], drawer, atol=1e-9)


def test_contact_forces_are_those_asked_for_in_that_order(backend, simulator):
    simulator.step(400)
    forces = simulator.contact_forces(("hand", "cube"))
    assert forces.shape == (*backend.batch, 2)
    assert (forces[..., 0] == 0).all()
    assert (forces[..., 1] > 0).all()


def test_picture_has_the_shape_asked_for(backend, simulator):
    picture = simulator.render("eye", HEIGHT_PX, WIDTH_PX)
    assert picture.shape == (*backend.batch, HEIGHT_PX, WIDTH_PX, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("kind", ["joints", "bodies", "contact_forces", "displace", "render"])
def test_unknown_name_is_an_error_that_names_it(simulator, kind):
    ask = {
        "joints": lambda: simulator.joints(("joint1", "elbow")),
        "bodies": lambda: simulator.bodies(("cube", "elbow")),
        "contact_forces": lambda: simulator.contact_forces(("cube", "elbow")),
        "displace": lambda: simulator.displace("elbow", (0.1, 0.0, 0.0)),
        "render": lambda: simulator.render("elbow", HEIGHT_PX, WIDTH_PX),
    }
    with pytest.raises(ValueError, match="elbow"):
        ask[kind]()


@pytest.mark.parametrize(
    "start",
    [
        replace(START, box_poses={"sofa": np.array([0, 0, 1, 1, 0, 0, 0.0])}),
        replace(START, box_sizes_m={"sofa": (0.1, 0.1, 0.1)}),
        replace(START, fixture_positions_m={"sofa": np.zeros(3)}),
    ],
    ids=["box", "size", "fixture"],
)
def test_start_with_an_unknown_name_is_an_error_that_names_it(simulator, start):
    with pytest.raises(ValueError, match="sofa"):
        simulator.reset(start, Appearance())


@pytest.mark.parametrize(
    "appearance",
    [
        Appearance(paints={"sofa": Paint(rgb=(0, 0, 0))}),
        Appearance(
            camera_shifts={
                "sofa": CameraShift(translation_m=(0, 0, 0), rotation_rad=(0, 0, 0), fov_y_deg=0.0)
            }
        ),
    ],
    ids=["paint", "camera"],
)
def test_look_with_an_unknown_name_is_an_error_that_names_it(simulator, appearance):
    with pytest.raises(ValueError, match="sofa"):
        simulator.reset(START, appearance)


# Memory


def test_what_is_returned_is_not_changed_by_later_steps(backend, simulator):
    simulator.set_joint_targets(targets(backend, change=0.1))
    simulator.step(50)
    given = (
        *seen(simulator),
        simulator.save(),
        simulator.render("eye", HEIGHT_PX, WIDTH_PX),
    )
    before = [values.copy() for values in given]
    simulator.step(50)
    simulator.render("wrist", HEIGHT_PX, WIDTH_PX)
    simulator.reset(OTHER_START, Appearance())
    seen(simulator)
    assert_equal(given, before)


def test_what_is_returned_can_be_written_without_effect(backend, simulator):
    simulator.step(50)
    state = simulator.save()
    before = [values.copy() for values in seen(simulator)]
    for values in seen(simulator):
        values[...] = 7.0
    state[...] = 0.0
    assert_equal(seen(simulator), before)


def test_targets_are_copied(backend, simulator):
    given = targets(backend)
    simulator.set_joint_targets(given)
    given += 1.0
    simulator.step(200)
    arm = simulator.joints(ARM.joint_names)[0]
    np.testing.assert_allclose(arm, backend.broadcast(START.arm_rad), atol=0.01)


# Beginning anew


@pytest.mark.parametrize("start", [START, OTHER_START], ids=["one", "other"])
def test_poses_are_fresh_after_reset(backend, simulator, start):
    simulator.set_joint_targets(targets(backend, change=0.2))
    simulator.step(100)
    simulator.reset(start, Appearance())
    positions, velocities = simulator.joints(ARM.joint_names)
    np.testing.assert_allclose(positions, backend.broadcast(start.arm_rad), atol=1e-6)
    assert not velocities.any()
    poses = simulator.bodies(BODIES)
    np.testing.assert_allclose(
        poses[..., 0, :], backend.broadcast(start.box_poses["cube"]), atol=1e-6
    )
    chest = start.fixture_positions_m.get("chest", np.array([-0.3, 0.6, 0.6]))
    np.testing.assert_allclose(
        poses[..., 2, :3], backend.broadcast([*chest[:2], chest[2] + 0.1]), atol=1e-6
    )


def test_reset_forgets_what_was_before(backend, simulator):
    fresh = [*seen(simulator), simulator.save()]
    picture = simulator.render("eye", HEIGHT_PX, WIDTH_PX)
    simulator.reset(OTHER_START, Appearance(paints={"cube": Paint(rgb=(1, 1, 0))}))
    simulator.set_joint_targets(targets(backend, change=0.3))
    simulator.step(60)
    simulator.displace("chest", (0.0, 0.0, 0.2))
    simulator.reset(START, Appearance())
    assert_equal([*seen(simulator), simulator.save()], fresh)
    np.testing.assert_array_equal(simulator.render("eye", HEIGHT_PX, WIDTH_PX), picture)


def test_arm_stays_after_reset_without_targets(backend, simulator):
    simulator.step(200)
    arm = simulator.joints(ARM.joint_names)[0]
    np.testing.assert_allclose(arm, backend.broadcast(START.arm_rad), atol=0.01)


def test_poses_belong_to_the_joints_after_a_step(backend, simulator):
    simulator.set_joint_targets(targets(backend, change=0.2))
    simulator.step(37)
    joints, speeds = simulator.joints(ARM.joint_names)
    assert np.abs(speeds).max() > 0.05  # else nothing could be late
    hand = simulator.bodies((ARM.hand_body,))
    one = joints.reshape(-1, joints.shape[-1])[0]
    simulator.reset(replace(START, arm_rad=one), Appearance())
    expected = simulator.bodies((ARM.hand_body,))
    np.testing.assert_allclose(hand, expected, atol=1e-6)


@pytest.mark.parametrize("backend_", cases(BATCHED))
def test_reset_of_some_rows_leaves_the_others_untouched(backend_):
    simulator = backend_.make()
    simulator.build(SCENE, ARM)
    simulator.reset(START, Appearance())
    simulator.set_joint_targets(targets(backend_, change=0.2))
    simulator.step(30)
    before = [*seen(simulator), simulator.save()]
    rows = [backend_.batch[0] - 1]
    simulator.reset(OTHER_START, Appearance(), rows=rows)
    after = [*seen(simulator), simulator.save()]
    others = [row for row in range(backend_.batch[0]) if row not in rows]
    for left, right in zip(after, before, strict=True):
        np.testing.assert_array_equal(left[others], right[others])
    arm = simulator.joints(ARM.joint_names)[0]
    np.testing.assert_allclose(arm[rows], [OTHER_START.arm_rad], atol=1e-6)
    simulator.close()


@pytest.mark.parametrize("backend_", cases(BATCHED))
def test_rows_have_their_own_targets(backend_):
    simulator = backend_.make()
    simulator.build(SCENE, ARM)
    simulator.reset(START, Appearance())
    wanted = targets(backend_)
    wanted[-1, 0] += 0.3
    simulator.set_joint_targets(wanted)
    simulator.step(500)
    first = simulator.joints(("joint1",))[0][:, 0]
    np.testing.assert_allclose(first, wanted[:, 0], atol=0.02)
    simulator.close()


@pytest.fixture(params=cases(BATCHED))
def worlds(request):
    """Return two worlds, of which the second begins elsewhere and looks different."""
    simulator = request.param.make()
    simulator.build(SCENE, ARM)
    red = Appearance(paints={"cube": Paint(rgb=(1.0, 0.0, 0.0))})
    simulator.batch.reset(None, [START, OTHER_START], [Appearance(), red])
    yield simulator
    simulator.close()


def test_worlds_have_their_own_starts_and_looks(worlds):
    arm = worlds.joints(ARM.joint_names)[0]
    np.testing.assert_allclose(arm, [START.arm_rad, OTHER_START.arm_rad], atol=1e-6)
    cubes = worlds.bodies(("cube",))[:, 0]
    wanted = [start.box_poses["cube"] for start in (START, OTHER_START)]
    np.testing.assert_allclose(cubes, wanted, atol=1e-6)
    blue, red = worlds.render("viewer", HEIGHT_PX, WIDTH_PX)
    assert (blue[..., 2] > blue[..., 0].astype(int) + 60).any()
    assert not (red[..., 2] > red[..., 0].astype(int) + 60).any()


def test_images_of_some_rows_are_those_of_all(worlds):
    every = worlds.render("eye", HEIGHT_PX, WIDTH_PX)
    assert np.abs(every[0].astype(int) - every[1]).max() > 50
    for rows in ([1], [0], [0, 1]):
        some = worlds.render("eye", HEIGHT_PX, WIDTH_PX, rows=rows)
        np.testing.assert_array_equal(some, every[rows])


def test_push_and_displacement_of_one_row_leave_the_others_untouched(worlds):
    before = worlds.bodies(BODIES)
    worlds.displace("chest", (0.0, 0.0, 0.1), rows=[1])
    after = worlds.bodies(BODIES)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1, 2, :3] - before[1, 2, :3], [0, 0, 0.1], atol=1e-6)
    worlds.push("cube", (4.0, 0.0, 0.0), rows=[1])
    worlds.step(100)
    moved = np.abs(worlds.bodies(("cube",)) - before[:, :1])[:, 0, 0]
    assert moved[0] < 1e-3
    assert moved[1] > 0.02


def test_rows_that_follow_targets_do_so_whether_or_not_the_others_do(worlds):
    wanted = np.stack([START.arm_rad + 0.1, OTHER_START.arm_rad + 0.1])
    wanted = np.concatenate([wanted, [START.hand, START.hand]], axis=1)
    saved = worlds.save()
    worlds.follow(np.stack([wanted] * 3), 5)
    every = [values[1:] for values in seen(worlds)]
    worlds.batch.reset(None, [START, OTHER_START], [Appearance()] * 2)
    worlds.restore(saved)
    worlds.follow(np.stack([wanted] * 3), 5, rows=[1])
    assert_equal([values[1:] for values in seen(worlds)], every)


@pytest.mark.parametrize("name", cases({name: name for name in BACKENDS}))
def test_world_does_not_depend_on_how_many_others_run(name):
    outcomes = []
    for num_worlds in (1, 3):
        backend_ = batched(name, num_worlds)
        simulator = backend_.make()
        simulator.build(SCENE, ARM)
        starts = [OTHER_START, START, START][-num_worlds:]
        simulator.batch.reset(None, starts, [Appearance()] * num_worlds)
        simulator.set_joint_targets(targets(backend_, change=0.2))
        simulator.step(60)
        outcomes.append(
            [*(values[-1] for values in seen(simulator)), simulator.render("wrist", 32, 32)[-1]]
        )
        simulator.close()
    assert_equal(*outcomes)


@pytest.mark.parametrize("rows", [[0, 0], [2], [-1]])
def test_rows_that_do_not_exist_or_appear_twice_are_an_error(worlds, rows):
    with pytest.raises(ValueError, match="rows"):
        worlds.batch.reset(rows, [START] * len(rows), [Appearance()] * len(rows))


def test_unknown_backend_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match=f"unknown backend 'bullet'; known: {', '.join(BACKENDS)}"):
        make_backend("bullet", 2)


def test_missing_package_of_a_backend_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    for module in ("mujoco_warp_batch", "mujoco_warp_look"):
        monkeypatch.delitem(sys.modules, f"envs.simulation.{module}", raising=False)
    with pytest.raises(ImportError, match=r"toto-robot\[warp\]"):
        make_backend("mujoco_warp", 2)


# Moving


def test_arm_goes_to_its_targets(backend, simulator):
    wanted = targets(backend)
    wanted[..., 3] += 0.2
    wanted[..., -1] = 0.03
    simulator.set_joint_targets(wanted)
    simulator.step(750)
    arm = simulator.joints(ARM.joint_names)[0]
    np.testing.assert_allclose(arm, wanted[..., :-1], atol=5e-3)
    fingers = simulator.joints(ARM.hand_joint_names)[0]
    np.testing.assert_allclose(fingers, 0.03, atol=1e-3)


def test_steps_add_up(backend, simulator):
    simulator.set_joint_targets(targets(backend, change=0.1))
    for _ in range(12):
        simulator.step(1)
    singly = seen(simulator)
    simulator.reset(START, Appearance())
    simulator.set_joint_targets(targets(backend, change=0.1))
    simulator.step(12)
    assert_equal(seen(simulator), singly)


def test_following_targets_is_setting_and_stepping(backend, simulator):
    ramp = [targets(backend, change=0.02 * index) for index in range(1, 5)]
    for one in ramp:
        simulator.set_joint_targets(one)
        simulator.step(3)
    singly = seen(simulator)
    simulator.reset(START, Appearance())
    simulator.follow(np.stack(ramp), 3)
    assert_equal(seen(simulator), singly)


def test_resting_box_is_borne_with_its_weight(backend, simulator):
    simulator.step(500)
    forces = simulator.contact_forces(("cube", "table"))
    np.testing.assert_allclose(forces, 0.2 * 9.81, rtol=0.02)
    cube = simulator.bodies(("cube",))[..., 0, :]
    np.testing.assert_allclose(cube, backend.broadcast(START.box_poses["cube"]), atol=1e-3)


def test_larger_box_is_heavier(backend, simulator):
    start = replace(
        START,
        box_sizes_m={"cube": (0.12, 0.06, 0.06)},
    )
    simulator.reset(start, Appearance())
    simulator.step(500)
    np.testing.assert_allclose(simulator.contact_forces(("cube",)), 0.4 * 9.81, rtol=0.02)


@pytest.mark.parametrize(("name", "body", "index"), [("cube", "cube", 0), ("chest", "drawer", 2)])
def test_displaced_thing_is_elsewhere_at_once(backend, simulator, name, body, index):
    before = simulator.bodies(BODIES)
    simulator.displace(name, (0.03, -0.02, 0.01))
    after = simulator.bodies(BODIES)
    np.testing.assert_allclose(
        (after - before)[..., index, :3], backend.broadcast([0.03, -0.02, 0.01]), atol=1e-6
    )
    others = [i for i in range(len(BODIES)) if i != index]
    np.testing.assert_array_equal(after[..., others, :], before[..., others, :])


def test_pushed_box_slides_when_the_push_exceeds_its_friction(backend, simulator):
    start = simulator.bodies(("cube",))
    simulator.push("cube", (1.0, 0.0, 0.0))  # friction holds with 0.2 * 9.81 N
    simulator.step(100)
    np.testing.assert_allclose(simulator.bodies(("cube",))[..., :3], start[..., :3], atol=1e-3)
    simulator.push("cube", (4.0, 0.0, 0.0))
    simulator.step(50)
    assert (simulator.bodies(("cube",))[..., 0, 0] > start[..., 0, 0] + 0.02).all()
    simulator.reset(START, Appearance())
    simulator.step(50)
    np.testing.assert_allclose(simulator.bodies(("cube",))[..., :3], start[..., :3], atol=1e-3)


@pytest.mark.parametrize(
    "before",
    [
        replace(START, box_sizes_m={"cube": (0.1, 0.05, 0.07)}),
        replace(
            START,
            box_sizes_m={"cube": (0.053, 0.051, 0.047)},
            fixture_positions_m={"chest": np.array([-0.1, 0.7, 0.6])},
        ),
    ],
    ids=["size", "place"],
)
@pytest.mark.parametrize("sizes", [{}, {"cube": (0.049, 0.049, 0.049)}], ids=["own", "other"])
def test_sizes_of_an_earlier_episode_leave_no_trace(backend, simulator, before, sizes):
    start = replace(START, box_sizes_m=sizes)
    fresh = backend.make()
    fresh.build(SCENE, ARM)
    simulator.reset(before, Appearance())
    for one in (simulator, fresh):
        one.reset(start, Appearance())
        one.set_joint_targets(targets(backend, change=0.3))
        one.step(100)
    assert_equal(seen(simulator), seen(fresh))
    np.testing.assert_array_equal(simulator.save(), fresh.save())
    fresh.close()


# Going back


def test_restored_state_goes_on_to_the_bit(backend, simulator):
    simulator.set_joint_targets(targets(backend, change=0.2))
    simulator.step(40)
    saved, here = simulator.save(), seen(simulator)[:-1]
    simulator.step(40)
    there = seen(simulator)
    simulator.set_joint_targets(targets(backend, change=-0.3))
    simulator.step(13)
    simulator.restore(saved)
    # Forces are left out: after a step they may be those at its beginning.
    assert_equal(seen(simulator)[:-1], here)
    simulator.step(40)  # with the targets of then
    assert_equal(seen(simulator), there)


def test_state_can_be_restored_in_another_simulator(backend, simulator):
    simulator.set_joint_targets(targets(backend, change=0.2))
    simulator.step(40)
    saved = simulator.save()
    simulator.step(40)
    other = backend.make()
    other.build(SCENE, ARM)
    other.reset(START, Appearance())
    other.restore(saved)
    other.step(40)
    assert_equal(seen(other), seen(simulator))
    other.close()


def test_state_of_another_scene_is_an_error(simulator):
    with pytest.raises(ValueError, match="state"):
        simulator.restore(simulator.save()[..., :-1])


# Pictures


def where(picture, channel):
    """Return row and column, from 0 to 1, of the middle of what has one colour only."""
    others = [other for other in range(3) if other != channel]
    values = picture.astype(int)
    mask = (values[..., channel] > 60) & (values[..., others].max(axis=-1) < 40)
    assert mask.any()
    rows, columns = np.nonzero(mask)
    return rows.mean() / picture.shape[0], columns.mean() / picture.shape[1]


def test_picture_is_upright_and_not_mirrored(backend, simulator):
    pictures = simulator.render("eye", HEIGHT_PX, WIDTH_PX)
    for picture in pictures.reshape(-1, HEIGHT_PX, WIDTH_PX, 3):
        # The marker's front face is 1.45 m before the lens, 0.2 m above and 0.3 m beside its axis.
        half = np.tan(np.deg2rad(45 / 2)) * 1.45
        up, beside = 0.2 / half / 2, 0.3 / (half * WIDTH_PX / HEIGHT_PX) / 2
        assert where(picture, 0) == pytest.approx((0.5 - up, 0.5 - beside), abs=0.03)
        assert where(picture, 1) == pytest.approx((0.5 + up, 0.5 + beside), abs=0.03)


def test_picture_shows_the_world_as_it_is_now(backend, simulator):
    before = simulator.render("wrist", HEIGHT_PX, WIDTH_PX)
    simulator.set_joint_targets(targets(backend, change=0.2))
    simulator.step(100)
    after = simulator.render("wrist", HEIGHT_PX, WIDTH_PX)
    assert np.abs(after.astype(int) - before).mean() > 3
    simulator.reset(START, Appearance())
    np.testing.assert_array_equal(simulator.render("wrist", HEIGHT_PX, WIDTH_PX), before)


@pytest.mark.parametrize(
    "appearance",
    [
        Appearance(paints={"cube": Paint(rgb=(1.0, 0.0, 0.0))}),
        Appearance(paints={"table": Paint(rgb=(0.5, 0.5, 0.5), pattern="planks")}),
        Appearance(paints={"wood": Paint(rgb=(1.0, 1.0, 1.0))}),
        Appearance(
            lighting=Lighting(
                direction=(0, 0, -1), diffuse=(0.2,) * 3, ambient=(0.1,) * 3, head=(0.0,) * 3
            )
        ),
        Appearance(
            camera_shifts={
                "eye": CameraShift(
                    translation_m=(0.05, 0, 0), rotation_rad=(0, 0.05, 0), fov_y_deg=3.0
                )
            }
        ),
    ],
    ids=["cube", "table", "fixture", "light", "camera"],
)
def test_look_changes_the_picture_alone_and_is_gone_at_the_next_reset(simulator, appearance):
    plain = simulator.render("eye", HEIGHT_PX, WIDTH_PX)
    physics = seen(simulator)
    simulator.reset(START, appearance)
    assert_equal(seen(simulator), physics)
    changed = np.abs(simulator.render("eye", HEIGHT_PX, WIDTH_PX).astype(int) - plain)
    assert (changed.max(axis=-1) > 10).mean() > 0.001
    simulator.reset(START, Appearance())
    np.testing.assert_array_equal(simulator.render("eye", HEIGHT_PX, WIDTH_PX), plain)


def test_quality_is_heeded(simulator):
    plain = simulator.render("eye", HEIGHT_PX, WIDTH_PX).astype(int)
    shadows = simulator.render("eye", HEIGHT_PX, WIDTH_PX, Quality(shadows=True))
    assert shadows.mean() < plain.mean() - 0.1
    smooth = simulator.render("eye", HEIGHT_PX, WIDTH_PX, Quality(samples=4))
    assert 0 < np.abs(smooth - plain).mean() < 8
    np.testing.assert_array_equal(simulator.render("eye", HEIGHT_PX, WIDTH_PX), plain)


def test_closing_twice_does_no_harm(backend):
    simulator = backend.make()
    simulator.build(SCENE, ARM)
    simulator.reset(START, Appearance())
    simulator.render("eye", HEIGHT_PX, WIDTH_PX)
    simulator.close()
    simulator.close()
