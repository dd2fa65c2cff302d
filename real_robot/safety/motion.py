"""Limits on the motion of joint targets from one tick to the next, always with a way to stop.

For every target, a braking motion exists: the arm can stop on a straight line in joint space,
within all limits and inside the workspace. A requested target without a braking motion is moved
along the wall of the workspace or shortened. If no such target has one, the braking motion of the
last target is used. So no limit is violated to satisfy another one.

The first candidate that passes all checks is sent. The filter is idempotent: a sent target that is
requested again at the same tick passes without a change.
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
    """Settings of the motion limits of the targets.

    Attributes:
        joint_margin_rad: distance kept from the robot's joint limits.
        velocity_fraction: greatest velocity, as a fraction of the robot's limit, in (0, 1].
        acceleration_fraction: greatest acceleration, as a fraction of the robot's limit, in (0, 1].
        max_step_rad: greatest change of a joint's target in one period.
        max_lead_rad: greatest distance of a target from the measured position of its joint.
        period_s: period of the control loop; a delayed tick may move no farther than in one period.
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
    """A reason why the sent target differs from the requested one.

    Attributes:
        name: one word for the log, for example `velocity`.
        amount: size of the change of the target, in `unit`.
        unit: unit of the amount, for example `rad`.
        detail: the joint or the bound of the limit, as text.
    """

    name: str
    amount: float
    unit: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Motion:
    """The joint positions that were sent last, and their velocities.

    Attributes:
        positions_rad: [j] joint positions that were sent.
        velocities_rad_s: [j] joint velocities of the step to these positions.
    """

    positions_rad: Floats
    velocities_rad_s: Floats

    @property
    def at_rest(self) -> bool:
        """Return whether the last step did not move."""
        return not self.velocities_rad_s.any()


class MotionFilter:
    """A filter that passes as much of a requested motion as the limits allow."""

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
        # the velocity curve that shrinks towards a joint limit, scaled by the fraction
        self._offset = fraction * np.array(limits.velocity_offset_rad_s)
        self._braking = fraction**2 * np.array(limits.braking_rad_s2)
        self._shrinks = np.isfinite(self._braking)

    def outside(self, positions: Floats) -> list[str]:
        """Return the violations of joint limits (with margin) and workspace at positions [j]."""
        beyond = np.maximum(self._lower - positions, positions - self._upper)
        return [
            f"joint {joint + 1} at {positions[joint]:.4f} rad is outside "
            f"[{self._lower[joint]:.4f}, {self._upper[joint]:.4f}] rad (margin "
            f"{self._config.joint_margin_rad} rad)"
            for joint in np.flatnonzero(beyond > _ROUNDING)
        ] + self._enclosure.violations(positions)

    def rest(self, positions: Floats) -> Motion:
        """Return a motion at rest at positions [j] for which `outside` returns nothing."""
        start = np.clip(positions, self._lower, self._upper)
        return Motion(positions_rad=start, velocities_rad_s=np.zeros_like(start))

    def brake(self, last: Motion, elapsed_s: float) -> Motion:
        """Return the braking motion: slow down along the straight line that was checked."""
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
        """Return the next motion towards `requested` [j], and the reasons for each difference.

        Args:
            last: the motion that was sent before.
            requested: [j] finite positions.
            measured: [j] measured positions of the joints.
            elapsed_s: time since `last`, above 0; time beyond one period is ignored.
        """
        elapsed_s = min(elapsed_s, self._config.period_s)
        braking = self.brake(last, elapsed_s)
        interventions: list[Intervention] = []
        low, high = np.full_like(requested, -np.inf), np.full_like(requested, np.inf)
        allowed = requested
        for name, lower, upper in self._bounds(last, measured, elapsed_s):
            # The braking motion keeps every bound up to rounding, except `lead`: always allow it.
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
        """Yield each bound on the next positions by name; none depends on the requested target."""
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
        # When an arm is pushed back, its target must not jump: the braking motion stays allowed.
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
        """Yield positions [j] to try, best first: as allowed, along the wall, and shorter steps."""
        yield allowed
        along = allowed
        for _ in range(2):
            end = self._end(last.positions_rad, along, elapsed_s)
            buffer = 4 * self._enclosure.curvature_m(last.positions_rad, end) + 1e-4
            push = self._enclosure.pushed_in(end, buffer)
            if push is None:
                break
            # the end moves with the candidate, and farther by the stopping distance
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
        """Return whether speeds [j] that fall evenly to 0 stay under the curve near the limits.

        Let `r` be the remaining share of the speed, from 1 to 0. The joint has then moved
        s = (1 - r^2) v T / 2 of its distance x. It is under the curve if
        (r v + o)^2 <= 2 d (x - s). This is a parabola in r: its ends and its vertex are checked.
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
        """Return the longest step [j] towards a limit that is `distance` [j] away.

        After the step, the speed must be on or under the robot's curve and our braking curve.
        """
        still = np.zeros_like(distance)
        ours = _farthest(distance, still, self._acceleration, elapsed_s)
        braking = np.where(self._shrinks, self._braking, 1.0)
        robots = _farthest(distance, self._offset, braking, elapsed_s)
        return np.where(self._shrinks, np.minimum(ours, robots), ours)

    def _end(self, here: Floats, candidate: Floats, elapsed_s: float) -> Floats:
        """Return the positions [j] where the arm would come to rest after `candidate`."""
        velocities = (candidate - here) / elapsed_s
        return candidate + 0.5 * self._stop_time(velocities) * velocities

    def _stop_time(self, velocities: Floats) -> float:
        return float((np.abs(velocities) / self._acceleration).max())


def _farthest(distance: Floats, offset: Floats, braking: Floats, elapsed_s: float) -> Floats:
    """Return the root x of (x / t + offset)^2 = 2 braking (distance - x); 0 if it is negative."""
    a = 1.0 / elapsed_s**2
    half_b = offset / elapsed_s + braking
    c = offset**2 - 2.0 * braking * np.maximum(distance, 0.0)
    root = -c / (half_b + np.sqrt(np.maximum(half_b**2 - a * c, 0.0)))
    return np.maximum(root, 0.0)


def _joint_change(name: str, amount_rad: float, detail: str) -> Intervention:
    return Intervention(name=name, amount=amount_rad, unit="rad", detail=detail)
