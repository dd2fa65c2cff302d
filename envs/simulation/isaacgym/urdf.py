"""Write a part of a MuJoCo model as a URDF file, the format in which Isaac Gym reads robots.

Lengths, orientations, masses, inertias, joint limits and colours are those of the compiled model. A
capsule becomes a cylinder with two spheres, because URDF has no capsule.
"""

import math
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from ..mujoco_model import mujoco

# The limits of a joint without a motor: Isaac Gym reads them, but no drive of ours reaches them.
_NO_LIMIT = {"effort": "1000", "velocity": "100"}
_STATIC_MASS_KG, _STATIC_INERTIA = 1.0, 0.01  # of a body that has none, because it never moves
_JOINT_KINDS = {
    int(mujoco.mjtJoint.mjJNT_HINGE): "revolute",
    int(mujoco.mjtJoint.mjJNT_SLIDE): "prismatic",
}


def write_urdf(
    model: Any, root: str, limits: Mapping[str, tuple[float, float]] | None = None
) -> str:
    """Return the URDF text of a body and all bodies below it.

    Args:
        model: the compiled MuJoCo model.
        root: name of the body that becomes the base link; its pose in the world is not written.
        limits: maximum force (N or N m) and maximum speed (m/s or rad/s) of joints, by name.

    Raises:
        ValueError: URDF cannot describe a joint or a geom of the model.
    """
    robot = ET.Element("robot", name=root)
    base = model.body(root).id
    for body in range(base, model.nbody):
        if body != base and not _is_below(model, body, base):
            continue
        _add_link(robot, model, body)
        if body != base:
            _add_joint(robot, model, body, limits or {})
    ET.indent(robot)
    return '<?xml version="1.0"?>\n' + ET.tostring(robot, encoding="unicode") + "\n"


def _is_below(model: Any, body: int, base: int) -> bool:
    while body and body != base:
        body = int(model.body_parentid[body])
    return body == base


def _add_link(robot: ET.Element, model: Any, body: int) -> None:
    link = ET.SubElement(robot, "link", name=model.body(body).name)
    inertial = ET.SubElement(link, "inertial")
    _add_origin(inertial, model.body_ipos[body], model.body_iquat[body])
    mass = float(model.body_mass[body])
    ET.SubElement(inertial, "mass", value=_number(mass or _STATIC_MASS_KG))
    xx, yy, zz = model.body_inertia[body] if mass else [_STATIC_INERTIA] * 3
    inertia = {"ixx": xx, "iyy": yy, "izz": zz, "ixy": 0, "ixz": 0, "iyz": 0}
    ET.SubElement(inertial, "inertia", {key: _number(value) for key, value in inertia.items()})
    for geom in range(model.ngeom):
        if model.geom_bodyid[geom] != body:
            continue
        if model.geom_group[geom] == 0:
            for shape in _shapes(model, geom):
                _add_shape(link, "visual", *shape, rgba=_rgba(model, geom))
        if model.geom_contype[geom] or model.geom_conaffinity[geom]:
            for shape in _shapes(model, geom):
                _add_shape(link, "collision", *shape)


def _add_joint(
    robot: ET.Element, model: Any, body: int, limits: Mapping[str, tuple[float, float]]
) -> None:
    name = model.body(body).name
    number = int(model.body_jntnum[body])
    if number > 1:
        raise ValueError(f"URDF has one joint per body, but {name} has {number}")
    index = int(model.body_jntadr[body])
    kind = "fixed" if number == 0 else _JOINT_KINDS.get(int(model.jnt_type[index]))
    if kind is None or (number and np.any(model.jnt_pos[index])):
        raise ValueError(f"URDF cannot describe the joint of {name}")
    joint_name = f"{name}_fixed" if number == 0 else model.joint(index).name
    joint = ET.SubElement(robot, "joint", name=joint_name, type=kind)
    ET.SubElement(joint, "parent", link=model.body(int(model.body_parentid[body])).name)
    ET.SubElement(joint, "child", link=name)
    _add_origin(joint, model.body_pos[body], model.body_quat[body])
    if number == 0:
        return
    ET.SubElement(joint, "axis", xyz=_numbers(model.jnt_axis[index]))
    lower, upper = model.jnt_range[index]
    most = _NO_LIMIT
    if joint_name in limits:
        effort, speed = limits[joint_name]
        most = {"effort": _number(effort), "velocity": _number(speed)}
    ET.SubElement(joint, "limit", {"lower": _number(lower), "upper": _number(upper), **most})


def _shapes(model: Any, geom: int) -> list[tuple[Any, Any, str, dict[str, str]]]:
    """Return position, quaternion, URDF name and sizes of the shapes that form a geom."""
    kind = mujoco.mjtGeom(int(model.geom_type[geom]))
    radius, half, _ = size = model.geom_size[geom]
    position, quaternion = model.geom_pos[geom], model.geom_quat[geom]
    cylinder = {"radius": _number(radius), "length": _number(2 * half)}
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return [(position, quaternion, "box", {"size": _numbers(2 * size)})]
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return [(position, quaternion, "sphere", {"radius": _number(radius)})]
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return [(position, quaternion, "cylinder", cylinder)]
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, quaternion)
        along = half * rotation.reshape(3, 3)[:, 2]
        ball = {"radius": _number(radius)}
        return [
            (position, quaternion, "cylinder", cylinder),
            (position + along, quaternion, "sphere", ball),
            (position - along, quaternion, "sphere", ball),
        ]
    raise ValueError(f"URDF cannot describe a geom of the kind {kind.name}")


def _add_shape(
    link: ET.Element,
    use: str,
    position: Any,
    quaternion: Any,
    kind: str,
    sizes: dict[str, str],
    rgba: Any = None,
) -> None:
    element = ET.SubElement(link, use)
    _add_origin(element, position, quaternion)
    ET.SubElement(ET.SubElement(element, "geometry"), kind, sizes)
    if rgba is not None:
        name = "rgba_" + "_".join(f"{round(255 * value)}" for value in rgba)
        material = ET.SubElement(element, "material", name=name)
        ET.SubElement(material, "color", rgba=_numbers(rgba))


def _rgba(model: Any, geom: int) -> Any:
    material = int(model.geom_matid[geom])
    return model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]


def _add_origin(element: ET.Element, position: Any, quaternion: Any) -> None:
    rpy = _numbers(roll_pitch_yaw(quaternion))
    ET.SubElement(element, "origin", xyz=_numbers(position), rpy=rpy)


def roll_pitch_yaw(quaternion: Any) -> tuple[float, float, float]:
    """Return the rotations about the fixed axes x, y and z, rad, of a quaternion [4], w first."""
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.asarray(quaternion, dtype=np.float64))
    (r00, _, _), (r10, r11, r12), (r20, r21, r22) = rotation.reshape(3, 3)
    level = math.hypot(r00, r10)
    if level < 1e-9:  # x points up or down, so only the difference of roll and yaw matters
        return math.atan2(-r12, r11), math.atan2(-r20, level), 0.0
    return math.atan2(r21, r22), math.atan2(-r20, level), math.atan2(r10, r00)


def _number(value: float) -> str:
    return f"{float(value):.12g}"


def _numbers(values: Any) -> str:
    return " ".join(_number(value) for value in values)
