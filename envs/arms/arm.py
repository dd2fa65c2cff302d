"""Data classes of robot arms with hands: names, limits, gains and kinematics.

The arms are in `envs.arms.franka` and `envs.arms.kuka`, with the source of each constant.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ..geometry import Vector

MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True, kw_only=True, slots=True)
class Servo:
    """A position servo that drives one joint, or several joints that move together.

    The position of the servo is the mean position of its joints. Its force is
    `stiffness * (target - position) - damping * velocity`, clipped to plus and minus `max_force`.

    Attributes:
        name: name of the servo.
        joints: names of the joints that the servo drives.
        lower: lowest target position, rad or m.
        upper: highest target position, rad or m.
        max_speed: maximum speed of the joints, rad/s or m/s.
        max_force: maximum force or torque, N or N m.
        stiffness: torque or force per position error, N m/rad or N/m.
        damping: torque or force per joint velocity, N m s/rad or N s/m.
        max_lead: maximum distance between the target that the controller sends and the measured
            joint position, rad or m; None: no limit.
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
    """Return the servo with a `max_lead` that limits the speed of the joint to `max_speed`.

    MuJoCo has no limit on joint speed. When the damping force balances the stiffness force, a joint
    moves with a speed of stiffness * lead / damping, where lead is the distance to the target.
    """
    return replace(servo, max_lead=servo.damping * servo.max_speed / servo.stiffness)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkFrame:
    """The position and orientation of a joint's frame in the frame of the previous joint.

    These are modified Denavit-Hartenberg parameters (Craig's convention).

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
    """A point on a finger that should touch a grasped object.

    Attributes:
        name: name of the fingertip, for example `left`.
        body: name of the body to which the point is fixed.
        offset_m: [3] position of the point in the body's frame, m.
    """

    name: str
    body: str
    offset_m: Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A robot arm with a hand: model file, servos, kinematics and grasping points.

    All lengths are those of the simulated robot, so they already include `scale`. The model file
    contains the published lengths, which the simulator multiplies by `scale`.

    Attributes:
        name: name of the arm, for example `franka_panda`; stored in every `Interface`.
        model: MJCF file with bodies, inertias and geoms. Joint limits and servo gains of the file
            are ignored; the values of this class are used.
        scale: factor by which every length of the model file is multiplied.
        servos: one servo per joint of the arm, base first.
        hand_servos: servos of the hand, in order. A servo with several joints is a gripper. The
            target of a gripper is the distance of each finger from the centre, m.
        link_frames: position and orientation of each joint of the arm, base first.
        flange_m: distance from the frame of the last joint to the hand, along the z axis, m.
        hand_yaw_rad: rotation of the hand about the flange's z axis, rad.
        hand_body: name of the hand's body, to which the hand camera is fixed.
        tool_offset_m: [3] position of the tool centre point in the frame of `hand_body`, m.
        palm_offset_m: [3] position of the palm's centre in the frame of `hand_body`, m.
        fingertips: the points on the fingers that touch a grasped object.
        arm_bodies: names of the arm's bodies without the hand, base first. In the protocol `pixmc`,
            an episode fails if one of them is touched with more than 1 N.
        sources: the documents from which the constants were taken.
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
