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
        stiffness_nm_rad: stiffness of each joint, Nm/rad: torque per distance from the reference
            position.
        damping_nms_rad: damping of each joint, Nm s/rad: torque per difference from the reference
            velocity. For an inertia of 1 kg m^2, 2 sqrt(stiffness) is critical damping.
        torque_rate_nm_s: largest rate of change of the commanded torque, Nm/s. Above 1000, the arm
            ends the motion with an error.
        reference_rate_hz: how often per second the driver passes a new reference position to the
            controller, which itself runs at 1 kHz.
        period_s: expected time between two targets, s, until the driver has measured it.
        smoothing_s: delay, s, that the smoothing adds to the straight line between targets. If half
            the time between two targets is longer than this value, the delay is that half.
        velocity_fraction: greatest velocity of the reference position, as a share of the robot's
            limit.
        acceleration_fraction: greatest acceleration of the reference position, as a share of the
            robot's limit.
        braking_fraction: deceleration of the arm in `stop`, as a share of the robot's acceleration
            limit.
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
    """Settings of a load on the flange.

    The end effector is not part of it; the end effector is set in Desk, Franka's web page.

    Attributes:
        mass_kg: mass of the load, kg; 0: no load.
        center_m: centre of mass x, y, z in the frame of the flange, m.
        inertia_kg_m2: moments of inertia xx, yy, zz, xy, xz, yz about the centre of mass, kg m^2.
    """

    mass_kg: float
    center_m: Three
    inertia_kg_m2: Six

    def __post_init__(self) -> None:
        if not 0 <= self.mass_kg < math.inf:
            raise ValueError(f"mass_kg must not be negative, got {self.mass_kg}")

    def inertia_matrix(self) -> list[float]:
        """Return the 3 x 3 inertia matrix as 9 numbers, column by column, for libfranka."""
        xx, yy, zz, xy, xz, yz = self.inertia_kg_m2
        return [xx, xy, xz, xy, yy, yz, xz, yz, zz]


@dataclass(frozen=True, kw_only=True, slots=True)
class GripperConfig:
    """Settings of the Franka Hand.

    Attributes:
        speed_m_s: speed of the fingers, m/s.
        force_n: grasping force, N.
        grasp_below_m: if the hand closes to a width below this, m, it grasps: it closes and keeps
            the force. If it closes to a larger width, the fingers move to this width, and grasp
            only if an object is between them.
        tolerance_m: a requested width is ignored if it differs by at most this from the width of
            the previous motion, m.
        homing: True to open and close the hand when the driver connects, which measures the hand's
            maximum width. This is necessary once after the hand is switched on.
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
        realtime: `enforce` refuses to start without a real-time kernel (PREEMPT_RT) for the 1 kHz
            thread. `ignore` starts without one; commands to the arm are then lost while other
            programs use the CPUs.
        priority: real-time priority of the threads that call the arm, 1 to 99; 0: no real-time
            priority. A priority is useful with any kernel. If the system does not allow it, the
            threads run without it, and `FrankaRobot.description` says so.
        tracking: settings of the joint impedance controller.
        collision_torque_nm: external torque on each joint above which the arm stops, Nm (a reflex).
        collision_force_n: external load on the tool above which the arm stops: force along x, y, z,
            N, then torque about x, y, z, Nm.
        payload: settings of the load on the flange.
        gripper: settings of the Franka Hand; null if the arm has no hand.
        connect_timeout_s: longest time to wait for the robot's answer, s.
        stop_timeout_s: time limit for the arm to come to rest after `stop`, s. After it, the driver
            ends its controller at once, and the robot stops the arm itself.
        recover_timeout_s: time limit of `recover`, s.
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
