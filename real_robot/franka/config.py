"""Settings of a Franka: connection, tracking, collision thresholds, payload and hand."""

import math
from dataclasses import dataclass
from typing import Literal

NUM_JOINTS = 7

Seven = tuple[float, float, float, float, float, float, float]
Six = tuple[float, float, float, float, float, float]
Three = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Settings of the joint impedance controller and its reference.

    Attributes:
        stiffness_nm_rad: stiffness of each joint towards the reference position.
        damping_nms_rad: damping of each joint towards the reference velocity; 2 sqrt(stiffness) is
            critical for a unit inertia.
        torque_rate_nm_s: largest rate of change of the commanded torque; the arm aborts a motion
            above 1000.
        reference_rate_hz: rate of new references for the controller, which runs at 1 kHz.
        period_s: assumed period of the targets, until it is measured.
        smoothing_s: delay of the smooth reference behind the straight line to the targets; half a
            period of the targets is used if it is longer.
        velocity_fraction: share of the robot's maximum velocity for the reference.
        acceleration_fraction: share of the robot's maximum acceleration for the reference.
        braking_fraction: share of the robot's maximum acceleration for `stop`.
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
                f"torque_rate_nm_s must be in (0, 1000] (the arm's limit), got "
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
    """Settings of the load on the flange, besides the end effector that is set in Desk.

    Attributes:
        mass_kg: mass of the load; 0 for none.
        center_m: centre of mass in the flange's frame.
        inertia_kg_m2: inertia xx, yy, zz, xy, xz, yz about the centre of mass.
    """

    mass_kg: float
    center_m: Three
    inertia_kg_m2: Six

    def __post_init__(self) -> None:
        if not 0 <= self.mass_kg < math.inf:
            raise ValueError(f"mass_kg must not be negative, got {self.mass_kg}")

    def inertia_matrix(self) -> list[float]:
        """Return the matrix [9], column by column, as libfranka expects it."""
        xx, yy, zz, xy, xz, yz = self.inertia_kg_m2
        return [xx, xy, xz, xy, yy, yz, xz, yz, zz]


@dataclass(frozen=True, kw_only=True, slots=True)
class GripperConfig:
    """Settings of the Franka Hand.

    Attributes:
        speed_m_s: speed of the fingers.
        force_n: grasping force.
        grasp_below_m: closing to a smaller width is a grasp; closing to a larger width moves the
            fingers there, and grasps if an object is in the way.
        tolerance_m: a requested width that differs by less from the previous one is ignored.
        homing: True to open and close the hand at connection, which measures its maximum width.
            This is necessary once after the hand is switched on.
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
    """Settings of a Franka arm.

    Attributes:
        address: IP address or host name of the control box.
        realtime: `enforce` requires a real-time kernel (PREEMPT_RT) for the 1 kHz thread; `ignore`
            does not, and commands are lost while other programs use the CPUs.
        priority: real-time priority of the threads that call the arm, 1 to 99, useful with any
            kernel; 0 for none. If the system does not allow it they run without, and
            `FrankaRobot.description` reports it.
        tracking: settings of the controller.
        collision_torque_nm: external torque on each joint above which the arm stops (a reflex).
        collision_force_n: external force (x, y, z; N) and torque (about x, y, z; N m) on the tool
            above which the arm stops.
        payload: the load on the flange.
        gripper: the Franka Hand; None without a hand.
        connect_timeout_s: longest wait for the robot's answer.
        stop_timeout_s: longest time until the arm is at rest after `stop`; then it stops hard.
        recover_timeout_s: longest time for `recover`.
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
            raise ValueError(f"address must be an IP address or a host name, got {self.address!r}")
        if not 0 <= self.priority <= 99:
            raise ValueError(f"priority must be 0 (none) to 99, got {self.priority}")
        for name in ("collision_torque_nm", "collision_force_n"):
            if not all(0 < value < math.inf for value in getattr(self, name)):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("connect_timeout_s", "stop_timeout_s", "recover_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
