"""Limit the motion of the joint targets, so that the arm can stop at any time.

A target is sent only if the arm can brake from it: on a straight line in joint space, within all
limits, and inside the workspace. This line is the braking motion of the target. If the requested
target has no braking motion, other targets are tried in this order: the requested target, moved
along the wall of the workspace; shorter motions; the braking motion of the previous target, which
always exists. The first target that passes all checks is sent. No limit is violated to satisfy
another limit.

The filter is idempotent: if the sent target is requested again at the same time step, it passes
without a change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from envs.geometry import Floats

from ..limits import JointLimits
from .workspace import Enclosure

_ROUNDING = 1e-9
_SHARES = (0.5, 0.25, 0.125)


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionConfig:
    """Limits on the motion of the joint targets.

    Attributes:
        joint_margin_rad: smallest distance of a target from the robot's joint limits, rad.
        velocity_fraction: greatest velocity, as a fraction of the robot's limit, in (0, 1].
        acceleration_fraction: greatest acceleration, as a fraction of the robot's limit, in (0, 1].
        max_step_rad: greatest change of a joint's target in one period, rad.
        max_lead_rad: greatest distance of a target from the measured position of its joint, rad.
        period_s: period of the control loop, s. After a delay, the target may still not move
            farther than in one period.
    """

    joint_margin_rad: float
    velocity_fraction: float
    acceleration_fraction: float
    max_step_rad: float
    max_lead_rad: float
    period_s: float

    def __post_init__(self) -> None:
        for name in ("velocity_fraction", "acceleration_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("max_step_rad", "max_lead_rad", "period_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.joint_margin_rad < float("inf"):
            raise ValueError(f"joint_margin_rad must not be negative, got {self.joint_margin_rad}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervention:
    """Change of the requested target by the safety layer, and its reason.

    Attributes:
        name: the limit that caused the change, in one word, for example `velocity`. It is
            `hold` or `stop` if the arm brakes because the decision has this verdict.
        amount: size of the change, in `unit`.
        unit: unit of the amount, for example `rad`.
        detail: the joint that was limited, the wall of the workspace, or another explanation, as
            text.
    """

    name: str
    amount: float
    unit: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Motion:
    """Joint target that was sent, and the joint velocities of the step to it.

    Attributes:
        positions_rad: joint positions that were sent [j], rad, one value per joint.
        velocities_rad_s: joint velocities of the step to these positions [j], rad/s.
    """

    positions_rad: Floats
    velocities_rad_s: Floats

    @property
    def at_rest(self) -> bool:
        """Return whether all velocities of the step are 0."""
        return not self.velocities_rad_s.any()


class MotionFilter:
    """Filter that changes a requested motion as little as possible to satisfy all limits."""

    def __init__(self, config: MotionConfig, limits: JointLimits, enclosure: Enclosure) -> None:
        fraction = config.velocity_fraction
        self._lower = np.array(limits.lower_rad) + config.joint_margin_rad
        self._upper = np.array(limits.upper_rad) - config.joint_margin_rad
        if (self._lower >= self._upper).any():
            joint = int(np.argmax(self._lower >= self._upper))
            raise ValueError(
                f"a margin of {config.joint_margin_rad} rad leaves joint {joint + 1} no room "
                f"between {limits.lower_rad[joint]} and {limits.upper_rad[joint]} rad"
            )
        self._config = config
        self._enclosure = enclosure
        self._speed = fraction * np.array(limits.velocity_rad_s)
        self._acceleration = config.acceleration_fraction * np.array(limits.acceleration_rad_s2)
        # the greatest velocity decreases near a joint limit; it is scaled by the fraction
        self._offset = fraction * np.array(limits.velocity_offset_rad_s)
        self._braking = fraction**2 * np.array(limits.braking_rad_s2)
        self._shrinks = np.isfinite(self._braking)

    def outside(self, positions: Floats) -> list[str]:
        """Return the joint limits (with margin) and walls that positions [j] violate, as texts."""
        beyond = np.maximum(self._lower - positions, positions - self._upper)
        return [
            f"joint {joint + 1} at {positions[joint]:.4f} rad is outside "
            f"[{self._lower[joint]:.4f}, {self._upper[joint]:.4f}] rad (margin "
            f"{self._config.joint_margin_rad} rad)"
            for joint in np.flatnonzero(beyond > _ROUNDING)
        ] + self._enclosure.violations(positions)

    def rest(self, positions: Floats) -> Motion:
        """Return a motion at rest at positions [j], which must be inside all limits."""
        start = np.clip(positions, self._lower, self._upper)
        return Motion(positions_rad=start, velocities_rad_s=np.zeros_like(start))

    def brake(self, last: Motion, elapsed_s: float) -> Motion:
        """Return the next motion if the arm brakes on the straight line that was checked.

        Args:
            last: the motion that was sent before.
            elapsed_s: time since `last`, s.
        """
        stop_s = self._stop_time(last.velocities_rad_s)
        share = max(0.0, 1.0 - elapsed_s / stop_s) if stop_s > 0 else 0.0
        velocities = last.velocities_rad_s * share
        positions = last.positions_rad + velocities * elapsed_s
        return Motion(
            positions_rad=np.clip(positions, self._lower, self._upper),
            velocities_rad_s=velocities,
        )

    def step(
        self, last: Motion, requested: Floats, measured: Floats, elapsed_s: float
    ) -> tuple[Motion, list[Intervention]]:
        """Return the next motion towards `requested`, and the changes of the request.

        Args:
            last: the motion that was sent before.
            requested: requested positions [j], rad, one finite value per joint.
            measured: measured positions of the joints [j], rad.
            elapsed_s: time since `last`, s, above 0; a longer time than one period counts as one
                period.
        """
        elapsed_s = min(elapsed_s, self._config.period_s)
        braking = self.brake(last, elapsed_s)
        interventions: list[Intervention] = []
        low, high = np.full_like(requested, -np.inf), np.full_like(requested, np.inf)
        allowed = requested
        for name, lower, upper in self._bounds(last, measured, elapsed_s):
            # The braking motion satisfies every bound up to rounding, except `lead`. It must always
            # be allowed, so the bounds are extended to include it.
            low = np.maximum(low, np.minimum(lower, braking.positions_rad))
            high = np.minimum(high, np.maximum(upper, braking.positions_rad))
            bounded = np.clip(allowed, low, high)
            change = np.abs(bounded - allowed)
            if change.any():
                joints = ", ".join(str(joint + 1) for joint in np.flatnonzero(change))
                interventions.append(_joint_change(name, float(change.max()), f"joints {joints}"))
            allowed = bounded
        for candidate in self._candidates(last, allowed, braking, elapsed_s, low, high):
            if np.array_equal(candidate, braking.positions_rad):
                break
            if self._leaves_way_out(last.positions_rad, candidate, elapsed_s):
                break
        else:
            candidate = braking.positions_rad
        change = float(np.abs(candidate - allowed).max())
        if change > 0:
            why = self._enclosure.violations(self._end(last.positions_rad, allowed, elapsed_s))
            name = "workspace" if why else "stopping_distance"
            detail = "; ".join(why) or "the arm could not stop on a straight line from there"
            interventions.append(_joint_change(name, change, detail))
        if np.array_equal(candidate, braking.positions_rad):
            return braking, interventions
        velocities = (candidate - last.positions_rad) / elapsed_s
        return Motion(positions_rad=candidate, velocities_rad_s=velocities), interventions

    def _bounds(
        self, last: Motion, measured: Floats, elapsed_s: float
    ) -> Iterator[tuple[str, Floats, Floats]]:
        """Yield name, lowest and highest positions [j] of each limit on the next positions.

        The limits do not depend on the requested target.
        """
        here, config = last.positions_rad, self._config
        yield "joint_limit", self._lower, self._upper
        # In a fraction of the period, the same fraction of the step is allowed.
        step = config.max_step_rad * elapsed_s / config.period_s
        yield "step", here - step, here + step
        fastest = self._speed * elapsed_s
        up = self._farthest_towards(self._upper - here, elapsed_s)
        down = self._farthest_towards(here - self._lower, elapsed_s)
        yield "velocity", here - np.minimum(fastest, down), here + np.minimum(fastest, up)
        change = self._acceleration * elapsed_s
        slowest, quickest = last.velocities_rad_s - change, last.velocities_rad_s + change
        yield "acceleration", here + slowest * elapsed_s, here + quickest * elapsed_s
        lead = config.max_lead_rad
        # If the arm is pushed away, its target must not jump: the braking motion stays allowed.
        yield "lead", measured - lead, measured + lead

    def _candidates(
        self,
        last: Motion,
        allowed: Floats,
        braking: Motion,
        elapsed_s: float,
        low: Floats,
        high: Floats,
    ) -> Iterator[Floats]:
        """Yield the positions [j] to try, in the order of the module's description."""
        yield allowed
        along = allowed
        for _ in range(2):
            end = self._end(last.positions_rad, along, elapsed_s)
            buffer = 4 * self._enclosure.curvature_m(last.positions_rad, end) + 1e-4
            push = self._enclosure.pushed_in(end, buffer)
            if push is None:
                break
            # the end of the braking motion moves with the candidate, plus the stopping distance
            stop_s = self._stop_time((along - last.positions_rad) / elapsed_s)
            along = np.clip(along + push / (1.0 + 0.5 * stop_s / elapsed_s), low, high)
        yield along
        for share in _SHARES:
            less = braking.positions_rad + share * (along - braking.positions_rad)
            yield np.clip(less, low, high)

    def _leaves_way_out(self, here: Floats, candidate: Floats, elapsed_s: float) -> bool:
        velocities = (candidate - here) / elapsed_s
        speeds = np.abs(velocities)
        stop_s = self._stop_time(velocities)
        distance = np.where(velocities > 0, self._upper - candidate, candidate - self._lower)
        if (0.5 * speeds * stop_s > distance + _ROUNDING).any():
            return False
        if not self._stays_under_curve(speeds, distance, stop_s):
            return False
        return self._enclosure.holds_line(here, self._end(here, candidate, elapsed_s))

    def _stays_under_curve(self, speeds: Floats, distance: Floats, stop_s: float) -> bool:
        """Return whether the joints can brake from these speeds without exceeding a velocity limit.

        Each joint brakes with a constant deceleration.

        The robot's velocity limit decreases near a position limit (see `JointLimits`). At a
        distance x it is sqrt(2 d x) - o, with the deceleration d and the offset o. A joint brakes
        from its speed v to 0 in the time T. Let `r` be the remaining share of the speed, from 1 to
        0. The joint has then moved s = (1 - r^2) v T / 2. Its speed is allowed if (r v + o)^2 <= 2
        d (x - s). This is a parabola in r, so only the two ends and the vertex are checked.

        Args:
            speeds: speeds v [j], rad/s, one value per joint.
            distance: distances x [j] to the position limits, rad.
            stop_s: braking time T, s.
        """
        moving = self._shrinks & (speeds > 0)
        if not moving.any():
            return True
        v, x = speeds[moving], distance[moving]
        o, d = self._offset[moving], self._braking[moving]
        slack = d * stop_s - v
        vertex = np.clip(o / np.where(slack > 0, slack, 1.0), 0.0, 1.0)
        return all(
            bool(((r * v + o) ** 2 <= 2 * d * (x - 0.5 * (1 - r * r) * v * stop_s) + 1e-9).all())
            for r in (0.0, 1.0, vertex)
        )

    def _farthest_towards(self, distance: Floats, elapsed_s: float) -> Floats:
        """Return the longest step [j] towards a position limit that is `distance` [j] away, rad.

        The speed of the step must not exceed the robot's velocity limit near the position limit,
        and must allow to brake before the limit.
        """
        still = np.zeros_like(distance)
        ours = _farthest(distance, still, self._acceleration, elapsed_s)
        braking = np.where(self._shrinks, self._braking, 1.0)
        robots = _farthest(distance, self._offset, braking, elapsed_s)
        return np.where(self._shrinks, np.minimum(ours, robots), ours)

    def _end(self, here: Floats, candidate: Floats, elapsed_s: float) -> Floats:
        """Return the positions [j] where the arm comes to rest if it brakes after `candidate`."""
        velocities = (candidate - here) / elapsed_s
        return candidate + 0.5 * self._stop_time(velocities) * velocities

    def _stop_time(self, velocities: Floats) -> float:
        return float((np.abs(velocities) / self._acceleration).max())


def _farthest(distance: Floats, offset: Floats, braking: Floats, elapsed_s: float) -> Floats:
    """Return the longest step x within the time t = `elapsed_s` that satisfies a velocity limit.

    x is the solution of (x / t + offset)^2 = 2 braking (distance - x), or 0 if it is negative.
    """
    a = 1.0 / elapsed_s**2
    half_b = offset / elapsed_s + braking
    c = offset**2 - 2.0 * braking * np.maximum(distance, 0.0)
    root = -c / (half_b + np.sqrt(np.maximum(half_b**2 - a * c, 0.0)))
    return np.maximum(root, 0.0)


def _joint_change(name: str, amount_rad: float, detail: str) -> Intervention:
    return Intervention(name=name, amount=amount_rad, unit="rad", detail=detail)
