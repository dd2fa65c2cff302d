"""Settings of the safety layer: limits of motion, workspace, and the age of data."""

import math
from dataclasses import dataclass

from .motion import MotionConfig
from .workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchdog:
    """Settings of a watchdog: the age limits of one kind of data.

    Attributes:
        hold_after_s: the arm holds while the data are older than this.
        stop_after_s: the episode ends when the data are older than this.
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
    """Settings of the safety layer.

    Attributes:
        motion: limits of the motion of the targets.
        workspace: where the arm may be.
        action: age limits of the policy's action.
        camera: age limits of a camera frame.
        state: age limits of the robot's state.
        start_tolerance_rad: greatest distance of a joint from the start pose at the beginning of an
            episode.
        start_velocity_rad_s: greatest speed of a joint at the beginning of an episode.
        max_recoveries: how many reflexes the robot may recover from without a person; 0: none.
        max_tracking_error_rad: greatest distance between the measured position of a joint and its
            last target; beyond it (an arm that is held or pushed) the episode ends. Set it above
            `motion.max_lead_rad`, the distance that a target moves away from an arm that is held.
        max_overshoot_rad: greatest measured position of a joint beyond the robot's own limits.
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
