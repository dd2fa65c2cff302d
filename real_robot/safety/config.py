"""What an arm may do, as a config says it."""

import math
from dataclasses import dataclass

from .motion import MotionConfig
from .workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchdog:
    """Say how old something may be.

    Attributes:
        hold_after_s: older than this the arm holds.
        stop_after_s: older than this the episode ends.
    """

    hold_after_s: float
    stop_after_s: float

    def __post_init__(self) -> None:
        if not 0 < self.hold_after_s <= self.stop_after_s < math.inf:
            raise ValueError(
                "a watchdog needs 0 < hold_after_s <= stop_after_s, finite; got "
                f"{self.hold_after_s} and {self.stop_after_s}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetyConfig:
    """Say what an arm may do.

    Attributes:
        motion: caps of the motion.
        workspace: where the arm may be.
        action: how old the policy's action may be.
        camera: how old a frame may be.
        state: how old the robot's state may be.
        start_tolerance_rad: how far a joint may be from the start pose.
        start_velocity_rad_s: how fast a joint may be at the start.
        max_recoveries: how often reflexes may be recovered from without a person; 0: never.
        max_tracking_error_rad: how far a joint may be measured from its last target, in an arm that
            is held or pushed: farther, and the episode ends. To be above `motion.max_lead_rad`, as
            far as a target moves away from an arm that is held.
        max_overshoot_rad: how far beyond the robot's own limits a joint may be measured.
    """

    motion: MotionConfig
    workspace: Workspace
    action: Watchdog
    camera: Watchdog
    state: Watchdog
    start_tolerance_rad: float
    start_velocity_rad_s: float
    max_recoveries: int
    max_tracking_error_rad: float = 0.5
    max_overshoot_rad: float = 0.05

    def __post_init__(self) -> None:
        for name in ("start_tolerance_rad", "start_velocity_rad_s", "max_tracking_error_rad"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.max_overshoot_rad < math.inf:
            raise ValueError(f"max_overshoot_rad must not be negative: {self.max_overshoot_rad}")
        if self.max_recoveries < 0:
            raise ValueError(f"max_recoveries must not be negative, got {self.max_recoveries}")
