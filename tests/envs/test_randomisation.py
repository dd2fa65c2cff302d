import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.arms import FRANKA_PANDA as ARM
from envs.patterns import PATTERNS, draw_pattern
from envs.randomisation import GROUPS, Ranges, check_groups, draw_appearance
from envs.scene import Appearance
from envs.tasks.pick import PickTask

SCENE = PickTask().scene(ARM)
SEEDS = st.integers(0, 2**32)


def draw(groups, seed=0, ranges=None):
    return draw_appearance(SCENE, groups, np.random.default_rng(seed), ranges)


@given(SEEDS)
def test_no_group_leaves_everything(seed):
    assert draw((), seed) == Appearance()


@given(SEEDS)
def test_a_group_draws_the_same_whatever_the_others_do(seed):
    everything = draw(GROUPS, seed)
    assert draw(("colours",), seed).paints == everything.paints
    assert draw(("lights",), seed).lighting == everything.lighting
    assert draw(("camera",), seed).camera_shifts == everything.camera_shifts
    assert draw(("colours",), seed).lighting is None


@given(SEEDS)
def test_everything_is_within_its_range(seed):
    look, ranges = draw(GROUPS, seed), Ranges()
    for paint in look.paints.values():
        assert min(paint.rgb) >= 0
        assert max(paint.rgb) <= 1
        assert paint.pattern in PATTERNS
    assert look.lighting.direction[2] < 0
    assert max(*look.lighting.diffuse, *look.lighting.ambient, *look.lighting.head) <= 1
    front, hand = look.camera_shifts["front"], look.camera_shifts["hand"]
    assert np.abs(front.translation_m).max() <= ranges.camera_translation_m
    assert np.abs(hand.translation_m).max() <= ranges.carried_camera_translation_m
    assert np.abs(front.rotation_rad).max() <= ranges.camera_rotation_rad
    assert abs(front.fov_y_deg) <= ranges.camera_fov_y_deg


def test_episodes_look_different():
    assert draw(GROUPS, 0) != draw(GROUPS, 1)


def test_ranges_are_data():
    none = dataclasses.replace(Ranges(), colours={}, camera_fov_y_deg=0.0)
    look = draw(GROUPS, 0, none)
    assert look.paints == {}
    assert look.camera_shifts["front"].fov_y_deg == 0.0


def test_unknown_group_lists_the_known_ones():
    with pytest.raises(ValueError, match="'smells'; known: colours, lights, camera"):
        check_groups(("colours", "smells"))
    with pytest.raises(ValueError, match="sequence"):
        check_groups("lights")


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_is_always_the_same_and_bright(name):
    pixels = draw_pattern(name)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.mean() > 150
    np.testing.assert_array_equal(pixels, draw_pattern(name))


def test_unknown_pattern_lists_the_known_ones():
    with pytest.raises(ValueError, match="known: plain, checker"):
        draw_pattern("tartan")
