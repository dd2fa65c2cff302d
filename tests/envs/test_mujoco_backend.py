import dataclasses

import numpy as np
import pytest

from envs.arms import FRANKA_PANDA as ARM
from envs.mujoco_backend import MujocoSimulator
from envs.scene import Appearance, CameraShift, Lighting, Paint
from envs.tasks.pick import PickTask

TASK = PickTask()
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


def reset(simulator, appearance=None, **fingers):
    joints = dict(zip(ARM.joint_names, TASK.start_joint_positions, strict=True))
    simulator.reset(joints | fingers, {"cube": CUBE_POSE}, appearance or Appearance())


def targets(finger_m=0.0):
    return np.array([*TASK.start_joint_positions, finger_m])


def test_limits_of_the_model_are_those_of_the_arm(simulator):
    model = simulator._model
    for servo in (*ARM.servos, ARM.gripper):
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


def test_arm_stays_where_its_targets_are(at_start):
    at_start.set_joint_targets(targets())
    at_start.step(500)
    positions, velocities = at_start.joints(ARM.joint_names)
    np.testing.assert_allclose(positions, TASK.start_joint_positions, atol=1e-3)
    assert np.abs(velocities).max() < 1e-3


def test_joint_goes_to_its_target(at_start):
    wanted = targets()
    wanted[3] += 0.2
    at_start.set_joint_targets(wanted)
    at_start.step(750)
    np.testing.assert_allclose(at_start.joints(ARM.joint_names)[0], wanted[:7], atol=2e-3)


def test_fingers_move_together(at_start):
    at_start.set_joint_targets(targets(finger_m=0.03))
    at_start.step(300)
    np.testing.assert_allclose(at_start.joints(ARM.gripper.joints)[0], 0.03, atol=1e-3)


def test_cube_rests_on_the_table_with_its_weight(at_start):
    at_start.step(500)
    np.testing.assert_allclose(at_start.bodies(["cube"])[0], CUBE_POSE, atol=1e-3)
    weight_n = TASK.cube_mass_kg * 9.81
    assert at_start.contact_force("cube") == pytest.approx(weight_n, rel=0.02)
    assert at_start.contact_force("hand") == 0.0


def test_what_is_returned_is_not_changed_by_later_steps(at_start):
    wanted = targets()
    wanted[0] += 0.1
    at_start.set_joint_targets(wanted)
    positions, velocities = at_start.joints(ARM.joint_names)
    poses = at_start.bodies(["hand"])
    before = positions.copy(), velocities.copy(), poses.copy()
    at_start.step(50)
    np.testing.assert_array_equal(positions, before[0])
    np.testing.assert_array_equal(velocities, before[1])
    np.testing.assert_array_equal(poses, before[2])


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
    assert picture.shape == (24, 32, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    other = picture.copy()
    at_start.step(50)
    at_start.render("front", 24, 32)
    np.testing.assert_array_equal(picture, other)


def test_policy_cameras_see_the_cube(at_start):
    for camera in ("hand", "front"):
        assert blue(at_start.render(camera, 128, 128)).sum() > 30


def test_cube_is_seven_pixels_wide_from_the_front_everywhere(simulator):
    for x in (0.4, 0.6):
        for y in (-0.2, 0.2):
            pose = CUBE_POSE.copy()
            pose[:2] = x, y
            simulator.reset({}, {"cube": pose}, Appearance())
            columns = np.flatnonzero(blue(simulator.render("front", 128, 128)).any(axis=0))
            assert len(columns) >= 7
            assert columns.min() > 0
            assert columns.max() < 127


def blue(picture):
    red, green, blue_ = np.moveaxis(picture.astype(int), -1, 0)
    return (blue_ - red > 60) & (blue_ - green > 25)


@pytest.mark.parametrize(
    "appearance",
    [
        Appearance(paints={"cube": Paint(rgb=(1.0, 0.0, 0.0))}),
        Appearance(paints={"table": Paint(rgb=(0.5, 0.5, 0.5), pattern="planks")}),
        Appearance(paints={"arm": Paint(rgb=(0.9, 0.6, 0.2))}),
        Appearance(
            lighting=Lighting(
                direction=(0, 0, -1), diffuse=(0.2,) * 3, ambient=(0.1,) * 3, head=(0.0,) * 3
            )
        ),
        Appearance(
            camera_shifts={
                "front": CameraShift(
                    translation_m=(0.05, 0, 0), rotation_rad=(0, 0.05, 0), fov_y_deg=3.0
                )
            }
        ),
    ],
    ids=["cube", "table", "arm", "light", "camera"],
)
def test_appearance_changes_the_picture_and_is_gone_at_the_next_reset(simulator, appearance):
    reset(simulator)
    plain = simulator.render("front", 64, 64)
    reset(simulator, appearance)
    assert np.abs(simulator.render("front", 64, 64).astype(int) - plain).mean() > 0.2
    reset(simulator)
    np.testing.assert_array_equal(simulator.render("front", 64, 64), plain)


def test_unknown_paint_is_an_error(simulator):
    with pytest.raises(KeyError, match="sofa"):
        reset(simulator, Appearance(paints={"sofa": Paint(rgb=(0, 0, 0))}))
    reset(simulator)


def test_fine_picture_has_shadows(at_start):
    plain = at_start.render("front", 48, 48)
    fine = at_start.render("front", 48, 48, fine=True)
    assert plain.shape == fine.shape
    assert np.abs(plain.astype(int) - fine).max() > 20


def test_arm_that_is_thrown_does_not_meet_itself():
    # a folded arm: links overlap, and nothing pushes them apart
    simulator = MujocoSimulator()
    scene = dataclasses.replace(TASK.scene(ARM), boxes=())
    simulator.build(scene, ARM)
    folded = [0.0, 1.7, 0.0, -3.0, 0.0, 0.0, 0.0]
    simulator.reset(dict(zip(ARM.joint_names, folded, strict=True)), {}, Appearance())
    simulator.step(100)
    assert simulator.contact_force("hand") == 0.0
