"""Measure how well the Franka driver follows joint targets on the simulated arm (digital twin).

python -m benchmarks.franka_tracking

The joints swing by 0.3 rad (joints 2 and 4 by 0.15 rad) within 3 s. Targets are sent at several
rates. For each rate, the output has three values: the lag of the arm behind the targets, the
tracking error that remains after a correction of the lag, and the time of `command()` as a share of
the period. Run no other program at the same time.
"""

import time
from dataclasses import replace

import numpy as np

from real_robot.franka import FrankaConfig, FrankaRobot
from real_robot.twin import start_twin
from toto_robot.cli import compose
from toto_robot.config import from_dict

RATES_HZ = (10.0, 30.0, 60.0)
AMPLITUDE_RAD = 0.3 * np.array([1, 0.5, 1, 0.5, 1, 1, 1])
SWING_S, SECONDS, POLL_S = 3.0, 6.0, 0.004
SETTLED_S = 0.5


def swing(times_s: np.ndarray) -> np.ndarray:
    """Return the displacement of the 7 joints from the start at n times, rad [n 7]."""
    return np.sin(2 * np.pi * np.asarray(times_s) / SWING_S)[:, None] * AMPLITUDE_RAD


def lag_of(times_s: np.ndarray, moved_rad: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the lag in s that fits the measured motion best, and the residual in rad [n 7].

    Args:
        times_s: time of each of the n measurements, s.
        moved_rad: measured displacement of the 7 joints from the start, rad [n 7].
    """
    lags = np.arange(0.0, 0.4, 0.0025)
    errors = [moved_rad - swing(times_s - lag) for lag in lags]
    best = int(np.argmin([np.square(error).mean() for error in errors]))
    return float(lags[best]), errors[best]


def follow(robot: FrankaRobot, rate_hz: float) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Swing the joints of a robot, with targets at the given rate.

    Returns:
        Times of the measurements in s, displacements of the joints in rad, and the duration of each
        call of `command()` in s.
    """
    start = robot.state().joint_positions_rad
    began_s = time.monotonic()
    times, moved, costs = [], [], []
    for number in range(int(SECONDS * rate_hz)):
        target = start + swing(np.array([number / rate_hz]))[0]
        sent_s = time.perf_counter()
        robot.command(target)
        costs.append(time.perf_counter() - sent_s)
        while time.monotonic() < began_s + (number + 1) / rate_hz:
            state = robot.state()
            times.append(state.stamp_s - began_s)
            moved.append(state.joint_positions_rad - start)
            time.sleep(POLL_S)
    robot.stop()
    settled = np.array(times) > SETTLED_S
    return np.array(times)[settled], np.array(moved)[settled], costs


def main() -> None:
    """Print a line for each rate of targets."""
    data, _ = compose("franka_check", ["franka@_global_=twin"])
    data.pop("duration_s")
    config = from_dict(FrankaConfig, data)
    with start_twin() as twin, twin.client() as client:
        for rate_hz in RATES_HZ:
            client.reset()
            with FrankaRobot(replace(config, address=twin.address)) as robot:
                client.rates()
                times, moved, costs = follow(robot, rate_hz)
                twin_hz = client.rates()["physics_hz"]
            lag_s, rest = lag_of(times, moved)
            print(
                f"{rate_hz:3.0f} Hz  lag {1e3 * lag_s:4.0f} ms, tracking error "
                f"{1e3 * np.sqrt(np.square(rest).mean()):5.1f} mrad rms, "
                f"{1e3 * np.abs(rest).max():5.1f} maximum; command() takes "
                f"{np.median(costs) * rate_hz:.4f} of a period (99 %: "
                f"{np.percentile(costs, 99) * rate_hz:.4f}); twin at {twin_hz:.0f} Hz",
                flush=True,
            )


if __name__ == "__main__":
    main()
