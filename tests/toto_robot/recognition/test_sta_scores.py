"""Ego4D's mean average precision: hand-made cases, and a slow version that follows the rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toto_robot.data.ego4d_sta import StaObjects
from toto_robot.recognition.sta_scores import box_overlaps, score_sta

BOX, FAR = [0, 0, 9, 9], [50, 50, 59, 59]


def objects(*rows):
    """Objects from rows of box, noun, verb, time and, for predictions, score."""
    columns = list(zip(*[(*row, 1.0)[:5] for row in rows], strict=True)) or [[]] * 5
    boxes, nouns, verbs, times, scores = (np.array(column, float) for column in columns)
    return StaObjects(
        boxes=boxes.reshape(-1, 4), nouns=nouns.astype(int), verbs=verbs.astype(int),
        times=times, scores=scores,
    )  # fmt: skip


def values(truth, predictions, published=True, **settings):
    return score_sta(truth, predictions, published=published, **settings).values.tolist()


def test_boxes_are_one_pixel_larger_than_the_difference_of_their_corners():
    (overlap,) = box_overlaps(np.array([[0.0, 0, 1, 4]]), np.array([[0.0, 2, 1, 6]])).ravel()
    assert overlap == pytest.approx(6 / 14)  # 2 x 3 pixels of 2 x 5 + 2 x 5 - 2 x 3
    (overlap,) = box_overlaps(np.array([[0.0, 0, 4, 10]]), np.array([[2.0, 0, 6, 10]])).ravel()
    assert overlap == pytest.approx(3 / 7)  # 20 / 60 = 0.333 without the pixel
    (overlap,) = box_overlaps(np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10]])).ravel()
    assert overlap == pytest.approx(0.375)  # 50 / 150 = 0.333 without the pixel


@pytest.mark.parametrize(("right", "score"), [(5, 0), (6, 100)])
def test_an_overlap_of_exactly_one_half_is_not_enough(right, score):
    wide = [0, 0, 11, 9]  # 12 pixels; 6 of them are exactly half
    found = objects(([0, 0, right, 9], 1, 1, 0.5, 0.9))
    assert values([objects((wide, 1, 1, 0.5))], [found]) == [score] * 4


@pytest.mark.parametrize(
    ("noun", "verb", "time", "expected"),
    [
        (1, 1, 0.75, [100, 100, 100, 100]),  # an error of 0.25 s is allowed
        (1, 1, 0.7501, [100, 100, 0, 0]),
        (1, 2, 0.5, [100, 0, 100, 0]),
        (2, 1, 0.5, [0, 0, 0, 0]),
    ],
)
def test_each_measure_has_its_conditions(noun, verb, time, expected):
    assert values([objects((BOX, 1, 1, 0.5))], [objects((BOX, noun, verb, time, 0.9))]) == expected


def test_one_hit_behind_four_false_positives_is_first_with_top_5():
    misses = [(FAR, noun, 1, 0.5, 0.9 - noun / 100) for noun in (1, 2, 1, 2)]
    found = objects(*misses, (BOX, 1, 1, 0.5, 0.1))
    truth = [objects((BOX, 1, 1, 0.5))]
    assert values(truth, [found]) == [100] * 4
    only_noun_1 = objects(*[(FAR, 1, 1, 0.5, 0.9)] * 4, (BOX, 1, 1, 0.5, 0.1))
    assert values(truth, [only_noun_1]) == [100] * 4
    assert values(truth, [only_noun_1], top_k=1) == pytest.approx([20] * 4)
    assert values(truth, [objects(*[(FAR, 1, 1, 0.5, 0.9)] * 5, (BOX, 1, 1, 0.5, 0.1))]) == [50] * 4


def test_an_image_without_predictions_loses_its_truth_only_as_published():
    truth = [objects((BOX, 1, 1, 0.5))] * 2
    found = [objects((BOX, 1, 1, 0.5, 0.9)), objects()]
    assert values(truth, found) == [100] * 4
    assert values(truth, found, published=False) == [50] * 4


def test_an_object_is_found_once_and_by_the_best_overlap():
    near = [1, 0, 10, 9]
    truth = [objects((BOX, 1, 1, 0.5), (near, 1, 2, 0.5))]
    found = [objects((near, 1, 2, 0.5, 0.9), (near, 1, 2, 0.5, 0.8))]
    assert values(truth, found, top_k=1) == [100, 50, 100, 50]


def test_only_nouns_with_annotated_objects_count():
    truth = [objects((BOX, 1, 1, 0.5), (FAR, 2, 1, 0.5))]
    found = [objects((BOX, 1, 1, 0.5, 0.9), (BOX, 7, 1, 0.5, 0.8))]
    assert values(truth, found, top_k=1) == [50] * 4


def slow(truth, predictions, published, top_k):
    """The rules, one at a time, with lists."""
    results = []
    for use_verb, use_time in ((0, 0), (1, 0), (0, 1), (1, 1)):
        real_nouns, found = [], []  # found: score, noun, hit
        for real, guess in zip(truth, predictions, strict=True):
            if published and not len(guess):
                continue
            real_nouns += real.nouns.tolist()
            ranking = sorted(range(len(guess)), key=lambda i, s=guess.scores: (-s[i], -i))
            taken, misses = set(), 0
            for i in ranking:
                best, best_overlap = None, 0.5
                for j in range(len(real)):
                    a, b = guess.boxes[i], real.boxes[j]
                    common = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0)
                    common *= max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0)
                    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
                    overlap = common / (sum(areas) - common + 1e-11)
                    same = guess.nouns[i] == real.nouns[j]
                    same &= not use_verb or guess.verbs[i] == real.verbs[j]
                    same &= not use_time or abs(guess.times[i] - real.times[j]) <= 0.25
                    if same and j not in taken and overlap > best_overlap:
                        best, best_overlap = j, overlap
                misses += best is None
                if best is not None:
                    taken.add(best)
                if best is not None or misses > (top_k - 1) * len(real):
                    found.append((guess.scores[i], len(found), guess.nouns[i], best is not None))
        found.sort(key=lambda row: row[:2], reverse=True)
        precisions = []
        for noun in sorted(set(real_nouns)):
            hits = [row[3] for row in found if row[2] == noun]
            curve = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
            area = sum(max(curve[n:]) for n, hit in enumerate(hits) if hit)
            precisions.append(100 * area / real_nouns.count(noun))
        results.append(sum(precisions) / len(precisions))
    return results


def some_objects(rng, truth, most):
    """Predictions near the annotated objects, some with another class or time, and equal scores."""
    rows = []
    for _ in range(rng.integers(0, most + 1)):
        i = rng.integers(len(truth))
        noun, verb = (
            classes[i] if rng.random() < 0.7 else rng.integers(3)
            for classes in (truth.nouns, truth.verbs)
        )
        time = max(0, truth.times[i] + rng.integers(-3, 4) / 8)
        box = truth.boxes[i] + rng.integers(-4, 5, 4)
        rows.append((box, noun, verb, time, rng.integers(1, 9) / 8))
    return objects(*rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([1, 2, 5]))
def test_the_scores_equal_those_of_the_slow_version(seed, published, top_k):
    rng = np.random.default_rng(seed)
    truth = []
    for _ in range(rng.integers(1, 5)):
        corners = rng.integers(0, 20, (rng.integers(1, 4), 2))
        sides = rng.integers(8, 14, corners.shape)
        truth.append(
            objects(*[
                ([*c, *(c + s)], rng.integers(3), rng.integers(3), rng.integers(0, 9) / 8)
                for c, s in zip(corners, sides, strict=True)
            ])
        )  # fmt: skip
    found = [some_objects(rng, real, 8) for real in truth]
    if not any(map(len, found)):
        return
    expected = slow(truth, found, published, top_k)
    assert values(truth, found, published, top_k=top_k) == pytest.approx(expected)


def test_a_resample_counts_an_image_as_often_as_it_is_drawn():
    rng = np.random.default_rng(3)
    truth = [objects((BOX, i % 2, 1, 0.5), (FAR, 1, 1, 0.5)) for i in range(4)]
    found = [some_objects(rng, real, 9) for real in truth]
    scored = score_sta(truth, found, published=False, groups=np.arange(4), resamples=20, seed=5)
    drawn = np.random.default_rng(5).multinomial(4, [0.25] * 4, 20)
    for row, counts in zip(scored.replicates, drawn, strict=True):
        images = np.repeat(np.arange(4), counts)
        assert row.tolist() == pytest.approx(
            values([truth[i] for i in images], [found[i] for i in images], False)
        )


def test_there_must_be_something_to_score():
    with pytest.raises(ValueError, match="no annotated object"):
        values([objects((BOX, 1, 1, 0.5))], [objects()])
    with pytest.raises(ValueError, match="need groups"):
        values([objects((BOX, 1, 1, 0.5))], [objects((BOX, 1, 1, 0.5))], resamples=3)
