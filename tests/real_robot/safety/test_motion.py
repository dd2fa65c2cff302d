"""At every tick of a motion the arm could stop, and would keep every limit in doing so."""

from dataclasses import replace

import numpy as np
import pytest

from real_robot.limits import FR3
from real_robot.safety.motion import MotionConfig, MotionFilter
from real_robot.safety.workspace import Enclosure
from tests.real_robot.safety.safety_cases import ARM, CONFIG, HOME, Judge

FREE = replace(CONFIG.workspace, low_m=(-9.0, -9.0, -9.0), high_m=(9.0, 9.0, 9.0), table_m=-9.0)
PERIOD_S = 0.05
MOTION = MotionConfig(
    joint_margin_rad=0.0,
    velocity_fraction=1.0,
    acceleration_fraction=1.0,
    max_step_rad=1.0,
    max_lead_rad=9.0,
    period_s=PERIOD_S,
)


@pytest.mark.parametrize("slow_joint_rad_s2", [0.3, 0.5, 0.7, 1.0, 2.0])
def test_a_slow_joint_does_not_drag_a_quick_one_over_its_curve(slow_joint_rad_s2) -> None:
    # All joints come to rest together. Joint 7 may brake slowly only, so joint 1 brakes as slowly:
    # it must know that before its speed has to shrink towards its end.
    limits = replace(
        FR3,
        velocity_rad_s=(0.7, *FR3.velocity_rad_s[1:]),
        acceleration_rad_s2=(20.0,) * 6 + (slow_joint_rad_s2,),
        velocity_offset_rad_s=(0.3, *FR3.velocity_offset_rad_s[1:]),
        braking_rad_s2=(1.0, *FR3.braking_rad_s2[1:]),
    )
    config = replace(CONFIG, motion=MOTION, workspace=FREE)
    motion_filter = MotionFilter(MOTION, limits, Enclosure(FREE, ARM))
    judge = Judge(config, limits)
    motion = motion_filter.rest(HOME)
    requested = HOME + np.array([9.0, 0, 0, 0, 0, 0, 9.0])
    for tick in range(120):
        now, velocities = motion, motion.velocities_rad_s
        while not now.at_rest:
            braked = motion_filter.brake(now, PERIOD_S)
            velocities = judge.check(
                braked.positions_rad, now.positions_rad, velocities, PERIOD_S, where=f"tick {tick}"
            )
            now = braked
        motion, _ = motion_filter.step(motion, requested, motion.positions_rad, PERIOD_S)
    assert motion.positions_rad[0] > limits.upper_rad[0] - 0.1


def test_braking_stays_on_the_line_whatever_the_clock_does() -> None:
    motion_filter = MotionFilter(MOTION, FR3, Enclosure(FREE, ARM))
    motion = motion_filter.rest(HOME)
    requested = HOME + np.array([1.0, 0.2, -0.3, 0.4, 0, 0, 0.5])
    for _ in range(6):
        motion, _ = motion_filter.step(motion, requested, HOME, PERIOD_S)
    start, way = motion.positions_rad, motion.velocities_rad_s
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(20):
        now = motion
        while not now.at_rest:
            now = motion_filter.brake(now, PERIOD_S * rng.choice([0.1, 0.5, 1.0]))
            gone = now.positions_rad - start
            along = gone @ way / (way @ way)
            assert gone == pytest.approx(along * way, abs=1e-12)
        ends.append(along)
    # never farther than v^2 / 2a
    assert max(ends) <= 0.5 * np.abs(way / 10.0).max() + 1e-12
    assert min(ends) > 0
