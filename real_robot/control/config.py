"""Settings of an episode."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Settings of an episode; the control rate is a setting of the station or of the policy.

    Attributes:
        max_steps: greatest number of time steps; the episode ends after them.
        send_share: share of the control period, in (0, 1), after which the action is sent. At 10 Hz
            (period 100 ms), 0.9 means 90 ms after the observation. An action that is ready earlier
            waits. An action that is ready later is used at the next time step. The demonstrations
            of a fast expert therefore have the same latency as a slower policy network.
        num_targets: number of equal steps in which each target is sent to the arm, spread over the
            period. 1 sends each target at once, for a driver that smooths targets itself.
        ensemble_decay: decay of the weights with which overlapping action chunks are averaged
            (temporal ensembling, as in ACT); null uses only the newest chunk.
        success_steps: number of successive checks that must report success before the task counts
            as done.
        steps_after_success: number of time steps from success to the end of the episode; null
            continues until `max_steps`.
        rehearsal: True to send nothing to the arm. Cameras, agent and safety layer run, and the
            episode is recorded.
        start_timeout_s: time limit for the first frames, and for the agent to be ready, s.
        rest_timeout_s: time limit for the arm to come to rest, s.
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
