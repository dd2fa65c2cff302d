"""J and F, against cases made by hand and against a slow version of their definitions."""

import numpy as np
import pytest

from toto_robot.recognition.segmentation_scores import (
    boundary_score,
    find_outline,
    region_score,
    score_frame,
    summarise,
)


def blob(seed, shape=(60, 90)):
    """A random region with a rough outline."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre, radius = rng.uniform(0.3, 0.7, 2) * shape, rng.uniform(8, 25)
    return np.hypot(y - centre[0], x - centre[1]) < radius + rng.uniform(-2, 2, shape)


def slow_outline(region):
    """The pixels that differ from a neighbour to the right, below or across, pixel by pixel."""
    height, width = region.shape
    found = np.zeros(region.shape, bool)
    for y in range(height):
        for x in range(width):
            for down, across in ((0, 1), (1, 0), (1, 1)):
                if y + down < height and x + across < width:
                    found[y, x] |= region[y, x] != region[y + down, x + across]
    return found


def slow_boundary_score(mask, truth):
    """F from the distances between all pixels of the two outlines."""
    one, two = (np.argwhere(slow_outline(region)) for region in (mask, truth))
    tolerance = np.ceil(0.008 * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))
    near = np.sqrt(((one[:, None] - two[None]) ** 2).sum(-1)) <= tolerance
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_the_boundary_score_equals_a_slow_version(seed):
    mask, truth = blob(seed), blob(seed + 100)
    fast = boundary_score(find_outline(mask), find_outline(truth))
    assert fast == pytest.approx(slow_boundary_score(mask, truth), abs=1e-12)
    mask = np.roll(mask, 40, axis=1)  # cut by the border of the image
    assert np.array_equal(find_outline(mask).pixels, slow_outline(mask))


def test_scores_of_cases_made_by_hand():
    truth = np.zeros((480, 854), np.uint8)
    truth[100:200, 100:200], truth[300:340, 300:340] = 1, 2
    shifted = np.roll(truth, 8, axis=1)  # 8 pixels: the tolerance of this image size
    far = np.roll(truth, 60, axis=1)
    scores = score_frame([truth, shifted, far], truth, objects=3)
    assert scores.shape == (3, 3, 2)
    assert np.array_equal(scores[0], np.ones((3, 2)))  # object 3 is absent from both
    assert scores[1, 0].tolist() == [92 / 108, 1.0]
    assert scores[1, 1].tolist() == [32 / 48, 1.0]
    assert scores[2, 1, 0] == 0
    assert scores[2, 0, 0] == 40 / 160
    assert 0 < scores[2, 0, 1] < 1


def test_empty_regions():
    empty, full = np.zeros((20, 20), bool), np.ones((20, 20), bool)
    region = empty.copy()
    region[5:9, 5:9] = True
    assert region_score(empty, empty) == 1
    assert region_score(region, empty) == 0
    outlines = [find_outline(one) for one in (empty, region, full)]
    assert boundary_score(outlines[0], outlines[0]) == 1
    assert boundary_score(outlines[0], outlines[1]) == boundary_score(outlines[1], outlines[0]) == 0
    assert boundary_score(outlines[2], outlines[0]) == 1  # the border of the image is no outline


def test_masks_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4\), but the true mask has \(4, 5\)"):
        score_frame([np.ones((4, 4), np.uint8)], np.ones((4, 5), np.uint8), objects=1)


def test_the_decay_compares_the_first_with_the_last_quarter():
    values = np.linspace(1, 0, 38)
    summary = summarise(values)
    assert summary.mean == pytest.approx(0.5)
    assert summary.recall == 0.5
    # as in davis2017-evaluation: the ends of the quarters are 0, 9, 19, 28 and 37
    assert summary.decay == pytest.approx(values[0:10].mean() - values[28:38].mean())
    long = np.r_[np.ones(150), np.zeros(150)]  # in davis2017-evaluation, 299 becomes 43
    assert summarise(long).decay == 1
