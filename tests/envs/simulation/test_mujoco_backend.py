"""What is MuJoCo's own; what every simulator must keep is in test_simulator_contract."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from envs.arms.franka import FRANKA_PANDA as ARM
from envs.catalogue import variant
from envs.simulation import mujoco_model
from envs.simulation.mujoco_backend import MujocoSimulator
from envs.simulation.mujoco_model import build_spec
from envs.simulation.scene import Appearance, Paint, Start

TASK = variant("toto/FrankaPick-v0").task
ARM_RAD = np.array(TASK.start_arm_rad)
CUBE_POSE = np.array([0.5, 0.1, TASK.cube_rest_height_m, 1.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def simulator():
    built = MujocoSimulator()
    built.build(TASK.scene(ARM), ARM)
    yield built
    built.close()


@pytest.fixture
def at_start(simulator):
    reset(simulator)
    return simulator


def reset(simulator, appearance=None, cube=CUBE_POSE):
    start = Start(arm_rad=ARM_RAD, hand=np.array([0.04]), box_poses={"cube": cube})
    simulator.reset(start, appearance or Appearance())


def test_an_older_mujoco_is_told_in_one_line_what_it_lacks(monkeypatch):
    """Meta-World pins 3.3.0; to train on an environment like it needs none of our scenes."""
    integrators = SimpleNamespace(mjINT_EULER=0, mjINT_IMPLICITFAST=3)
    monkeypatch.setattr(mujoco_model.mujoco, "mjtIntegrator", integrators)
    monkeypatch.setattr(mujoco_model.mujoco, "__version__", "3.3.0")
    with pytest.raises(RuntimeError, match=r"^.*MuJoCo >= 3\.13.*mjINT_DISCRETE; found 3\.3\.0.*$"):
        build_spec(TASK.scene(ARM), ARM)


def test_limits_of_the_model_are_those_of_the_arm(simulator):
    model = simulator._model
    for servo in (*ARM.servos, *ARM.hand_servos):
        for joint in servo.joints:
            np.testing.assert_allclose(model.joint(joint).range, [servo.lower, servo.upper])
        actuator = model.actuator(servo.name)
        np.testing.assert_allclose(actuator.forcerange, [-servo.max_force, servo.max_force])
        np.testing.assert_allclose(actuator.ctrlrange, [servo.lower, servo.upper])


def test_mass_of_the_arm_is_that_of_its_identification(simulator):
    model = simulator._model
    links = [model.body(f"link{index}").id for index in range(1, 8)]
    assert model.body_mass[links].sum() == pytest.approx(16.06, abs=0.01)
    assert model.body_mass[model.body("cube").id] == pytest.approx(TASK.cube_mass_kg)


def test_fingers_of_one_servo_move_together(at_start):
    for _ in range(20):
        at_start.set_joint_targets(np.array([*ARM_RAD, 0.03]))
        at_start.step(20)
        left, right = at_start.joints(ARM.hand_joint_names)[0]
        assert left == pytest.approx(right, abs=1e-4)


def test_divergence_is_an_error(simulator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a file where it stands
    reset(simulator)
    simulator._data.qvel[:] = 1e12
    with pytest.raises(RuntimeError, match="diverged"):
        simulator.step(5)
    reset(simulator)
    simulator.step(5)


def test_picture_can_be_wrapped_without_a_copy(at_start):
    picture = at_start.render("front", 24, 32)
    assert picture.flags.c_contiguous


def blue(picture):
    red, green, blue_ = np.moveaxis(picture.astype(int), -1, 0)
    return (blue_ - red > 60) & (blue_ - green > 25)


def test_policy_cameras_see_the_cube(at_start):
    for camera in ("hand", "front"):
        assert blue(at_start.render(camera, 128, 128)).sum() > 30


def test_cube_is_seven_pixels_wide_from_the_front_everywhere(simulator):
    for x in (0.4, 0.6):
        for y in (-0.2, 0.2):
            pose = CUBE_POSE.copy()
            pose[:2] = x, y
            reset(simulator, cube=pose)
            columns = np.flatnonzero(blue(simulator.render("front", 128, 128)).any(axis=0))
            assert len(columns) >= 7
            assert columns.min() > 0
            assert columns.max() < 127


def test_material_of_the_arm_can_be_painted(at_start):
    plain = at_start.render("front", 64, 64)
    reset(at_start, Appearance(paints={"arm": Paint(rgb=(0.9, 0.2, 0.1))}))
    assert np.abs(at_start.render("front", 64, 64).astype(int) - plain).mean() > 0.5


def test_arm_that_is_thrown_does_not_meet_itself():
    # a folded arm: links overlap, and nothing pushes them apart
    simulator = MujocoSimulator()
    simulator.build(replace(TASK.scene(ARM), boxes=()), ARM)
    folded = np.array([0.0, 1.7, 0.0, -3.0, 0.0, 0.0, 0.0])
    simulator.reset(Start(arm_rad=folded, hand=np.array([0.04])), Appearance())
    simulator.step(100)
    assert not simulator.contact_forces(ARM.arm_bodies).any()


def test_positions_can_be_drawn_again(at_start):
    picture, positions = at_start.render("front", 24, 32), at_start.positions()
    at_start.set_joint_targets(np.array([*(ARM_RAD + 0.3), 0.0]))
    at_start.step(200)
    assert not np.array_equal(at_start.render("front", 24, 32), picture)
    at_start.place(positions)
    assert np.array_equal(at_start.render("front", 24, 32), picture)
    assert not at_start.joints(ARM.joint_names)[1].any()
    with pytest.raises(ValueError, match=r"shape \(16,\), got \(15,\)"):
        at_start.place(positions[1:])


def test_spec_is_of_the_world_that_is_built(simulator):
    spec = build_spec(TASK.scene(ARM), ARM)
    spec.option.timestep = 0.001  # who simulates may change it
    model, built = spec.compile(), simulator._model
    assert model.opt.timestep == 0.001
    for name in ("body_mass", "geom_size", "jnt_range", "actuator_gainprm", "cam_pos"):
        assert np.array_equal(getattr(model, name), getattr(built, name))
