"""From targets that come now and then to a reference that a stiff controller can follow.

A target that is given to a joint spring as it comes is a step of torque. So the reference goes on a
straight line to each target, at the pace in which targets come, and then through two equal low
passes in a row. Both together are an average of past targets with weights that are never negative:
the reference never overshoots, and every joint stays between its targets. Its speed has no steps.

How late it is: a period of the targets, and half of one for the low passes (or `smoothing_s`, if
that is more). With these, speeds of the line that change by `a * period` from target to target, as
the safety layer lets them, become accelerations of 1.5 a at most.
"""

import math

import numpy as np

from envs.geometry import Floats

_LONGEST_S = 0.25  # between targets of one motion; after more it is a new one
_SHORTEST_S = 0.002
_SHARE_LONGER, _SHARE_SHORTER = 0.3, 0.1  # of the newest interval in the period expected
_SMOOTHING = 0.5  # lateness of the low passes, in periods
_STEP_S = 0.004
_STILL_RAD_S = 1e-3


class Reference:
    """Return positions and velocities [j] at any time, for targets that come at any time.

    There is no clock: time comes in as numbers, which must not go back.
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
        """Begin at rest.

        Args:
            positions: [j].
            period_s: of the targets, until it is known.
            smoothing_s: how late the smooth reference is behind the line, at least.
            velocity_rad_s: [j] greatest speed of the line, and so of the reference; where the pace
                of targets changes it may be a fifth more.
            acceleration_rad_s2: [j] about the greatest one to speed up with.
            now_s: the time.
        """
        self._positions = np.array(positions, dtype=np.float64)
        self._velocities = np.zeros_like(self._positions)
        self._smoothing_s = smoothing_s
        self._most = np.array(velocity_rad_s, dtype=np.float64)
        self._most_change = np.array(acceleration_rad_s2, dtype=np.float64)
        self._period_s = min(max(period_s, _SHORTEST_S), _LONGEST_S)
        self._now_s = now_s
        self._aimed_s: float | None = None
        self._begin(self._positions, self._positions, now_s, self._period_s, brakes=False)

    def aim(self, target: Floats, now_s: float) -> None:
        """Go to a target [j], which is reached about when the next one is expected."""
        self.advance(now_s)
        if self._aimed_s is not None and now_s - self._aimed_s <= _LONGEST_S:
            interval_s = max(now_s - self._aimed_s, _SHORTEST_S)
            share = _SHARE_LONGER if interval_s > self._period_s else _SHARE_SHORTER
            self._period_s += share * (interval_s - self._period_s)
        self._aimed_s = now_s
        start = self._line(now_s)
        end = np.array(target, dtype=np.float64)
        # The steepest change of a speed behind two low passes is the step times their rate over e.
        change = self._most_change * math.e / self._rate
        along = self._velocities * np.sign(end - start) + change
        speeds = np.clip(along, 0.2 * change, self._most)
        duration_s = max(self._period_s, float((np.abs(end - start) / speeds).max()))
        self._begin(start, end, now_s, duration_s, brakes=False)

    @property
    def _rate(self) -> float:
        """Return what each of the two low passes is late by one over."""
        return 2.0 / max(self._smoothing_s, _SMOOTHING * self._period_s)

    def brake(self, acceleration_rad_s2: Floats, now_s: float) -> None:
        """Come to rest straight on, with no joint slowing down faster than this [j]."""
        self.advance(now_s)
        duration_s = max(float((np.abs(self._velocities) / acceleration_rad_s2).max()), _STEP_S)
        # From where it is, not from where the line is: what the low passes still hold is let go.
        end = self._positions + 0.5 * duration_s * self._velocities
        self._begin(self._positions, end, now_s, duration_s, brakes=True)

    def advance(self, now_s: float) -> tuple[Floats, Floats]:
        """Return positions and velocities [j] now."""
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
        """Return whether it stands still, and will."""
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
        """Solve x'' + 2 w x' + w^2 x = w^2 u exactly, for a u that is a straight line."""
        rate, before, after = self._rate, self._line(at_s), self._line(at_s + step_s)
        slope = (after - before) / step_s
        error = self._positions - (before - 2.0 / rate * slope)
        error_rate = self._velocities - slope
        decay, mixed = np.exp(-rate * step_s), error_rate + rate * error
        self._positions = after - 2.0 / rate * slope + decay * (error + mixed * step_s)
        self._velocities = slope + decay * (error_rate - rate * mixed * step_s)
