"""What a robot arm with a hand is, as frozen data: names, limits, gains and kinematics.

The arms themselves are in `envs.arms.franka` and `envs.arms.kuka`, each constant with its source.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ..geometry import Vector

MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True, kw_only=True, slots=True)
class Servo:
    """Describe a position servo that drives one joint, or several as their mean.

    The force is `stiffness * (target - position) - damping * velocity`, cut at `max_force`.

    Attributes:
        joints: the driven joints; when there are several they are held equal to each other.
        lower: least target, rad or m.
        upper: greatest target, rad or m.
        max_speed: greatest speed of the joint, rad/s or m/s.
        max_force: greatest force or torque, N or N m.
        stiffness: N m/rad or N/m.
        damping: N m s/rad or N s/m.
        max_lead: how far from the joint the target that is sent may be, rad or m; None for as far
            as one likes.
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
    """Bound how far a servo's target leads, so that its joint keeps its greatest speed.

    MuJoCo has no speed limit of joints. Where the damping balances the stiffness a joint runs at
    stiffness * lead / damping.
    """
    return replace(servo, max_lead=servo.damping * servo.max_speed / servo.stiffness)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkFrame:
    """Place a joint's frame in the frame before it: modified Denavit-Hartenberg (Craig) lengths."""

    a_m: float
    d_m: float
    alpha_rad: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingertip:
    """Name a point on a finger that grasps: its place in the frame of a body."""

    name: str
    body: str
    offset_m: Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Describe an arm with a hand.

    Lengths are those of the robot as it is simulated: `scale` is already in them, and is applied
    to the model file, which has the published ones.

    Attributes:
        name: identifier, stored in every Interface.
        model: MJCF file with bodies, inertias and geoms; limits and gains come from here.
        scale: factor on every length of the model file.
        servos: the arm's joints in order, base first.
        hand_servos: those of the hand in order. One servo with several joints is a gripper; its
            target is the distance of a finger from the middle.
        link_frames: kinematics of the arm's joints in order.
        flange_m: distance from the last joint's frame to the hand along its z.
        hand_yaw_rad: rotation of the hand about the flange's z.
        hand_body: body that carries the hand and its camera.
        tool_offset_m: the point that is brought to things, in the frame of `hand_body`.
        palm_offset_m: the middle of the palm, in the frame of `hand_body`.
        fingertips: the points that grasp.
        arm_bodies: what must not touch anything, base first.
        sources: where the constants come from.
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
        """Return the arm's joint names, base first, without the hand."""
        return tuple(servo.joints[0] for servo in self.servos)

    @property
    def hand_joint_names(self) -> tuple[str, ...]:
        """Return the hand's joint names in the order of its servos."""
        return tuple(name for servo in self.hand_servos for name in servo.joints)

    @property
    def lower_rad(self) -> tuple[float, ...]:
        """Return the arm's lower joint limits."""
        return tuple(servo.lower for servo in self.servos)

    @property
    def upper_rad(self) -> tuple[float, ...]:
        """Return the arm's upper joint limits."""
        return tuple(servo.upper for servo in self.servos)
