"""Limits are read from the robot, and invalid ones are refused."""

from dataclasses import replace

import numpy as np
import pytest

from real_robot.limits import FR3, PANDA, limits_from_urdf, limits_of_server


def urdf(num_joints=7, extra="", upper=2.0):
    joints = "".join(
        f'<joint name="fr3_joint{index}" type="revolute">'
        f'<limit lower="-1.5" upper="{upper}" velocity="2.5" effort="80"/>{extra}</joint>'
        for index in range(1, num_joints + 1)
    )
    finger = '<joint name="finger" type="prismatic"><limit lower="0" upper="0.04"/></joint>'
    return f'<robot name="fr3">{joints}{finger}</robot>'


def test_what_the_robot_says_takes_the_place_of_the_constant() -> None:
    shrink = '<position_based_velocity_limits velocity_offset="0.1" deceleration_limit="7"/>'
    limits = limits_from_urdf(urdf(extra=shrink), like=FR3)
    assert limits.upper_rad == (2.0,) * 7
    assert limits.velocity_rad_s == (2.5,) * 7
    assert limits.velocity_offset_rad_s == (0.1,) * 7
    assert limits.braking_rad_s2 == (7.0,) * 7
    assert limits.acceleration_rad_s2 == FR3.acceleration_rad_s2
    assert limits_from_urdf(urdf(), like=FR3).braking_rad_s2 == FR3.braking_rad_s2


def test_a_model_without_torque_limits_is_read() -> None:
    limits = limits_from_urdf(urdf(), like=FR3)
    assert limits_from_urdf(urdf().replace('effort="80"', 'effort="0"'), like=FR3) == limits
    assert limits_from_urdf(urdf().replace('effort="80"', ""), like=FR3) == limits


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("no xml", "not a URDF"),
        (urdf(6), "6 revolute joints"),
        (urdf(upper=-2.0), "not below"),
        (urdf(upper="nan"), "finite"),
        (urdf().replace('velocity="2.5"', ""), "velocity"),
    ],
)
def test_a_model_that_makes_no_sense_is_an_error(text, word) -> None:
    with pytest.raises(ValueError, match=word):
        limits_from_urdf(text, like=FR3)


def test_the_server_version_selects_the_limits() -> None:
    assert limits_of_server(10) is FR3
    assert limits_of_server(5) is PANDA
    assert limits_of_server(7).lower_rad[5] == 0.5445
    with pytest.raises(ValueError, match="known: 5 \\(Panda\\)"):
        limits_of_server(3)


def test_a_panda_may_go_where_an_fr3_may_not() -> None:
    assert PANDA.lower_rad[5] < 0 < FR3.lower_rad[5]
    assert np.isinf(PANDA.braking_rad_s2).all()  # its speeds do not shrink


def test_limits_must_be_complete() -> None:
    with pytest.raises(ValueError, match="6 values for 7 joints"):
        replace(FR3, acceleration_rad_s2=(1.0,) * 6)
    with pytest.raises(ValueError, match="velocity_rad_s: joint 1 must be positive"):
        replace(FR3, velocity_rad_s=(0.0,) * 7)
