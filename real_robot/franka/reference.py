"""Compute a smooth reference position for a stiff controller, from targets that arrive irregularly.

If a target were passed directly to a stiff joint controller, the torque would jump. The reference
position is therefore computed in two stages:

1. a straight line to each target, which takes the measured time between two targets (the period);
2. two equal low-pass filters in series, which smooth this line.

The result is an average of past targets with non-negative weights. The reference therefore never
overshoots, each joint stays between its targets, and the velocity has no jumps.

The line adds a delay of one period. The filters add half a period, or `smoothing_s` if that is
longer. If the acceleration limit is `a`, the safety layer allows the velocity of the line to change
by `a * period` from target to target. The acceleration of the reference is then at most 1.5 a.
"""

import math

import numpy as np

from envs.geometry import Floats

_LONGEST_S = 0.25  # if a target arrives later than this after the previous one, a new motion starts
_SHORTEST_S = 0.002
_SHARE_LONGER, _SHARE_SHORTER = 0.3, 0.1  # weight of the newest interval in the expected period
_SMOOTHING = 0.5  # delay of the low-pass filters, in periods
_STEP_S = 0.004
_STILL_RAD_S = 1e-3


class Reference:
    """Generator of the reference positions and velocities [j], one value per joint.

    Targets may arrive at any time. The object reads no clock: the caller passes the time, which
    must not decrease.
    """

    def __init__(
        self,
        positions: Floats,
        *,
        period_s: float,
        smoothing_s: float,
        velocity_rad_s: Floats,
        acceleration_rad_s2: Floats,
        now_s: float,
    ) -> None:
        """Start at rest at `positions`.

        Args:
            positions: joint positions [j], rad.
            period_s: expected time between two targets, s, until it is measured.
            smoothing_s: smallest delay that the filters add to the line, s.
            velocity_rad_s: maximum speed of the line [j], rad/s. The reference may exceed it by a
                fifth while the time between targets changes.
            acceleration_rad_s2: maximum acceleration while the speed increases [j], rad/s^2. The
                reference satisfies it approximately.
            now_s: the current time, s.
        """
        self._positions = np.array(positions, dtype=np.float64)
        self._velocities = np.zeros_like(self._positions)
        self._smoothing_s = smoothing_s
        self._max_velocity = np.array(velocity_rad_s, dtype=np.float64)
        self._max_acceleration = np.array(acceleration_rad_s2, dtype=np.float64)
        self._period_s = min(max(period_s, _SHORTEST_S), _LONGEST_S)
        self._now_s = now_s
        self._aimed_s: float | None = None
        self._begin(self._positions, self._positions, now_s, self._period_s, brakes=False)

    def aim(self, target: Floats, now_s: float) -> None:
        """Set a target [j], rad; the line reaches it about when the next target is expected."""
        self.advance(now_s)
        if self._aimed_s is not None and now_s - self._aimed_s <= _LONGEST_S:
            interval_s = max(now_s - self._aimed_s, _SHORTEST_S)
            share = _SHARE_LONGER if interval_s > self._period_s else _SHARE_SHORTER
            self._period_s += share * (interval_s - self._period_s)
        self._aimed_s = now_s
        start = self._line(now_s)
        end = np.array(target, dtype=np.float64)
        # After two low-pass filters, a jump of the speed causes at most this acceleration:
        # jump * rate / e.
        change = self._max_acceleration * math.e / self._rate
        along = self._velocities * np.sign(end - start) + change
        speeds = np.clip(along, 0.2 * change, self._max_velocity)
        duration_s = max(self._period_s, float((np.abs(end - start) / speeds).max()))
        self._begin(start, end, now_s, duration_s, brakes=False)

    @property
    def _rate(self) -> float:
        """Return the rate of each of the two low-pass filters, 1/s; each delays by 1 / rate."""
        return 2.0 / max(self._smoothing_s, _SMOOTHING * self._period_s)

    def brake(self, acceleration_rad_s2: Floats, now_s: float) -> None:
        """Bring the reference to rest on a straight line.

        Args:
            acceleration_rad_s2: greatest deceleration of each joint [j], rad/s^2.
            now_s: the current time, s.
        """
        self.advance(now_s)
        duration_s = max(float((np.abs(self._velocities) / acceleration_rad_s2).max()), _STEP_S)
        # Start at the filtered reference, not at the line; the remaining motion of the filters is
        # discarded.
        end = self._positions + 0.5 * duration_s * self._velocities
        self._begin(self._positions, end, now_s, duration_s, brakes=True)

    def advance(self, now_s: float) -> tuple[Floats, Floats]:
        """Compute the reference until the time `now_s`.

        Return the positions [j], rad, and the velocities [j], rad/s, at this time.
        """
        while self._now_s < now_s:
            step_s = min(_STEP_S, now_s - self._now_s)
            if self._brakes:
                self._slow_down(self._now_s + step_s)
            else:
                self._low_pass(self._now_s, step_s)
            self._now_s += step_s
        return self._positions.copy(), self._velocities.copy()

    @property
    def at_rest(self) -> bool:
        """Return whether the reference is at rest, and stays at rest without a new target."""
        arrived = self._now_s >= self._start_s + self._duration_s
        return arrived and float(np.abs(self._velocities).max()) < _STILL_RAD_S

    def _begin(
        self, start: Floats, end: Floats, now_s: float, duration_s: float, *, brakes: bool
    ) -> None:
        self._start, self._end = start.copy(), end.copy()
        self._start_s, self._duration_s, self._brakes = now_s, duration_s, brakes

    def _line(self, at_s: float) -> Floats:
        share = min(max((at_s - self._start_s) / self._duration_s, 0.0), 1.0)
        if self._brakes:
            share = 1.0 - (1.0 - share) ** 2
        return self._start + share * (self._end - self._start)

    def _slow_down(self, at_s: float) -> None:
        left = max(1.0 - (at_s - self._start_s) / self._duration_s, 0.0)
        self._positions = self._line(at_s)
        self._velocities = 2.0 * left / self._duration_s * (self._end - self._start)

    def _low_pass(self, at_s: float, step_s: float) -> None:
        """Solve x'' + 2 w x' + w^2 x = w^2 u exactly for a step, with u on a straight line."""
        rate, before, after = self._rate, self._line(at_s), self._line(at_s + step_s)
        slope = (after - before) / step_s
        error = self._positions - (before - 2.0 / rate * slope)
        error_rate = self._velocities - slope
        decay, mixed = np.exp(-rate * step_s), error_rate + rate * error
        self._positions = after - 2.0 / rate * slope + decay * (error + mixed * step_s)
        self._velocities = slope + decay * (error_rate - rate * mixed * step_s)
