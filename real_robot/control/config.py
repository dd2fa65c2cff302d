"""Settings of an episode."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Settings of an episode; the control rate is set by the interface.

    Attributes:
        max_steps: greatest number of steps; the episode ends after it.
        send_share: share of the control period after which the action is sent, in (0, 1). An
            action that is ready earlier waits; a later one is used at the next tick. So
            demonstrations of a fast expert have the same latency as a slow student.
        num_targets: number of equal steps into which each target is divided over the period; 1
            for a driver that smooths targets itself.
        ensemble_decay: decay of the weights with which overlapping action chunks are averaged
            (temporal ensembling, as in ACT); null: only the newest chunk is used.
        success_steps: number of ticks in a row at which the check must report success.
        steps_after_success: number of ticks after success when the episode ends; null: it continues
            until `max_steps`.
        rehearsal: True to send nothing to the arm; everything else runs and is recorded.
        start_timeout_s: time limit for the first frames, and for the agent to be ready.
        rest_timeout_s: time limit for the arm to come to rest.
    """

    max_steps: int
    send_share: float
    num_targets: int
    ensemble_decay: float | None
    success_steps: int
    steps_after_success: int | None
    rehearsal: bool
    start_timeout_s: float
    rest_timeout_s: float

    def __post_init__(self) -> None:
        for name in ("max_steps", "num_targets", "success_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.send_share < 1:
            raise ValueError(f"send_share must be in (0, 1), got {self.send_share}")
        if self.steps_after_success is not None and self.steps_after_success < 0:
            raise ValueError(f"steps_after_success must not be negative: {self}")
        for name in ("start_timeout_s", "rest_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
