"""Measure the jitter of the control loop on the simulated arm (digital twin).

python -m benchmarks.control_loop

The control loop swings one joint of the arm for 20 s, at 10 Hz and at 30 Hz. It uses the cameras,
the safety layer and the driver of the workcell config. The baseline is a loop that only sleeps
until its deadlines, in the same process beside the same simulated arm. The output has the intervals
between two steps of the loop, and the 99th percentile of the jitter divided by the 99th percentile
of the baseline. Run no other program at the same time.
"""

import time
from dataclasses import replace

import numpy as np

from real_robot.control.config import LoopConfig
from real_robot.control.timing import loop_report
from real_robot.deploy import DeployConfig
from real_robot.episode import Observation, Proposal
from real_robot.station import open_station
from toto_robot.cli import compose
from toto_robot.config import from_dict

SECONDS = 20.0
STATIONS = {
    10.0: (),
    30.0: (
        "station.rate_hz=30",
        "station.safety.motion.period_s=0.0333333",
        "station.safety.motion.max_step_rad=0.037",
        "station.increment_rad=0.0333333",
    ),
}


class Wave:
    """An agent whose actions swing the first joint of the arm back and forth."""

    name = "a wave"
    weights_hash = None

    def __init__(self, rate_hz: float) -> None:
        self._period = round(3 * rate_hz)
        self._calls = 0

    def reset(self, observation: Observation) -> None:
        """Restart the motion at the beginning of its period."""
        self._calls = 0

    def act(self, observation: Observation) -> Proposal:
        """Return the next action of the sine motion."""
        self._calls += 1
        action = np.zeros((1, 8), np.float32)
        action[0, 0] = 0.4 * np.cos(2 * np.pi * self._calls / self._period)
        action[0, 7] = 1.0
        return Proposal(actions=action, observed_s=observation.stamp_s)

    def close(self) -> None:
        """Do nothing, because there is nothing to close."""


def sleeping(rate_hz: float) -> np.ndarray:
    """Run a loop that only sleeps until its deadlines, and return its intervals, s."""
    times_s, due_s = [], time.monotonic()
    for _ in range(int(SECONDS * rate_hz)):
        times_s.append(time.monotonic())
        due_s += 1 / rate_hz
        time.sleep(max(0.0, due_s - time.monotonic()))
    return np.diff(times_s)


def main() -> None:
    """Print the intervals of the control loop, and the jitter of both loops, for each rate."""
    for rate_hz, overrides in STATIONS.items():
        data, _ = compose("deploy", ["station=twin", *overrides])
        config = from_dict(DeployConfig, data)
        loop: LoopConfig = replace(config.loop, max_steps=int(SECONDS * rate_hz))
        with open_station(config.station, "twin") as station:
            station.go_home()
            bare = sleeping(rate_hz)
            record = station.run(Wave(rate_hz), station.translator(station.interface), loop)
        report = loop_report(record)
        if report is None or report.interval is None or report.rate_hz is None:
            raise SystemExit(f"no ticks: {record.message}")
        spread = report.interval
        jitter_s, bare_jitter_s = (
            float(np.percentile(np.abs(values - 1 / rate_hz), 99))
            for values in (
                np.diff([step.observation.stamp_s for step in record.steps]),
                bare,
            )
        )
        print(
            f"{rate_hz:3.0f} Hz  {report.num_steps} ticks at {report.rate_hz:.2f} Hz, interval "
            f"p50 {1e3 * spread.p50_s:.2f} p99 {1e3 * spread.p99_s:.2f} max "
            f"{1e3 * spread.max_s:.2f} ms; ended by {record.reason}\n"
            f"        p99 of |interval - period|: {1e3 * jitter_s:.2f} ms, a sleeping loop "
            f"{1e3 * bare_jitter_s:.2f} ms, ratio {jitter_s / bare_jitter_s:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
