"""Joint limits: constants for known robots, and limits that are read from the connected robot.

The limits must be read from the connected robot, because the robots differ: joint 6 of a Panda
moves down to -0.02 rad, joint 6 of an FR3 only to 0.44 rad. A driver reads the version of the
robot's server and calls `limits_of_server`. It then calls `limits_from_urdf`, which replaces these
limits by the limits in the robot's URDF.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class JointLimits:
    """Limits of an arm's joints; each attribute has one value per joint, from the base on.

    Near a position limit, the maximum velocity decreases, so that the joint can stop before the
    limit. At a distance `x` from the position limit, the maximum velocity towards the limit is
    `-velocity_offset + sqrt(2 * braking * x)`.

    Attributes:
        lower_rad: lower position limits, rad.
        upper_rad: upper position limits, rad.
        velocity_rad_s: maximum velocities far from the position limits, rad/s.
        acceleration_rad_s2: maximum accelerations, rad/s^2.
        velocity_offset_rad_s: `velocity_offset` in the formula, rad/s; 0 if the maximum velocity is
            constant.
        braking_rad_s2: `braking` in the formula, rad/s^2; infinite if the maximum velocity is
            constant.
        source: name of the robot or file from which the limits come, for error messages.
    """

    lower_rad: tuple[float, ...]
    upper_rad: tuple[float, ...]
    velocity_rad_s: tuple[float, ...]
    acceleration_rad_s2: tuple[float, ...]
    velocity_offset_rad_s: tuple[float, ...]
    braking_rad_s2: tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if field.name == "source":
                continue
            if len(values) != self.num_joints:
                raise ValueError(f"{field.name}: {len(values)} values for {self.num_joints} joints")
            unbounded = field.name == "braking_rad_s2"
            for joint, value in enumerate(values, start=1):
                if math.isnan(value) or (math.isinf(value) and not unbounded):
                    raise ValueError(f"{field.name}: joint {joint} must be finite, got {value}")
                positive = field.name not in ("lower_rad", "upper_rad", "velocity_offset_rad_s")
                if positive and value <= 0:
                    raise ValueError(f"{field.name}: joint {joint} must be positive, got {value}")
        for joint, (low, high) in enumerate(zip(self.lower_rad, self.upper_rad, strict=True), 1):
            if low >= high:
                raise ValueError(f"joint {joint}: lower limit {low} is not below upper {high}")
        if min(self.velocity_offset_rad_s) < 0:
            raise ValueError(f"velocity_offset_rad_s must not be negative: {self}")

    @property
    def num_joints(self) -> int:
        """Return the number of joints."""
        return len(self.lower_rad)


# libfranka 0.21, rate_limiting.h, and the URDF of franka_description; system version 5.9 and later.
FR3 = JointLimits(
    lower_rad=(-2.9007, -1.8361, -2.9007, -3.0770, -2.8763, 0.4398, -3.0508),
    upper_rad=(2.9007, 1.8361, 2.9007, -0.1169, 2.8763, 4.6216, 3.0508),
    velocity_rad_s=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
    acceleration_rad_s2=(10.0,) * 7,
    velocity_offset_rad_s=(0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35),
    braking_rad_s2=(6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0),
    source="FR3, system 5.9 and later",
)

# The same source for systems before 5.9.
FR3_BEFORE_5_9 = replace(
    FR3,
    lower_rad=(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
    upper_rad=(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
    source="FR3, system before 5.9",
)

# libfranka 0.9.2, rate_limiting.h; Franka Control Interface documentation, Panda.
PANDA = JointLimits(
    lower_rad=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    upper_rad=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    velocity_rad_s=(2.175,) * 4 + (2.61,) * 3,
    acceleration_rad_s2=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
    velocity_offset_rad_s=(0.0,) * 7,
    braking_rad_s2=(math.inf,) * 7,
    source="Panda",
)

_BY_SERVER = {5: PANDA, **dict.fromkeys((6, 7, 8, 9), FR3_BEFORE_5_9), 10: FR3}


def limits_of_server(version: int) -> JointLimits:
    """Return the joint limits of the arms whose control server has this version.

    Raises:
        ValueError: the version is unknown; the message lists the known versions.
    """
    if version not in _BY_SERVER:
        known = ", ".join(f"{number} ({known.source})" for number, known in _BY_SERVER.items())
        raise ValueError(f"unknown server version {version}; known: {known}")
    return _BY_SERVER[version]


def limits_from_urdf(urdf: str, like: JointLimits) -> JointLimits:
    """Return the joint limits that a robot's URDF contains.

    Each revolute joint, in the order of the file, has its limits in the element
    `<limit lower upper velocity>`. Franka adds an element
    `<position_based_velocity_limits velocity_offset deceleration_limit>`.

    Args:
        urdf: the text of the URDF, which is XML.
        like: known limits of a robot with the same joints. The acceleration limits come from here,
            because a URDF has none. `velocity_offset` and `braking` come from here for joints
            without Franka's element.

    Raises:
        ValueError: the text is not XML, a joint has no valid limits, or `like` has another number
            of joints.
    """
    try:
        root = ElementTree.fromstring(urdf)
    except ElementTree.ParseError as error:
        raise ValueError(f"the robot's model is not a URDF: {error}") from error
    joints = [joint for joint in root.iter("joint") if joint.get("type") == "revolute"]
    if len(joints) != like.num_joints:
        names = ", ".join(str(joint.get("name")) for joint in joints) or "none"
        raise ValueError(
            f"the robot's model has {len(joints)} revolute joints ({names}), "
            f"expected {like.num_joints}"
        )
    columns = [_read_joint(joint, index, like) for index, joint in enumerate(joints)]
    lower, upper, velocity, offset, braking = zip(*columns, strict=True)
    return replace(
        like,
        lower_rad=lower,
        upper_rad=upper,
        velocity_rad_s=velocity,
        velocity_offset_rad_s=offset,
        braking_rad_s2=braking,
        source=f"the robot's URDF; acceleration of {like.source}",
    )


def _read_joint(
    joint: ElementTree.Element, index: int, like: JointLimits
) -> tuple[float, float, float, float, float]:
    limit = joint.find("limit")
    if limit is None:
        raise ValueError(f"joint {joint.get('name')!r} of the robot's model has no <limit>")
    shrink = joint.find("position_based_velocity_limits")
    try:
        lower, upper, velocity = (
            float(limit.attrib[name]) for name in ("lower", "upper", "velocity")
        )
        if shrink is None:
            offset, braking = like.velocity_offset_rad_s[index], like.braking_rad_s2[index]
        else:
            offset = float(shrink.attrib["velocity_offset"])
            braking = float(shrink.attrib["deceleration_limit"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"joint {joint.get('name')!r} of the robot's model: {error}") from error
    return lower, upper, velocity, offset, braking
