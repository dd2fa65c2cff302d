"""Scores of classifiers at all layers: accuracy with intervals, and paired differences.

Intervals are percentiles of a bootstrap over groups of examples (the clips of one video, or one
image), or over examples if all are of one group. All layers, and all results on the same examples,
use the same resamples, so that their differences are paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analyses.statistics import grouped_means, interval
from ..files import write_csv, write_json, written_aside
from ..plots import drawing

__all__ = [
    "LayerScores",
    "best_layer",
    "compare",
    "difference",
    "score_layers",
    "score_line",
    "write_scores",
]

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerScores:
    """Accuracy at each layer on the same test examples.

    Attributes:
        layers: numbers of the layers.
        correct: bool [l n], whether the class with the largest logit is right.
        correct_5: bool [l n], whether the right class is among the five largest logits.
        labels: int64 [n], the right class.
        groups: int64 [n]; examples of one group are resampled together.
    """

    layers: tuple[int, ...]
    correct: NDArray[np.bool_]
    correct_5: NDArray[np.bool_]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    @staticmethod
    def combine(scores: "Sequence[LayerScores]") -> "LayerScores":
        """Return the scores of several test sets together; an example may be in several."""
        return LayerScores(
            layers=scores[0].layers,
            correct=np.concatenate([one.correct for one in scores], axis=1),
            correct_5=np.concatenate([one.correct_5 for one in scores], axis=1),
            labels=np.concatenate([one.labels for one in scores]),
            groups=np.concatenate([one.groups for one in scores]),
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per layer, with 95 % intervals.

        A row has the top-1 accuracy, the top-5 accuracy, and the balanced accuracy: the mean over
        classes of the top-1 accuracy within a class.
        """
        rows: list[dict[str, Any]] = [{"layer": layer} for layer in self.layers]
        for name, means, replicates in (
            ("top1", self.correct.mean(1), _replicates(self.correct, self.groups)),
            ("top5", self.correct_5.mean(1), _replicates(self.correct_5, self.groups)),
            ("balanced", *self._balanced()),
        ):
            low, high = interval(replicates)
            for i, row in enumerate(rows):
                row |= {
                    name: float(means[i]),
                    f"{name}_low": float(low[i]),
                    f"{name}_high": float(high[i]),
                }
        return rows

    def _balanced(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the balanced accuracy of the layers [l], and its bootstrap replicates [r l].

        The resamples are those of `grouped_means`. In each, the classes that it contains count.
        """
        names, index = np.unique(_units(self.groups), return_inverse=True)
        shares = np.full(len(names), 1 / len(names))
        resampled = np.random.default_rng(0).multinomial(len(names), shares, RESAMPLES)
        drawn = np.concatenate([np.ones((1, len(names))), resampled])  # first each group once
        total, classes = np.zeros((len(drawn), len(self.layers))), np.zeros((len(drawn), 1))
        for label in np.unique(self.labels):
            members = self.labels == label
            weights = drawn[:, index[members]]
            sizes = weights.sum(1, keepdims=True)
            total += weights @ self.correct[:, members].T / np.maximum(sizes, 1)
            classes += sizes > 0
        found = total / classes
        return found[0], found[1:]


def score_layers(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    layers: Sequence[int],
) -> LayerScores:
    """Return the scores of logits [l n c] for labels [n].

    Of classes with equal logits, the class with the smaller number comes first.
    """
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :5]
    hits = order == labels[:, None]
    return LayerScores(
        layers=tuple(layers),
        correct=hits[..., 0],
        correct_5=hits.any(-1),
        labels=labels,
        groups=groups,
    )


def difference(
    one: NDArray[np.bool_], two: NDArray[np.bool_], groups: NDArray[np.int64]
) -> dict[str, float]:
    """Return the paired difference of the accuracy of two results [n], with its interval.

    Args:
        one: whether each example is right in the first result.
        two: the same for the second result, on the same examples.
        groups: int64 [n]; examples of one group are resampled together.
    """
    apart = one.astype(np.float64) - two.astype(np.float64)
    low, high = interval(_replicates(apart[None], groups))
    return {"difference": float(apart.mean()), "low": float(low[0]), "high": float(high[0])}


def compare(one: Path, two: Path) -> dict[str, float]:
    """Return the paired differences of two runs, each at its layer with the best top-1 accuracy.

    Args:
        one: folder of a run, with `correct.npz`.
        two: folder of a run on the same test examples.

    Returns:
        `difference`, `low` and `high`: top-1 accuracy of the first run minus that of the second,
        and its 95 % interval. `balanced`, `balanced_low` and `balanced_high`: the same for the
        balanced accuracy.

    Raises:
        ValueError: a folder has no results, or the runs have different test examples.
    """
    first, second = (_read_scores(out) for out in (one, two))
    for name in ("labels", "groups"):
        if not np.array_equal(getattr(first, name), getattr(second, name)):
            raise ValueError(f"{one} and {two} have other test examples: {name} differ")
    best = [int(scores.correct.mean(1).argmax()) for scores in (first, second)]
    found = difference(first.correct[best[0]], second.correct[best[1]], first.groups)
    (ours, our_draws), (theirs, their_draws) = first._balanced(), second._balanced()
    low, high = interval(our_draws[:, best[0]] - their_draws[:, best[1]])
    return found | {
        "balanced": float(ours[best[0]] - theirs[best[1]]),
        "balanced_low": float(low),
        "balanced_high": float(high),
    }


def best_layer(scores: LayerScores) -> tuple[int, NDArray[np.float64]]:
    """Return the layer with the highest top-1 accuracy, and how often each layer is the best.

    The second result is the share [l] of the bootstrap's resamples in which each layer is the best.
    Of equal layers, the first counts.
    """
    means = scores.correct.mean(1)
    winners = _replicates(scores.correct, scores.groups).argmax(1)
    shares = np.bincount(winners, minlength=len(scores.layers)) / len(winners)
    return scores.layers[int(means.argmax())], shares


def write_scores(out: Path, scores: LayerScores, notes: dict[str, object], title: str) -> str:
    """Write `results.json`, `layers.csv`, `layers.png` and `correct.npz` into ``out``.

    Returns the table as text, and the names of the files.

    `correct.npz` has the right and wrong answers of all layers, for paired comparisons.

    Args:
        out: the folder.
        scores: the scores.
        notes: what was measured: encoder, data, settings; plain data.
        title: title of the plot.
    """
    rows = scores.rows()
    best, shares = best_layer(scores)
    write_csv(out / "layers.csv", rows)
    with drawing(out / "layers.png", columns=1, width=6.0, height=4.0) as (_, (axes,)):
        x = list(scores.layers)
        axes.fill_between(x, *([row[f"top1_{end}"] for row in rows] for end in ("low", "high")),
                          alpha=0.2, linewidth=0)  # fmt: skip
        axes.plot(x, [row["top1"] for row in rows], marker="o", label="top-1, 95 % interval")
        axes.set(xlabel="layer (0: token embedding)", ylabel="accuracy", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    with written_aside(out / "correct.npz") as path, path.open("wb") as file:
        np.savez_compressed(
            file, correct=scores.correct, correct_5=scores.correct_5, labels=scores.labels,
            groups=scores.groups, layers=np.array(scores.layers),
        )  # fmt: skip
    result = {"best_layer": best, "best_share": shares.tolist(), "layers": rows, **notes}
    write_json(out / "results.json", result)
    lines = [f"{title}, {scores.correct.shape[1]} test examples; in brackets 95 % intervals"]
    heads = f"{'top-1':>22}  {'top-5':>22}  {'balanced accuracy':>22}"
    lines.append(f"{'layer':>8}  {heads}  best in resamples")
    for row, share in zip(rows, shares, strict=True):
        lines.append(f"{score_line(str(row['layer']), row)}  {share:.0%}")
    lines.append(f"results: {out / 'results.json'}, layers.csv, layers.png, correct.npz")
    return "\n".join(lines)


def _read_scores(out: Path) -> LayerScores:
    path = out / "correct.npz"
    if not path.is_file():
        raise ValueError(f"{out} has no results: {path.name} is missing")
    with np.load(path) as found:
        arrays = {name: found[name] for name in ("correct", "correct_5", "labels", "groups")}
        return LayerScores(layers=tuple(found["layers"].tolist()), **arrays)


def score_line(name: str, row: dict[str, Any]) -> str:
    """Return a text that begins with `name` and shows one row of `LayerScores.rows`."""
    texts = [
        f"{row[key]:.3f} ({row[f'{key}_low']:.3f} to {row[f'{key}_high']:.3f})"
        for key in ("top1", "top5", "balanced")
    ]
    return f"{name:>8}  {'  '.join(f'{text:>22}' for text in texts)}"


def _replicates(values: NDArray[Any], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return bootstrap replicates [r l] of the means of values [l n]."""
    columns = values.T.astype(np.float64)
    return grouped_means(columns, _units(groups), RESAMPLES, np.random.default_rng(0))


def _units(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what is resampled together: groups, or single examples if there is only one group.

    Resamples of one group would all be equal, so that an interval would have no width.
    """
    return groups if len(groups) and (groups != groups[0]).any() else np.arange(len(groups))
