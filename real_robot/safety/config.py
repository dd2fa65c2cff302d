"""Settings of the safety layer: limits on the motion, the workspace, and the age of data."""

import math
from dataclasses import dataclass
from typing import Literal

from .motion import MotionConfig
from .workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchdog:
    """Age limits of one kind of data: actions, camera frames, or states of arm or gripper.

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

    def limit_s(self, to: Literal["hold", "stop"]) -> float:
        """Return the age above which the arm holds or stops, s."""
        return self.stop_after_s if to == "stop" else self.hold_after_s


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetyConfig:
    """Settings of the safety layer.

    Attributes:
        motion: limits on position, velocity, acceleration and step of the joint targets.
        workspace: box and table that limit the space of the arm, in the frame of the arm's base.
        action: age limits of the observation from which the action was computed.
        camera: age limits of the newest frame of each camera.
        state: age limits of the newest robot state.
        gripper: age limits of the newest state of the gripper, which is read less often.
        start_tolerance_rad: an episode may begin only if each joint is within this distance of the
            start pose, rad.
        start_velocity_rad_s: an episode may begin only if each joint is slower than this, rad/s.
        max_recoveries: greatest number of reflexes (stops of the robot's controller, for example
            after a collision) from which the robot may recover before a person must acknowledge
            the next one. 0 means that a person must acknowledge each reflex.
        max_tracking_error_rad: greatest distance between the measured position of a joint and the
            newest target that was sent to it, rad. Above it, the episode ends, because something
            holds or pushes the arm. Set it larger than `motion.max_lead_rad`: if something holds
            the arm, its target moves away by up to `max_lead_rad`.
        max_overshoot_rad: the episode ends if a measured joint position is more than this beyond
            the robot's limits, rad.
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
    gripper: Watchdog = Watchdog(hold_after_s=1.0, stop_after_s=2.0)

    def __post_init__(self) -> None:
        for name in ("start_tolerance_rad", "start_velocity_rad_s", "max_tracking_error_rad"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.max_overshoot_rad < math.inf:
            raise ValueError(f"max_overshoot_rad must not be negative: {self.max_overshoot_rad}")
        if self.max_recoveries < 0:
            raise ValueError(f"max_recoveries must not be negative, got {self.max_recoveries}")
