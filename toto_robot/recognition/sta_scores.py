"""The mean average precision of Ego4D's short-term anticipation, with the rules of its authors.

The rules are those of EGO4D/forecasting (`ego4d_forecasting/evaluation/sta_metrics.py`, 2023-08):

- Within an image, predictions are matched in the order of their score, each to the free annotated
  object with the largest overlap. Intersection over union must be greater than 0.5, with boxes that
  are one pixel larger than the difference of their corners. The noun must be equal. Depending on
  the measure, the verb must also be equal, and the times to contact may differ by at most 0.25 s.
- Top-5: of an image with n annotated objects, the 4 n false positives with the highest scores are
  left out, of all nouns together. The task has few annotated objects, and many plausible ones.
- Average precision of a noun is the area under the envelope of precision over recall, at all
  points. It is averaged over the nouns that have annotated objects.

As published, an image without predictions also loses its annotated objects, so that a method gains
by predicting nothing for difficult images. `published=False` corrects this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from ..data.ego4d_sta import StaObjects

__all__ = ["MEASURES", "StaScores", "box_overlaps", "score_sta"]

MEASURES = ("noun", "noun_verb", "noun_ttc", "overall")  # the columns of the paper's Table 9
MIN_OVERLAP = 0.5  # an overlap must be greater
MAX_TIME_ERROR = 0.25  # s, inclusive
EPSILON = 1e-11  # added to the area of the union by the authors
PART = 50  # resamples that are computed together


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StaScores:
    """Scores in percent.

    Attributes:
        values: mean average precision of each of the `MEASURES`.
        replicates: mean average precision of the `MEASURES` for each of r resamples of the groups.
        nouns: numbers of the c nouns that have annotated objects.
        counts: number of annotated objects of each noun.
        precisions: average precision of each measure and noun.
    """

    values: Float[ndarray, " 4"]
    replicates: Float[ndarray, "r 4"]
    nouns: Int[ndarray, " c"]
    counts: Int[ndarray, " c"]
    precisions: Float[ndarray, "4 c"]


def score_sta(
    truth: Sequence[StaObjects],
    predictions: Sequence[StaObjects],
    *,
    published: bool,
    top_k: int = 5,
    groups: Int[ndarray, " images"] | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> StaScores:
    """Compute the scores of predictions for images.

    Scores are sorted by a reversed stable sort, which determines the order of equal scores. The
    authors' sort is not stable, so their result with equal scores depends on the machine.

    Args:
        truth: annotated objects of each image.
        predictions: predictions for each image.
        published: True for the rules as published, False to keep the annotated objects of images
            without predictions.
        top_k: the k of top-k; 1 leaves no false positive out.
        groups: group of each image, such as its video; groups are resampled together.
        resamples: number of bootstrap resamples of the groups.
        seed: seed of the resamples.

    Raises:
        ValueError: the lengths of `truth` and `predictions` differ, no image counts, or
            `resamples` is positive without `groups`.
    """
    pairs = list(zip(truth, predictions, strict=True))
    counted = np.array([not published or len(found) > 0 for _, found in pairs], bool)
    if not any(len(real) for (real, _), keep in zip(pairs, counted, strict=True) if keep):
        raise ValueError("there is no annotated object to score")
    tables = [_match_image(real, found, top_k) for real, found in pairs]
    scores, nouns = (np.concatenate([table[i] for table in tables]) for i in (0, 1))
    hits, dropped = (np.concatenate([table[i] for table in tables], axis=1) for i in (2, 3))
    images = np.repeat(np.arange(len(pairs)), [len(found) for _, found in pairs])
    order = scores.argsort(kind="stable")[::-1]
    owners = np.repeat(np.arange(len(pairs)), [len(real) for real, _ in pairs])
    real_nouns = np.concatenate([real.nouns for real, _ in pairs])[counted[owners]]
    owners = owners[counted[owners]]

    classes = np.unique(real_nouns)
    weights = _weights(len(pairs), groups, resamples, seed)
    found_by_noun = [order[nouns[order] == noun] for noun in classes]
    owners_by_noun = [owners[real_nouns == noun] for noun in classes]
    parts = []
    for start in range(0, len(weights), PART):
        part = weights[start : start + PART]
        parts.append(np.full((4, len(classes), len(part)), np.nan))
        for c, (found, own) in enumerate(zip(found_by_noun, owners_by_noun, strict=True)):
            for m in range(len(MEASURES)):
                rows = found[~dropped[m, found]]
                parts[-1][m, c] = _average_precisions(
                    hits[m, rows], part[:, images[rows]], part[:, own].sum(axis=1)
                )
    precisions = 100 * np.concatenate(parts, axis=2)
    present = ~np.isnan(precisions)
    means = np.nansum(precisions, axis=1) / np.maximum(present.sum(axis=1), 1)
    return StaScores(
        values=means[:, 0],
        replicates=means[:, 1:].T,
        nouns=classes,
        counts=np.array([len(own) for own in owners_by_noun]),
        precisions=precisions[:, :, 0],
    )


def box_overlaps(
    boxes: Float[ndarray, "n 4"], others: Float[ndarray, "m 4"]
) -> Float[ndarray, "n m"]:
    """Return the intersection over union of boxes, in the authors' one-pixel convention."""
    first, second = boxes[:, None], others[None]
    corners = (
        np.maximum(first[..., :2], second[..., :2]),
        np.minimum(first[..., 2:], second[..., 2:]),
    )
    common = _area(np.concatenate(corners, axis=-1))
    return common / (_area(first) + _area(second) - common + EPSILON)


