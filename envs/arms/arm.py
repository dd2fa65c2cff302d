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
        joints: the driven joints; several joints are kept equal to each other.
        lower: lowest target, rad or m.
        upper: highest target, rad or m.
        max_speed: maximum speed of the joint, rad/s or m/s.
        max_force: maximum force or torque, N or N m.
        stiffness: N m/rad or N/m.
        damping: N m s/rad or N s/m.
        max_lead: maximum distance between the joint and the target that is sent, rad or m; None:
            no limit.
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
    """Modified Denavit-Hartenberg (Craig) parameters of a joint's frame in the previous frame."""

    a_m: float
    d_m: float
    alpha_rad: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingertip:
    """A grasping point on a finger, in the frame of a body."""

    name: str
    body: str
    offset_m: Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """An arm with a hand.

    All lengths are those of the simulated robot: they already include `scale`, which is also
    applied to the published lengths in the model file.

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
        hand_body: body of the hand, which carries the hand camera.
        tool_offset_m: tool centre point in the frame of `hand_body`.
        palm_offset_m: centre of the palm in the frame of `hand_body`.
        fingertips: the grasping points.
        arm_bodies: bodies that must not touch anything, base first.
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
        """Lower joint limits of the arm."""
        return tuple(servo.lower for servo in self.servos)

    @property
    def upper_rad(self) -> tuple[float, ...]:
        """Upper joint limits of the arm."""
        return tuple(servo.upper for servo in self.servos)
