"""Poses cover the area, are the same for the same seed, and keep away from demonstrations."""

import math

import numpy as np
import pytest

from real_robot.trials.poses import Pose, PoseArea, draw_poses, grid_shape, nearest_m

AREA = PoseArea(center_m=(0.5, 0.0), half_m=(0.1, 0.2), yaw_rad=math.pi)


def draw(num, seed=0, **more):
    return draw_poses(AREA, num, np.random.default_rng(seed), **more)


def test_every_cell_has_one_place_and_every_turn_its_share() -> None:
    for num, shape in ((16, (6, 3)), (18, (6, 3)), (8, (4, 2)), (1, (1, 1)), (2, (2, 1))):
        assert grid_shape(AREA, num) == shape
        rows, columns = shape
        poses = draw(num)
        assert len(poses) == num
        cells = {
            (int((pose.x_m - 0.4) / 0.2 * columns), int((pose.y_m + 0.2) / 0.4 * rows))
            for pose in poses
        }
        assert len(cells) == num
        assert all(0 <= column < columns and 0 <= row < rows for column, row in cells)
        shares = sorted(int((pose.yaw_rad / math.pi + 1) / 2 * num) for pose in poses)
        assert shares == list(range(num))


def test_the_seed_says_all() -> None:
    assert draw(16) == draw(16)
    assert draw(16) != draw(16, seed=1)
    places = [(pose.x_m, pose.y_m) for pose in draw(16)]
    assert places != sorted(places)  # nor do they come in the grid's order


def test_places_of_demonstrations_are_not_met_again() -> None:
    rng = np.random.default_rng(7)
    demos = [(rng.uniform(0.4, 0.6), rng.uniform(-0.2, 0.2)) for _ in range(240)]
    free = min(nearest_m(pose, demos) for pose in draw(16))
    kept = min(nearest_m(pose, demos) for pose in draw(16, avoid=demos, least_distance_m=0.01))
    assert free < 0.01 <= kept  # m
    with pytest.raises(ValueError, match=r"no position was found .* 0.1 m from all 240 positions"):
        draw(16, avoid=demos, least_distance_m=0.1)


def test_an_area_may_be_a_point() -> None:
    area = PoseArea(center_m=(0.5, 0.1), half_m=(0.0, 0.0), yaw_rad=0.0)
    poses = draw_poses(area, 3, np.random.default_rng(0))
    assert poses == (Pose(x_m=0.5, y_m=0.1, yaw_rad=0.0),) * 3
    assert nearest_m(poses[0], []) == math.inf
    assert str(poses[0]) == "x 0.500 m, y +0.100 m, yaw +0 deg"


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match="negative edges"):
        PoseArea(center_m=(0.5, 0.0), half_m=(0.1, -0.2), yaw_rad=0.0)
    with pytest.raises(ValueError, match="in \\[0, pi\\]"):
        PoseArea(center_m=(0.5, 0.0), half_m=(0.1, 0.2), yaw_rad=4.0)
    with pytest.raises(ValueError, match="at least one pose"):
        draw(0)