def _area(boxes: Float[ndarray, "*n 4"]) -> Float[ndarray, "*n"]:
    return np.maximum(boxes[..., 2:] - boxes[..., :2] + 1, 0).prod(axis=-1)


def _match_image(
    truth: StaObjects, found: StaObjects, top_k: int
) -> tuple[Float[ndarray, " n"], Int[ndarray, " n"], Bool[ndarray, "4 n"], Bool[ndarray, "4 n"]]:
    """Return scores and nouns of the n predictions, and which are hits, and which are dropped.

    Predictions are in the order of falling scores.
    """
    order = found.scores.argsort(kind="stable")[::-1]
    overlaps = box_overlaps(found.boxes[order], truth.boxes)  # n real
    nouns = (overlaps > MIN_OVERLAP) & (found.nouns[order][:, None] == truth.nouns)
    verbs = found.verbs[order][:, None] == truth.verbs
    times = np.abs(found.times[order][:, None] - truth.times) <= MAX_TIME_ERROR
    allowed = np.stack([nouns, nouns & verbs, nouns & times, nouns & verbs & times])  # 4 n real
    hits = np.zeros(allowed.shape[:2], bool)
    free = np.ones((len(MEASURES), len(truth)), bool)
    for measure, i in np.argwhere(allowed.any(axis=2)):
        candidates = allowed[measure, i] & free[measure]
        if candidates.any():
            hits[measure, i] = True
            free[measure, np.where(candidates, overlaps[i], -1).argmax()] = False
    misses = ~hits
    dropped = misses & (misses.cumsum(axis=1) <= (top_k - 1) * len(truth))
    return found.scores[order], found.nouns[order], hits, dropped


def _weights(
    images: int, groups: Int[ndarray, " images"] | None, resamples: int, seed: int
) -> Int[ndarray, "r images"]:
    """Return how often each image counts: once in the first row, then as in the resamples."""
    once = np.ones((1, images), np.int64)
    if not resamples:
        return once
    if groups is None:
        raise ValueError("resamples need groups of images")
    names, members = np.unique(groups, return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), share, resamples)
    return np.concatenate([once, drawn[:, members]])


def _average_precisions(
    hits: Bool[ndarray, " n"], weights: Int[ndarray, "r n"], truth: Int[ndarray, " r"]
) -> Float[ndarray, " r"]:
    """Return the average precision for each row of weights; NaN without annotated objects.

    A prediction with weight w counts as w predictions with the same score. These have the same
    envelope of precision, so the area is exact.
    """
    total = weights.cumsum(axis=1)[:, hits]  # between two hits, precision only falls
    right = weights[:, hits]
    precision = right.cumsum(axis=1) / np.maximum(total, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.where(truth > 0, (envelope * right).sum(axis=1) / np.maximum(truth, 1), np.nan)
