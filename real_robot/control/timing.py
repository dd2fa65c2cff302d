"""Measure the control rate, and the duration of each stage of a time step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..episode import EpisodeRecord
from .clock import Clock


class StopWatch:
    """Stopwatch for the stages of one time step of the control loop.

    Attributes:
        seconds: duration of each stage, s, by the name of the stage.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_s = clock.now_s()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Record the time since the previous call (or the start) as the duration of `stage`."""
        now_s = self._clock.now_s()
        self.seconds[stage] = now_s - self._since_s
        self._since_s = now_s

    def note(self, seconds: Mapping[str, float]) -> None:
        """Add durations of stages that were not measured with this stopwatch, s, by name."""
        self.seconds.update(seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean, median, 99th percentile and maximum of a list of durations, in seconds."""

    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopReport:
    """The timing of a control loop.

    Attributes:
        num_steps: number of time steps.
        rate_hz: measured number of time steps per second; None if there are fewer than two.
        late: statistics of the delays between the planned and the real beginning of a time step.
        interval: statistics of the time from one time step to the next; None if there are fewer
            than two time steps.
        stages: statistics of the duration of each stage, by name, in the order in which the stages
            first appear.
        num_without_action: number of time steps for which the agent's action was not ready in time.
    """

    num_steps: int
    rate_hz: float | None
    late: Spread
    interval: Spread | None
    stages: Mapping[str, Spread]
    num_without_action: int

    def lines(self) -> list[str]:
        """Return the lines of a table, in milliseconds."""
        rows: list[tuple[str, Spread]] = [("late", self.late)]
        if self.interval is not None:
            rows.append(("interval", self.interval))
        rows += list(self.stages.items())
        width = max(len(name) for name, _ in rows)
        head = f"{'ms':<{width}} {'mean':>8} {'p50':>8} {'p99':>8} {'max':>8}"
        rate = "" if self.rate_hz is None else f", {self.rate_hz:.2f} Hz"
        without = f", {self.num_without_action} without an action in time"
        return [f"{self.num_steps} ticks{rate}{without}", head] + [
            f"{name:<{width}} "
            + " ".join(
                f"{1000 * value:8.2f}"
                for value in (spread.mean_s, spread.p50_s, spread.p99_s, spread.max_s)
            )
            for name, spread in rows
        ]


def loop_report(*records: EpisodeRecord) -> LoopReport | None:
    """Return the timing of one or several episodes together; None if there is no time step."""
    steps = [step for record in records for step in record.steps]
    if not steps:
        return None
    intervals = np.concatenate(
        [np.diff([step.observation.stamp_s for step in record.steps]) for record in records]
    )
    stages: dict[str, list[float]] = {}
    for step in steps:
        for stage, seconds in step.timings_s.items():
            stages.setdefault(stage, []).append(seconds)
    return LoopReport(
        num_steps=len(steps),
        rate_hz=1 / float(intervals.mean()) if len(intervals) else None,
        late=_spread([step.late_s for step in steps]),
        interval=_spread(intervals) if len(intervals) else None,
        stages={stage: _spread(seconds) for stage, seconds in stages.items()},
        num_without_action=sum(not np.isfinite(step.action).all() for step in steps),
    )


def _spread(seconds: Any) -> Spread:
    values = np.asarray(seconds, dtype=np.float64)
    p50, p99 = np.percentile(values, (50, 99))
    return Spread(
        mean_s=float(values.mean()),
        p50_s=float(p50),
        p99_s=float(p99),
        max_s=float(values.max()),
    )
