"""Data classes of robot arms with hands: names, limits, gains and kinematics.

The arms are in `envs.arms.franka` and `envs.arms.kuka`, with the source of each constant.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ..geometry import Vector

MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True, kw_only=True, slots=True)
class Servo:
    """A position servo of one joint, or of the mean of several joints.

    The force is `stiffness * (target - position) - damping * velocity`, clipped at `max_force`.

    Attributes:
        joints: names of the driven joints; several joints are kept equal to each other.
        lower: lowest target, rad or m.
        upper: highest target, rad or m.
        max_speed: maximum speed of the joint, rad/s or m/s.
        max_force: maximum force or torque, N or N m.
        stiffness: torque or force per position error, N m/rad or N/m.
        damping: torque or force per joint velocity, N m s/rad or N s/m.
        max_lead: maximum distance of the target that is sent from the measured joint position, rad
            or m; None: no limit.
    """

    name: str
    joints: tuple[str, ...]
    lower: float
    upper: float
    max_speed: float
    max_force: float
    stiffness: float
    damping: float
    max_lead: float | None = None


def bounded_speed(servo: Servo) -> Servo:
    """Return the servo with a `max_lead` that limits the joint to its maximum speed.

    MuJoCo has no joint speed limit. When damping and stiffness balance, a joint moves at
    stiffness * lead / damping.
    """
    return replace(servo, max_lead=servo.damping * servo.max_speed / servo.stiffness)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkFrame:
    """Modified Denavit-Hartenberg (Craig) parameters of a joint's frame in the previous frame.

    Attributes:
        a_m: link length, m.
        d_m: link offset, m.
        alpha_rad: link twist, rad.
    """

    a_m: float
    d_m: float
    alpha_rad: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingertip:
    """A grasping point on a finger.

    Attributes:
        name: name of the fingertip.
        body: name of the body that it belongs to.
        offset_m: [3] position of the point in the body's frame, m.
    """

    name: str
    body: str
    offset_m: Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A robot arm with a hand.

    All lengths are in metres of the simulated robot, so they already include `scale`. The model
    file has the published lengths, which the simulator multiplies by `scale`.

    Attributes:
        name: identifier, stored in every Interface.
        model: MJCF file with bodies, inertias and geoms; its limits and gains are replaced by the
            values of this class.
        scale: scale factor on every length of the model file.
        servos: servos of the arm's joints in order, base first.
        hand_servos: servos of the hand in order. A servo with several joints is a gripper; its
            target is the distance of each finger from the centre.
        link_frames: kinematics of the arm's joints in order.
        flange_m: distance from the last joint's frame to the hand along the z axis.
        hand_yaw_rad: rotation of the hand about the flange's z axis.
        hand_body: name of the hand's body, to which the hand camera is fixed.
        tool_offset_m: [3] tool centre point in the frame of `hand_body`, m.
        palm_offset_m: [3] centre of the palm in the frame of `hand_body`, m.
        fingertips: the grasping points.
        arm_bodies: names of the arm's bodies, base first; in the protocol `pixmc` they must not
            touch anything.
        sources: sources of the constants.
    """

    name: str
    model: Path
    scale: float
    servos: tuple[Servo, ...]
    hand_servos: tuple[Servo, ...]
    link_frames: tuple[LinkFrame, ...]
    flange_m: float
    hand_yaw_rad: float
    hand_body: str
    tool_offset_m: Vector
    palm_offset_m: Vector
    fingertips: tuple[Fingertip, ...]
    arm_bodies: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the arm's joints, base first, without the hand."""
        return tuple(servo.joints[0] for servo in self.servos)

    @property
    def hand_joint_names(self) -> tuple[str, ...]:
        """Names of the hand's joints in the order of its servos."""
        return tuple(name for servo in self.hand_servos for name in servo.joints)

    @property
    def lower_rad(self) -> tuple[float, ...]:
        """Lower joint limits of the arm [j], rad."""
        return tuple(servo.lower for servo in self.servos)

    @property
    def upper_rad(self) -> tuple[float, ...]:
        """Upper joint limits of the arm [j], rad."""
        return tuple(servo.upper for servo in self.servos)
