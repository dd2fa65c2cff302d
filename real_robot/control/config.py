"""How an episode runs, as a config says it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Say how an episode runs; its rate is that of the interface.

    Attributes:
        max_steps: the episode ends after so many.
        send_share: at which share of a period its action is sent, however soon the agent has
            answered; an answer that comes later is for the next tick. So a fast expert's
            demonstrations have the latency that a slow student will have.
        num_targets: into how many small ones a target is parted over the period; 1 where the
            driver smooths.
        ensemble_decay: how chunks that overlap are averaged (see `chunks`); None: the newest one
            counts alone.
        success_steps: the check must say yes at so many ticks in a row.
        steps_after_success: the episode ends so many ticks after success; None: it goes on.
        rehearsal: everything runs and is recorded, and nothing is sent.
        start_timeout_s: for the first frames and for the agent to begin.
        rest_timeout_s: for the arm to come to rest.
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
