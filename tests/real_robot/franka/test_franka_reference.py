"""The reference is smooth, never overshoots, and comes to rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from real_robot.franka.reference import Reference

STEP_S = 0.004
MOST = np.array([2.0, 1.0])


def reference(start=(0.0, 0.0), period_s=0.1, smoothing_s=0.03):
    return Reference(
        np.array(start),
        period_s=period_s,
        smoothing_s=smoothing_s,
        velocity_rad_s=MOST,
        acceleration_rad_s2=np.array([10.0, 10.0]),
        now_s=10.0,
    )


def follow(moving, begin_s, end_s, step_s=STEP_S):
    """Return positions and velocities [t j] at even times."""
    times = np.arange(begin_s, end_s, step_s)
    rows = [moving.advance(time) for time in times]
    return np.array([q for q, _ in rows]), np.array([v for _, v in rows])


def test_it_starts_where_it_is_and_stays() -> None:
    positions, velocities = follow(reference((0.3, -0.2)), 10.0, 10.5)
    np.testing.assert_allclose(positions, np.tile([0.3, -0.2], (len(positions), 1)), atol=1e-12)
    np.testing.assert_allclose(velocities, 0.0, atol=1e-12)


def test_it_arrives_and_holds_the_last_target() -> None:
    moving = reference()
    moving.aim(np.array([0.1, -0.05]), 10.0)
    moving.advance(10.0 + 0.1 + 10 * 0.03)
    assert moving.at_rest
    np.testing.assert_allclose(moving.advance(11.0)[0], [0.1, -0.05], atol=1e-6)


@given(
    st.lists(
        st.tuples(
            st.floats(0.005, 0.4),
            st.floats(-1.0, 1.0, allow_subnormal=False),
            st.floats(-1.0, 1.0, allow_subnormal=False),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whenever_targets_come_it_stays_between_them_and_within_its_speed(targets) -> None:
    moving, now_s = reference(), 10.0
    rows = [np.zeros(2)]
    for interval_s, first, second in targets:
        rows.append(np.array([first, second]))
        moving.aim(rows[-1], now_s)
        positions, velocities = follow(moving, now_s, now_s + interval_s)
        low, high = np.min(rows, axis=0), np.max(rows, axis=0)
        assert (positions >= low - 1e-9).all()
        assert (positions <= high + 1e-9).all()
        assert (np.abs(velocities) <= 1.2 * MOST).all()
        now_s += interval_s


def test_a_jump_of_the_target_is_no_jump_of_position_nor_of_speed() -> None:
    moving = reference()
    moving.aim(np.array([1.0, 0.0]), 10.0)
    positions, velocities = follow(moving, 10.0, 11.5, 0.001)
    assert np.abs(np.diff(positions[:, 0])).max() <= 2.0 * 0.001 + 1e-9
    steepest = 15.0  # the acceleration is 10; at the end the line's speed is too low to measure it
    assert np.abs(np.diff(velocities[:, 0])).max() <= steepest * 0.001 * 1.05
    np.testing.assert_allclose(
        np.diff(positions[:, 0]) / 0.001, velocities[1:, 0], atol=steepest * 0.001
    )


@pytest.mark.parametrize("rate_hz", [10.0, 30.0, 60.0])
def test_at_an_even_pace_its_speed_is_even_and_it_is_late_by_what_was_said(rate_hz) -> None:
    moving, speed, positions, velocities = reference(), 0.5, [], []
    for index in range(int(3 * rate_hz)):
        now_s = 10.0 + index / rate_hz
        moving.aim(np.array([speed * index / rate_hz, 0.0]), now_s)
        seen = follow(moving, now_s, now_s + 1 / rate_hz - 1e-9)
        if index > 2 * rate_hz:
            times = now_s - 10.0 + STEP_S * np.arange(len(seen[0]))
            late_s = 1 / rate_hz + max(0.03, 0.5 / rate_hz)
            positions += list(seen[0][:, 0] - speed * (times - late_s))
            velocities += list(seen[1][:, 0])
    np.testing.assert_allclose(velocities, speed, atol=0.01)
    np.testing.assert_allclose(positions, 0.0, atol=0.001)


def test_braking_ends_in_time_straight_on() -> None:
    moving = reference()
    for index in range(10):
        moving.aim(np.array([0.1 * index, 0.05 * index]), 10.0 + 0.1 * index)
    here, velocities = moving.advance(11.0)
    np.testing.assert_allclose(velocities, [1.0, 0.5], atol=0.02)
    moving.brake(np.array([5.0, 5.0]), 11.0)
    path, slowing = follow(moving, 11.0, 11.3)
    assert moving.at_rest
    assert (np.abs(np.diff(slowing, axis=0)) <= 5.0 * STEP_S + 1e-9).all()
    expected = here + velocities**2 / (2 * np.array([5.0, 2.5]))  # both joints take as long
    np.testing.assert_allclose(path[-1], expected, atol=1e-3)


def test_a_stall_of_its_thread_changes_nothing_about_where_it_is_then() -> None:
    often, once = reference(), reference()
    for moving in (often, once):
        moving.aim(np.array([0.2, 0.1]), 10.0)
    positions, _ = follow(often, 10.0, 10.2 + 1e-9)
    np.testing.assert_allclose(once.advance(10.2)[0], positions[-1], atol=1e-12)
