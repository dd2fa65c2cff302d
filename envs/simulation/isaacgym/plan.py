"""The plan of the worlds: what the worker builds, as JSON, with URDF files for arm and fixtures.

A plan is a dictionary of numbers and names:

- `num_worlds`, `timestep_s`, `device` (`cuda:0` or `cpu`), `graphics_device`, `share_images`;
- `actors`: for each its `name`, `asset` (a URDF file, or a box with its size), `pose` [7] in the
  world, `fixed` base or not, whether its root is `movable` by a reset, `density`,
  `disable_gravity`, `friction`, `colors` by body, `filters` by body and `dofs` by joint;
- `joints` and `bodies`: pairs of actor index and name, in the order of the arrays of the client;
- `coupled`: groups of indices of joints that move together, such as the fingers of a gripper;
- `cameras`: pose, field of view and size; `body` is a pair of actor index and name, or None;
- `lighting`: one light for all worlds.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...arms.arm import Arm, Servo
from ..mujoco_model import build_spec, mujoco
from ..scene import Box, Camera, Fixture, PassiveJoint, Quality, Scene
from .urdf import write_urdf

Plan = dict[str, Any]

# A joint without a motor: a drive without stiffness is a damper. Isaac Gym's `friction` of a joint
# is a factor of the joint's force, and not a force as ours, so it stays 0.
_MAX_PASSIVE_FORCE, _MAX_PASSIVE_SPEED = 1000.0, 100.0
_MOST_FILTER_BITS = 31


def export(scene: Scene, arm: Arm, folder: Path) -> Plan:
    """Write the URDF files of a scene with an arm into a folder, and return the plan.

    The plan has no cameras (see `camera_plan`) and no settings of a run, such as `num_worlds`.
    """
    model = build_spec(scene, arm).compile()
    actors = [_arm(model, arm, scene, folder)]
    actors += [_box(box) for box in scene.boxes]
    actors += [_fixture(model, fixture, folder) for fixture in scene.fixtures]
    filters = _filters(model)
    for actor in actors:
        actor["filters"] = {name: filters[name] for name in actor["bodies"] if name in filters}
        geoms = [i for i in range(model.ngeom) if _body_of(model, i) in actor["bodies"]]
        actor["friction"] = float(max(model.geom_friction[geom, 0] for geom in geoms))
    return {
        "timestep_s": scene.timestep_s,
        "actors": actors,
        "joints": [(index, name) for index, one in enumerate(actors) for name in one["dofs"]],
        "bodies": [(index, name) for index, one in enumerate(actors) for name in one["bodies"]],
        "coupled": _coupled(arm),
        "lighting": {
            "diffuse": scene.lighting.diffuse,
            "ambient": np.clip(np.add(scene.lighting.ambient, scene.lighting.head), 0, 1).tolist(),
            "direction": [-value for value in scene.lighting.direction],  # towards the light
        },
    }


def _coupled(arm: Arm) -> list[list[int]]:
    """Return the indices of the joints of each servo with several joints; the arm's come first."""
    groups, first = [], 0
    for servo in (*arm.servos, *arm.hand_servos):
        indices = list(range(first, first + len(servo.joints)))
        groups += [indices] if len(indices) > 1 else []
        first += len(indices)
    return groups


def camera_plan(
    camera: Camera, bodies: Sequence[tuple[int, str]], height: int, width: int, quality: Quality
) -> Plan:
    """Return the plan of a camera.

    Args:
        camera: the camera.
        bodies: pairs of actor index and body name, as in the plan.
        height: height of the images, pixels.
        width: width of the images, pixels.
        quality: quality of the images; only `samples` has an influence.

    Raises:
        ValueError: the camera is fixed in the world, and its image is not upright.
    """
    half = math.tan(math.radians(camera.fov_y_deg) / 2)
    plan: Plan = {
        "name": camera.name,
        "body": None,
        "position": camera.position_m,
        "target": camera.target_m,
        "fov_x_deg": math.degrees(2 * math.atan(half * width / height)),
        "height": height,
        "width": width,
        "supersampling": max(1, round(math.sqrt(quality.samples))),
    }
    if camera.body is None:
        if camera.up != (0.0, 0.0, 1.0):
            raise ValueError(f"Isaac Gym needs up=(0, 0, 1) for the fixed camera {camera.name!r}")
        return plan
    (actor,) = [index for index, name in bodies if name == camera.body]
    return plan | {"body": (actor, camera.body), "quaternion": _camera_quaternion(camera)}


