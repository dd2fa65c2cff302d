"""What is set on a Franka, and how its joints follow."""

import math
from dataclasses import dataclass
from typing import Literal

NUM_JOINTS = 7

Seven = tuple[float, float, float, float, float, float, float]
Six = tuple[float, float, float, float, float, float]
Three = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Say how targets become torques.

    Attributes:
        stiffness_nm_rad: of each joint's spring towards the reference.
        damping_nms_rad: of each joint towards the reference's speed; 2 sqrt(stiffness) is critical
            for a unit inertia.
        torque_rate_nm_s: most change of the commanded torque; the arm ends a motion at 1000.
        reference_rate_hz: how often the controller, which runs at 1 kHz, gets a new reference.
        period_s: of the targets, until their real period is known.
        smoothing_s: how much later the smooth reference is than the straight line through targets,
            at least; half a period where that is more.
        velocity_fraction: of the robot's greatest velocity, for the reference.
        acceleration_fraction: of the robot's greatest acceleration, for the reference.
        braking_fraction: of the robot's greatest acceleration, for `stop`.
    """

    stiffness_nm_rad: Seven
    damping_nms_rad: Seven
    torque_rate_nm_s: float
    reference_rate_hz: float
    period_s: float
    smoothing_s: float
    velocity_fraction: float
    acceleration_fraction: float
    braking_fraction: float

    def __post_init__(self) -> None:
        for name in ("stiffness_nm_rad", "damping_nms_rad"):
            if not all(0 <= value < math.inf for value in getattr(self, name)):
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.torque_rate_nm_s <= 1000:
            raise ValueError(
                f"torque_rate_nm_s must be in (0, 1000], what the arm allows, got "
                f"{self.torque_rate_nm_s}"
            )
        for name in ("reference_rate_hz", "period_s", "smoothing_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("velocity_fraction", "acceleration_fraction", "braking_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadConfig:
    """Say what hangs on the flange beside the end effector that Desk knows of.

    Attributes:
        mass_kg: 0 for nothing.
        center_m: of mass, in the flange's frame.
        inertia_kg_m2: xx, yy, zz, xy, xz, yz about the centre of mass.
    """

    mass_kg: float
    center_m: Three
    inertia_kg_m2: Six

    def __post_init__(self) -> None:
        if not 0 <= self.mass_kg < math.inf:
            raise ValueError(f"mass_kg must not be negative, got {self.mass_kg}")

    def inertia_matrix(self) -> list[float]:
        """Return the matrix [9], column by column as libfranka wants it."""
        xx, yy, zz, xy, xz, yz = self.inertia_kg_m2
        return [xx, xy, xz, xy, yy, yz, xz, yz, zz]


@dataclass(frozen=True, kw_only=True, slots=True)
class GripperConfig:
    """Say how the Franka Hand moves.

    Attributes:
        speed_m_s: of the fingers.
        force_n: with which it grasps.
        grasp_below_m: to close to less than this is to grasp; to more is to move the fingers there,
            and to grasp if something is in the way.
        tolerance_m: a wish that differs by less from the one before is the same.
        homing: whether connecting opens and closes the hand to find its greatest width, which it
            must know once after it was switched on.
    """

    speed_m_s: float
    force_n: float
    grasp_below_m: float
    tolerance_m: float
    homing: bool

    def __post_init__(self) -> None:
        for name in ("speed_m_s", "force_n", "tolerance_m"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrankaConfig:
    """Return which Franka, and how it is driven.

    Attributes:
        address: IP address or name of the control box.
        realtime: `enforce` demands a real-time kernel (PREEMPT_RT) for the 1 kHz thread; `ignore`
            goes without, and then a busy machine loses commands.
        priority: real-time priority of the threads that talk to the arm, 1 to 99, which helps with
            any kernel; 0 for none. Where the system does not allow it they run without, and
            `FrankaRobot.description` says so.
        tracking: how joints follow their targets.
        collision_torque_nm: a push from outside on a joint above this is a reflex.
        collision_force_n: likewise a force (x, y, z) or torque (about x, y, z) on the tool.
        payload: what hangs on the flange.
        gripper: the Franka Hand; None where there is none.
        connect_timeout_s: for the robot to answer.
        stop_timeout_s: for the arm to be at rest after `stop`; then it is stopped hard.
        recover_timeout_s: for `recover`.
    """

    address: str
    realtime: Literal["enforce", "ignore"]
    priority: int
    tracking: TrackingConfig
    collision_torque_nm: Seven
    collision_force_n: Six
    payload: PayloadConfig
    gripper: GripperConfig | None
    connect_timeout_s: float
    stop_timeout_s: float
    recover_timeout_s: float

    def __post_init__(self) -> None:
        if not self.address or any(character.isspace() for character in self.address):
            raise ValueError(f"address must be an IP address or a name, got {self.address!r}")
        if not 0 <= self.priority <= 99:
            raise ValueError(f"priority must be 0 (none) to 99, got {self.priority}")
        for name in ("collision_torque_nm", "collision_force_n"):
            if not all(0 < value < math.inf for value in getattr(self, name)):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("connect_timeout_s", "stop_timeout_s", "recover_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
