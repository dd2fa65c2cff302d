"""The camera faults that are drawn for the monitor's benchmark, and its statistics."""

import numpy as np
import pytest

from benchmarks.camera_faults import FAULTS
from benchmarks.surprise import auroc, delays_of, poisson_interval


def video(size=64, frames=8):
    rng = np.random.default_rng(0)
    return rng.integers(60, 200, (frames, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_the_frames_alone_and_shows(name):
    frames, before = video(), video()[0] + 1
    kept = frames.copy()
    broken = FAULTS[name](frames, before, np.random.default_rng(1))
    np.testing.assert_array_equal(frames, kept)
    assert (broken.shape, broken.dtype) == (frames.shape, np.uint8)
    assert (broken[-1] != frames[-1]).mean() > 0.05


@pytest.mark.parametrize("name", ["grey patch", "textured patch", "hand"])
def test_what_covers_the_image_covers_a_tenth(name):
    for seed in range(5):
        frames = video()
        broken = FAULTS[name](frames, frames[0], np.random.default_rng(seed))
        covered = (broken != frames).any(axis=3).mean(axis=(1, 2))
        assert 0.08 < covered[-1] < 0.11
    assert name != "hand" or covered[0] < covered[-1]  # it comes in from the edge


def test_frozen_shows_the_frame_before():
    frames, before = video(), video()[0] // 2
    broken = FAULTS["frozen"](frames, before, np.random.default_rng(0))
    assert (broken == before).all()


def test_auroc_is_the_chance_to_be_higher():
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1.0
    assert auroc(np.array([1.0, 4.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(3.5 / 6)


def test_the_first_run_of_strange_frames_is_the_alarm():
    strange = np.array([[0, 9, 9, 0, 9, 9, 9.0], [0, 9, 0, 9, 0, 9, 0]])
    assert delays_of(strange, 5.0, 2).tolist() == [3, np.inf]
    assert delays_of(strange, 5.0, 1).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0.0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39)]
)
def test_poisson_interval_is_garwoods(count, low, high):
    np.testing.assert_allclose(poisson_interval(count), (low, high), rtol=1e-3, atol=1e-6)
