"""Compare the scores of short-term anticipation with those of the authors' code.

    python -m benchmarks.ego4d_scores forecasting/ego4d_forecasting/evaluation/sta_metrics.py 600

The first argument is a file of https://github.com/EGO4D/forecasting, which needs only NumPy. The
second is the number of random sets of annotations and predictions. No two predictions of a set have
equal scores, because the authors' sort does not determine their order.
"""

import importlib.util
import sys
import time
from typing import Any

import numpy as np

from toto_robot.data.ego4d_sta import StaObjects
from toto_robot.recognition.sta_scores import score_sta

CLASSES = (6, 3)  # number of nouns and verbs


def main() -> None:
    """Compare random sets, and print the largest difference and the times of both."""
    spec = importlib.util.spec_from_file_location("sta_metrics", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    authors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(authors)
    differences, ours_s, theirs_s = [], 0.0, 0.0
    for seed in range(int(sys.argv[2])):
        rng = np.random.default_rng(seed)
        truth = [_annotations(rng) for _ in range(rng.integers(1, 12))]
        found = [_predictions(rng, real) for real in truth]
        if not any(map(len, found)):
            continue
        for top_k in (1, 3, 5):
            start = time.perf_counter()
            metric = authors.STAMeanAveragePrecision(top_k=top_k)
            for real, guess in zip(truth, found, strict=True):
                metric.add(_as_dict(guess) if len(guess) else {}, _as_dict(real))
            theirs = metric.evaluate()
            middle = time.perf_counter()
            ours = score_sta(truth, found, published=True, top_k=top_k).values
            theirs_s, ours_s = theirs_s + middle - start, ours_s + time.perf_counter() - middle
            differences.append(np.abs(ours - np.array(theirs)).max())
    print(
        f"{len(differences)} comparisons; largest difference {max(differences):.1e} percent; "
        f"time of the authors' code {theirs_s:.2f} s, of ours {ours_s:.2f} s"
    )


def _annotations(rng: np.random.Generator) -> StaObjects:
    corners = rng.integers(0, 60, (rng.integers(1, 4), 2))
    n = len(corners)
    return StaObjects(
        boxes=np.concatenate([corners, corners + rng.integers(8, 30, (n, 2))], axis=1).astype(
            float
        ),
        nouns=rng.integers(0, CLASSES[0], n),
        verbs=rng.integers(0, CLASSES[1], n),
        times=rng.integers(0, 16, n) / 8,
        scores=np.ones(n),
    )


def _predictions(rng: np.random.Generator, truth: StaObjects) -> StaObjects:
    """Return up to 39 predictions near annotated objects; 30 % have another noun or verb."""
    near = rng.integers(0, len(truth), rng.integers(0, 40))
    n = len(near)
    nouns, verbs = (
        np.where(rng.random(n) < 0.7, right[near], rng.integers(0, classes, n))
        for right, classes in zip((truth.nouns, truth.verbs), CLASSES, strict=True)
    )
    return StaObjects(
        boxes=truth.boxes[near] + rng.integers(-6, 7, (n, 4)),
        nouns=nouns,
        verbs=verbs,
        times=np.maximum(truth.times[near] + rng.integers(-3, 4, n) / 8, 0),
        scores=rng.random(n),
    )


def _as_dict(objects: StaObjects) -> dict[str, Any]:
    names = {"boxes": "boxes", "nouns": "nouns", "verbs": "verbs", "ttcs": "times"}
    return {key: getattr(objects, name) for key, name in (names | {"scores": "scores"}).items()}


if __name__ == "__main__":
    main()
