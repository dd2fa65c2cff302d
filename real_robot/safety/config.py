"""Settings of the safety layer: limits of motion, workspace, and the age of data."""

import math
from dataclasses import dataclass

from .motion import MotionConfig
from .workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchdog:
    """Settings of a watchdog: the age limits of one kind of data.

    Attributes:
        hold_after_s: age above which the arm brakes and waits for new data, s.
        stop_after_s: age above which the arm brakes and the episode ends, s.
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
        motion: limits of position, velocity, acceleration and step of the targets.
        workspace: box and table that bound the arm, in the base's frame.
        action: age limits of the observation from which the action was computed.
        camera: age limits of the newest frame of each camera.
        state: age limits of the newest robot state.
        start_tolerance_rad: greatest distance of a joint from the start pose at the beginning of an
            episode.
        start_velocity_rad_s: greatest speed of a joint at the beginning of an episode.
        max_recoveries: number of reflexes from which the robot may recover without a person's
            acknowledgement; 0: none.
        max_tracking_error_rad: greatest distance between the measured position of a joint and its
            last target. Above it, the episode ends: the arm is held or pushed. Set it above
            `motion.max_lead_rad`, the distance of the target from an arm that is held.
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
