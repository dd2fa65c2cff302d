"""The URDF files for Isaac Gym: loaded by MuJoCo, they have the kinematics of our model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from envs.catalogue import variant
from envs.simulation.isaacgym.plan import camera_plan, export
from envs.simulation.isaacgym.urdf import roll_pitch_yaw
from envs.simulation.mujoco_model import build_spec, mujoco
from envs.simulation.scene import Quality

IDS = ("toto/FrankaPick-v0", "toto/KukaPick-v0", "toto/FrankaCabinet-v0", "toto/KukaCabinet-v0")
# MuJoCo otherwise merges bodies on fixed joints, and drops visual shapes.
KEEP = '<mujoco><compiler fusestatic="false" discardvisual="false"/></mujoco>'


@pytest.fixture(scope="module", params=[(one, way) for one in IDS for way in ("robot", "pixmc")])
def exported(request, tmp_path_factory):
    """Return our compiled model, the plan, and the URDF actors as MuJoCo loads them, by name."""
    chosen = variant(*request.param)
    scene = chosen.task.scene(chosen.arm)
    plan = export(scene, chosen.arm, tmp_path_factory.mktemp("assets"))
    ours = build_spec(scene, chosen.arm).compile()
    return ours, plan, {one["name"]: load(one) for one in plan["actors"] if "file" in one["asset"]}


def load(actor):
    text = Path(actor["asset"]["file"]).read_text()
    text = re.sub(r"(<robot [^>]*>)", rf"\1{KEEP}", text)
    return mujoco.MjModel.from_xml_string(text)


def test_bodies_are_where_our_model_has_them_at_random_joint_positions(exported):
    ours, plan, loaded = exported
    rng = np.random.default_rng(0)
    for actor in plan["actors"]:
        if actor["name"] not in loaded:
            continue
        theirs = loaded[actor["name"]]
        assert {theirs.joint(i).name for i in range(theirs.njnt)} == set(actor["dofs"])
        for _ in range(20):
            mine, other = mujoco.MjData(ours), mujoco.MjData(theirs)
            for name in actor["dofs"]:
                lower, upper = ours.joint(name).range
                np.testing.assert_allclose(theirs.joint(name).range, (lower, upper), atol=1e-9)
                position = rng.uniform(lower, upper)
                mine.qpos[ours.joint(name).qposadr[0]] = position
                other.qpos[theirs.joint(name).qposadr[0]] = position
            mujoco.mj_kinematics(ours, mine)
            mujoco.mj_kinematics(theirs, other)
            root, *others = actor["bodies"]
            frame = mine.body(root).xmat.reshape(3, 3)
            for name in others:
                place = frame.T @ (mine.body(name).xpos - mine.body(root).xpos)
                np.testing.assert_allclose(other.body(name).xpos, place, atol=1e-6)
                turn = frame.T @ mine.body(name).xmat.reshape(3, 3)
                np.testing.assert_allclose(other.body(name).xmat.reshape(3, 3), turn, atol=1e-6)


def test_masses_centres_and_inertias_are_ours(exported):
    ours, plan, loaded = exported
    for actor in plan["actors"]:
        theirs = loaded.get(actor["name"])
        # MuJoCo makes the base link a part of the world, which has no mass.
        for name in actor["bodies"][1:] if theirs else []:
            mine, other = ours.body(name), theirs.body(name)
            if not mine.mass[0]:
                continue  # it never moves
            np.testing.assert_allclose(other.mass, mine.mass, rtol=1e-9)
            np.testing.assert_allclose(other.ipos, mine.ipos, atol=1e-9)
            np.testing.assert_allclose(inertia(other), inertia(mine), rtol=1e-6, atol=1e-12)
        if theirs is None and not actor["fixed"]:
            mass = actor["density"] * np.prod(actor["asset"]["size"])
            assert mass == pytest.approx(ours.body(actor["name"]).mass[0])


def inertia(body):
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, body.iquat)
    rotation = rotation.reshape(3, 3)
    return rotation @ np.diag(body.inertia) @ rotation.T


def test_shapes_cover_the_same_volume_of_space(exported):
    """The bounding box of each body's collision shapes, in the body's frame, is ours."""
    ours, plan, loaded = exported
    for actor in plan["actors"]:
        for name in actor["bodies"][1:] if actor["name"] in loaded else []:
            mine, other = extent(ours, name), extent(loaded[actor["name"]], name)
            np.testing.assert_allclose(other, mine, atol=1e-6, err_msg=name)


def extent(model, name):
    """Return the lowest and highest points [2 3] of the collision shapes of a body."""
    body, points = model.body(name).id, [np.zeros((0, 3))]
    for geom in np.flatnonzero(model.geom_bodyid == body):
        if not (model.geom_contype[geom] or model.geom_conaffinity[geom]):
            continue
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        axes, size = rotation.reshape(3, 3), model.geom_size[geom]
        kind = mujoco.mjtGeom(int(model.geom_type[geom]))
        if kind == mujoco.mjtGeom.mjGEOM_BOX:
            half = np.abs(axes) @ size
        elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
            half = np.full(3, size[0])
        elif kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
            half = np.abs(axes[:, 2]) * size[1] + size[0]
        else:
            along = axes[:, 2]
            half = np.abs(along) * size[1] + size[0] * np.sqrt(np.maximum(0, 1 - along**2))
        points += [model.geom_pos[geom] + [-half, half]]
    every = np.concatenate(points)
    return [every.min(axis=0), every.max(axis=0)] if len(every) else [np.zeros(3)] * 2


def test_bodies_that_collide_are_ours(exported):
    """Two bodies of a plan collide unless their filters share a bit; MuJoCo's rules give the same.

    Neighbours on a joint are left out: both engines always ignore contacts between them.
    """
    ours, plan, _ = exported
    filters = {name: bits for one in plan["actors"] for name, bits in one["filters"].items()}
    excluded = {frozenset((int(s) >> 16, int(s) & 0xFFFF)) for s in ours.exclude_signature}
    solid = [g for g in range(ours.ngeom) if ours.geom_contype[g] or ours.geom_conaffinity[g]]
    for first in solid:
        for second in solid:
            bodies = [int(ours.geom_bodyid[geom]) for geom in (first, second)]
            parents = [int(ours.body_parentid[body]) for body in bodies]
            if bodies[0] == bodies[1] or bodies[0] in parents or bodies[1] in parents:
                continue
            (a, b), (c, d) = [
                (int(ours.geom_contype[g]), int(ours.geom_conaffinity[g])) for g in (first, second)
            ]
            still = all(int(ours.body_weldid[body]) == 0 for body in bodies)
            collide = bool(a & d or c & b) and not still and frozenset(bodies) not in excluded
            names = [ours.body(body).name for body in bodies]
            shared = filters.get(names[0], 0) & filters.get(names[1], 0)
            assert (not shared) == collide, names


def test_plan_is_plain_data(exported):
    _, plan, _ = exported
    assert json.loads(json.dumps(plan))["actors"][0]["name"] == plan["actors"][0]["name"]


def test_hand_camera_looks_along_its_x_axis():
    """Isaac Gym's cameras look along x with z upwards; PixMC's looks along the hand's z axis."""
    chosen = variant("toto/FrankaPick-v0", "pixmc")
    camera = chosen.task.scene(chosen.arm).cameras[0]
    bodies = [(0, chosen.arm.hand_body)]
    turned = camera_plan(camera, bodies, 224, 298, Quality())
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.array(turned["quaternion"]))
    x, _, z = rotation.reshape(3, 3).T
    np.testing.assert_allclose(x, [0, 0, 1], atol=1e-9)  # along the hand's z axis
    np.testing.assert_allclose(z, [1, 0, 0], atol=1e-9)  # the hand's x axis is upwards
    assert turned["fov_x_deg"] == pytest.approx(120.0)


@pytest.mark.parametrize("pitch", [-np.pi / 2, -1.0, 0.0, 1.0, np.pi / 2])
def test_roll_pitch_and_yaw_are_rotations_about_fixed_axes(pitch):
    rng = np.random.default_rng(0)
    for roll, yaw in rng.uniform(-3, 3, (20, 2)):
        wanted = turning(roll, pitch, yaw)
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, wanted.ravel())
        np.testing.assert_allclose(turning(*roll_pitch_yaw(quaternion)), wanted, atol=1e-7)


def turning(roll, pitch, yaw):
    def about(axis, angle):
        rotation = np.zeros(9)
        quaternion = np.zeros(4)
        mujoco.mju_axisAngle2Quat(quaternion, np.eye(3)[axis], angle)
        mujoco.mju_quat2Mat(rotation, quaternion)
        return rotation.reshape(3, 3)

    return about(2, yaw) @ about(1, pitch) @ about(0, roll)
