"""Robot arms as frozen data: names, limits, gains and kinematics, each constant with its source."""

import math
from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).parent / "models"


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
    """

    name: str
    joints: tuple[str, ...]
    lower: float
    upper: float
    max_speed: float
    max_force: float
    stiffness: float
    damping: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkFrame:
    """Place a joint's frame in the frame before it: modified Denavit-Hartenberg (Craig) lengths."""

    a_m: float
    d_m: float
    alpha_rad: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Describe an arm with a gripper.

    Attributes:
        name: identifier, stored in every Interface.
        model: MJCF file with bodies, inertias and geoms; limits and gains come from here.
        servos: the arm's joints in order, base first.
        gripper: the servo of the fingers; its target is the distance of a finger from the middle.
        link_frames: kinematics of the arm's joints in order.
        flange_m: distance from the last joint's frame to the flange along its z.
        hand_yaw_rad: rotation of the hand about the flange's z.
        tcp_m: distance from the hand's frame to the point between the fingertips, along its z.
        hand_body: body that carries the gripper and the hand camera.
        finger_bodies: the two fingers.
        fingertip_m: distance from a finger's frame to the middle of its pad, along its z.
        sources: where the constants come from.
    """

    name: str
    model: Path
    servos: tuple[Servo, ...]
    gripper: Servo
    link_frames: tuple[LinkFrame, ...]
    flange_m: float
    hand_yaw_rad: float
    tcp_m: float
    hand_body: str
    finger_bodies: tuple[str, str]
    fingertip_m: float
    sources: tuple[str, ...]

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Give the arm's joint names, base first, without the fingers."""
        return tuple(servo.joints[0] for servo in self.servos)

    @property
    def lower_rad(self) -> tuple[float, ...]:
        """Give the arm's lower joint limits."""
        return tuple(servo.lower for servo in self.servos)

    @property
    def upper_rad(self) -> tuple[float, ...]:
        """Give the arm's upper joint limits."""
        return tuple(servo.upper for servo in self.servos)


# Limits: Franka Control Interface documentation, "Robot and interface specifications", Panda.
# Stiffness and damping are those of the public MuJoCo model of the Panda (MuJoCo Menagerie,
# franka_emika_panda): about what the robot's own joint-impedance control does. Their ratio is
# 0.1 s for every joint, so position + 0.1 s * velocity is very nearly the target: a policy that
# sees both knows where the stored target is.
_PANDA_LIMITS = (
    # lower rad, upper rad, rad/s, N m, N m/rad, N m s/rad
    (-2.8973, 2.8973, 2.1750, 87.0, 4500.0, 450.0),
    (-1.7628, 1.7628, 2.1750, 87.0, 4500.0, 450.0),
    (-2.8973, 2.8973, 2.1750, 87.0, 3500.0, 350.0),
    (-3.0718, -0.0698, 2.1750, 87.0, 3500.0, 350.0),
    (-2.8973, 2.8973, 2.6100, 12.0, 2000.0, 200.0),
    (-0.0175, 3.7525, 2.6100, 12.0, 2000.0, 200.0),
    (-2.8973, 2.8973, 2.6100, 12.0, 2000.0, 200.0),
)

# Franka Control Interface documentation, "Denavit-Hartenberg parameters" (modified convention).
_PANDA_LINK_FRAMES = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -math.pi / 2),
    (0.0, 0.316, math.pi / 2),
    (0.0825, 0.0, math.pi / 2),
    (-0.0825, 0.384, -math.pi / 2),
    (0.0, 0.0, math.pi / 2),
    (0.088, 0.0, math.pi / 2),
)

FRANKA_PANDA = Arm(
    name="franka_panda",
    model=MODELS / "panda.xml",
    servos=tuple(
        Servo(
            name=f"joint{index}",
            joints=(f"joint{index}",),
            lower=lower,
            upper=upper,
            max_speed=speed,
            max_force=force,
            stiffness=stiffness,
            damping=damping,
        )
        for index, (lower, upper, speed, force, stiffness, damping) in enumerate(
            _PANDA_LIMITS, start=1
        )
    ),
    # Travel and speed: Franka Hand product manual (80 mm in all, 50 mm/s per finger). Stiffness,
    # damping and force are ours, measured: with the 100 N/m of the public model a finger presses
    # a 45 mm cube with 1 N and thin things slip. The real hand holds with up to 70 N.
    gripper=Servo(
        name="gripper",
        joints=("finger_joint1", "finger_joint2"),
        lower=0.0,
        upper=0.04,
        max_speed=0.05,
        max_force=100.0,
        stiffness=4000.0,
        damping=60.0,
    ),
    link_frames=tuple(
        LinkFrame(a_m=a, d_m=d, alpha_rad=alpha) for a, d, alpha in _PANDA_LINK_FRAMES
    ),
    flange_m=0.107,
    hand_yaw_rad=-math.pi / 4,
    tcp_m=0.1034,
    hand_body="hand",
    finger_bodies=("left_finger", "right_finger"),
    fingertip_m=0.045,
    sources=(
        "Franka Control Interface documentation: limits, Denavit-Hartenberg parameters",
        "Franka Hand product manual: travel and speed of the fingers",
        "C. Gaz et al., Dynamic identification of the Franka Emika Panda robot with retrieval of "
        "feasible parameters using penalty-based optimization, IEEE RA-L 4(4), 2019: inertias",
        "MuJoCo Menagerie, franka_emika_panda (Apache-2.0): joint gains, armature, hand inertia",
    ),
)