def _arm(model: Any, arm: Arm, scene: Scene, folder: Path) -> Plan:
    base = arm.arm_bodies[0]
    servos = (*arm.servos, *arm.hand_servos)
    limits = {
        name: (servo.max_force / len(servo.joints), servo.max_speed)
        for servo in servos
        for name in servo.joints
    }
    path = folder / f"{arm.name}.urdf"
    path.write_text(write_urdf(model, base, limits))
    yaw = scene.base_yaw_rad
    return _actor(
        arm.name,
        {"kind": "urdf", "file": str(path)},
        [*scene.base_position_m, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
        bodies=_bodies_below(model, base),
        disable_gravity=True,
        dofs={name: _servo_dof(model, servo, name) for servo in servos for name in servo.joints},
    )


def _box(box: Box) -> Plan:
    movable = box.mass_kg is not None
    volume = float(np.prod(box.size_m))
    return _actor(
        box.name,
        {"kind": "box", "size": box.size_m},
        [*box.position_m, 1.0, 0.0, 0.0, 0.0],
        bodies=[box.name],
        fixed=not movable,
        movable=movable,
        density=(box.mass_kg or 1000.0 * volume) / volume,
        colors={box.name: box.paint.rgb},
    )


def _fixture(model: Any, fixture: Fixture, folder: Path) -> Plan:
    path = folder / f"{fixture.name}.urdf"
    path.write_text(write_urdf(model, fixture.name))
    return _actor(
        fixture.name,
        {"kind": "urdf", "file": str(path)},
        [*fixture.position_m, 1.0, 0.0, 0.0, 0.0],
        bodies=_bodies_below(model, fixture.name),
        movable=True,
        dofs={
            part.name: _passive_dof(part.joint) for part in fixture.parts if part.joint is not None
        },
    )


def _actor(
    name: str,
    asset: Plan,
    pose: list[float],
    *,
    bodies: list[str],
    fixed: bool = True,
    movable: bool = False,
    density: float = 1000.0,
    disable_gravity: bool = False,
    colors: Plan | None = None,
    dofs: Plan | None = None,
) -> Plan:
    return {
        "name": name,
        "asset": asset,
        "pose": pose,
        "bodies": bodies,
        "fixed": fixed,
        "movable": movable,
        "density": density,
        "disable_gravity": disable_gravity,
        "colors": colors or {},
        "dofs": dofs or {},
    }


def _servo_dof(model: Any, servo: Servo, joint: str) -> Plan:
    """Return the drive of a joint: a servo with several joints divides its force among them."""
    count, dof = len(servo.joints), int(model.jnt_dofadr[model.joint(joint).id])
    return {
        "drive": "position",
        "stiffness": servo.stiffness / count,
        "damping": servo.damping / count + float(np.ravel(model.dof_damping[dof])[0]),
        "effort": servo.max_force / count,
        "velocity": servo.max_speed,
        "friction": 0.0,
        "armature": float(model.dof_armature[dof]),
    }


def _passive_dof(joint: PassiveJoint) -> Plan:
    return {
        "drive": "damper",
        "stiffness": 0.0,
        "damping": joint.damping,
        "effort": _MAX_PASSIVE_FORCE,
        "velocity": _MAX_PASSIVE_SPEED,
        "friction": 0.0,
        "armature": joint.armature,
    }


def _bodies_below(model: Any, root: str) -> list[str]:
    """Return the names of a body and of all bodies below it, in the order of the model."""
    inside = {model.body(root).id}
    for body in range(model.nbody):  # parents come first
        if int(model.body_parentid[body]) in inside:
            inside.add(body)
    return [model.body(body).name for body in sorted(inside)]


def _body_of(model: Any, geom: int) -> str:
    return model.body(int(model.geom_bodyid[geom])).name


def _filters(model: Any) -> dict[str, int]:
    """Return the collision filter of each body: two bodies with a common bit do not collide.

    PhysX itself ignores collisions between a link and its parent.

    Raises:
        ValueError: the filters would need more bits than Isaac Gym has.
    """
    groups: list[set[str]] = []
    kinds: dict[tuple[int, int], set[str]] = {}
    static: set[str] = set()
    for geom in range(model.ngeom):
        kind = (int(model.geom_contype[geom]), int(model.geom_conaffinity[geom]))
        if kind == (0, 0):
            continue
        name = _body_of(model, geom)
        kinds.setdefault(kind, set()).add(name)
        if int(model.body_weldid[int(model.geom_bodyid[geom])]) == 0:
            static.add(name)
    for (contype, conaffinity), names in kinds.items():
        if not contype & conaffinity:  # these geoms do not collide with each other
            groups.append(names)
    for (first, names), (second, others) in combinations(kinds.items(), 2):
        if not (first[0] & second[1] or second[0] & first[1]):
            raise ValueError(f"no collision filter separates {sorted(names)} from {sorted(others)}")
    groups.append(static)
    for signature in model.exclude_signature:
        pair = (int(signature) >> 16, int(signature) & 0xFFFF)
        groups.append({model.body(body).name for body in pair})
    if len(groups) > _MOST_FILTER_BITS:
        raise ValueError(f"{len(groups)} collision filters are needed; {_MOST_FILTER_BITS} exist")
    filters: dict[str, int] = {}
    for bit, names in enumerate(groups):
        for name in names:
            filters[name] = filters.get(name, 0) | 1 << bit
    return filters


def _camera_quaternion(camera: Camera) -> list[float]:
    """Return the orientation of a camera, w first: x is the view, z is upwards in the image."""
    forward = np.subtract(camera.target_m, camera.position_m)
    forward = forward / np.linalg.norm(forward)
    left = np.cross(camera.up, forward)
    left = left / np.linalg.norm(left)
    rotation = np.stack([forward, left, np.cross(forward, left)], axis=1)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    return quaternion.tolist()
