"""Average the tracking scores over the objects of all sequences, and write the results.

J (the overlap of regions), F (the agreement of outlines), recall and decay are means over the
objects, as in DAVIS. J&F is the mean of J and F. Intervals are percentiles of a bootstrap over the
sequences.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analyses.statistics import grouped_means, interval
from ..files import write_csv, write_json
from ..plots import drawing
from .segmentation_scores import summarise

__all__ = ["TrackingScores", "write_tracking"]

RESAMPLES = 2000
KEPT = "first mask kept"  # name of the control without features
MEASURES = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay")
PAPER = (  # Table 10
    ("DINO-base (224/8)", 54.3, 52.5, 56.1),
    ("DINO-base (224/16)", 33.1, 36.2, 30.1),
    ("MAE-base (224/16)", 31.5, 34.1, 28.9),
    ("Toto-base (256/8)", 42.0, 41.2, 43.1),
    ("Toto-large (256/8)", 44.8, 44.4, 45.1),
    ("Toto-1b (256/8)", 46.1, 45.8, 46.4),
    ("Toto-large (512/8)", 62.4, 59.2, 65.6),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrackingScores:
    """The scores of l layers in s sequences.

    Attributes:
        names: names of the sequences, [s].
        layers: numbers of the layers, [l].
        scores: J and F of each sequence, float64 [t-2 l+1 o 2], for t frames and o objects; the
            last of the l + 1 rows has the scores of the first mask, kept in all frames.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    scores: tuple[NDArray[np.float64], ...]

    @property
    def best_layer(self) -> int:
        """The layer with the largest J&F."""
        rows = self.rows()
        return self.layers[int(np.argmax([row["J&F"] for row in rows[:-1]]))]

    def objects(self) -> list[dict[str, Any]]:
        """Return one row per layer and object, with mean, recall and decay of J and F.

        The layer of the first mask is `KEPT`.
        """
        rows = []
        for index, layer in enumerate((*self.layers, KEPT)):
            for name, scores in zip(self.names, self.scores, strict=True):
                for k in range(scores.shape[2]):
                    row = {"layer": layer, "sequence": name, "object": k + 1, "frames": len(scores)}
                    for letter, values in zip("JF", scores[:, index, k].T, strict=True):
                        summary = summarise(values)
                        row |= {
                            f"{letter}_mean": summary.mean,
                            f"{letter}_recall": summary.recall,
                            f"{letter}_decay": summary.decay,
                        }
                    rows.append(row)
        return rows

    def both(self, layer: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return J&F of each object at a layer, and the numbers of the sequences, both [o]."""
        index = self.layers.index(layer)
        means = [one[:, index].mean((0, 2)) for one in self.scores]
        return np.concatenate(means), self._groups()

    def _groups(self) -> NDArray[np.int64]:
        """Return the number of the sequence of each object."""
        return np.repeat(np.arange(len(self.names)), [one.shape[2] for one in self.scores])

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per layer, and a last row for the first mask, kept in all frames.

        `gain` is the paired difference of J&F to that last row.
        """
        groups = self._groups()
        table = np.array([[row[name] for name in MEASURES] for row in self.objects()])
        table = table.reshape(len(self.layers) + 1, len(groups), len(MEASURES))
        both = table[:, :, [0, 3]].mean(2)  # J&F of each object
        rows = []
        for layer, values, means in zip((*self.layers, KEPT), table, both, strict=True):
            row: dict[str, Any] = {"layer": layer}
            for name, one in (("J&F", means), ("gain", means - both[-1])):
                resampled = grouped_means(one, groups, RESAMPLES, np.random.default_rng(0))
                low, high = interval(resampled)
                row |= {name: float(one.mean()), f"{name}_low": float(low)}
                row[f"{name}_high"] = float(high)
            rows.append(row | dict(zip(MEASURES, values.mean(0).tolist(), strict=True)))
        return rows


def write_tracking(out: Path, tracking: TrackingScores, title: str, config: object) -> str:
    """Write `results.json`, `sequences.csv` and `layers.png` into `out`.

    Returns the table as text, beside the rows of the paper, and the names of the files.

    Args:
        out: the folder.
        tracking: the scores.
        title: name, image size and patch size of the encoder.
        config: settings of the run, as plain data.
    """
    rows, best = tracking.rows(), tracking.best_layer
    write_csv(out / "sequences.csv", tracking.objects())
    result = {"title": title, "best_layer": best, "sequences": list(tracking.names)}
    write_json(out / "results.json", {**result, "layers": rows, "config": config})
    if len(tracking.layers) > 1:
        _draw(out / "layers.png", rows, title)
    number = len(tracking.names)
    lines = [f"{title}, {number} sequences; in brackets 95 % intervals over the sequences"]
    head = f"{'layer':>15}  {'J&F':>19}  {'above first mask':>20}  "
    lines.append(head + "J mean recall  decay  F mean recall  decay")
    for row in rows:
        texts = [
            "{:5.1f} ({:{width}.1f} to {:{width}.1f})".format(
                *(100 * row[f"{name}{end}"] for end in ("", "_low", "_high")), width=width
            )
            for name, width in (("J&F", 4), ("gain", 5))
        ]
        numbers = "  ".join(f"{100 * row[name]:5.1f}" for name in MEASURES)
        lines.append(f"{row['layer']:>15}  {texts[0]:>19}  {texts[1]:>20}  {numbers}")
    peak = next(row for row in rows if row["layer"] == best)
    lines.append(f"as in Table 10 of the paper; its rows are for other data ({number} here):")
    ours = (f"{title}", *(100 * peak[name] for name in ("J&F", "J_mean", "F_mean")))
    for name, *values in (("Method (Res/Patch)", "J&F", "J", "F"), ours, *PAPER):
        texts = [one if isinstance(one, str) else f"{one:.1f}" for one in values]
        lines.append(f"  {name:<30}" + "".join(f"{text:>7}" for text in texts))
    videos = ", videos" * (out / "videos").is_dir()
    lines.append(f"results: {out / 'results.json'}, sequences.csv, masks{videos}")
    return "\n".join(lines)


def _draw(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    layers, kept = rows[:-1], rows[-1]
    x = [row["layer"] for row in layers]
    with drawing(path, columns=1, width=6.0, height=4.0) as (_, (axes,)):
        ends = ([100 * row[f"J&F_{end}"] for row in layers] for end in ("low", "high"))
        axes.fill_between(x, *ends, alpha=0.2, linewidth=0)
        values = [100 * row["J&F"] for row in layers]
        axes.plot(x, values, marker="o", label="J&F, 95 % interval over the sequences")
        axes.axhline(100 * kept["J&F"], color="grey", linestyle="--", label="first mask kept")
        axes.set(xlabel="layer (0: token embedding)", ylabel="J&F (%)", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
