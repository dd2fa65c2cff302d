"""`python -m toto_robot.recognition.ego4d_sta`: score predictions of short-term anticipation.

The command reads an annotation file of Ego4D (`fho_sta_val.json`, version 1 or 2) and a file of
predictions in the format of the challenge. It prints the columns of the paper's Table 9: mean
average precision (top-5) of noun, noun and verb, noun and time to contact, and all together. The
first row follows the published rules, by which an image without predictions loses its annotated
objects; the second row corrects this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..analyses.statistics import interval
from ..cli import command
from ..data.ego4d_sta import (
    StaAnnotations,
    StaObjects,
    read_sta_annotations,
    read_sta_predictions,
)
from ..files import write_csv, write_json
from ..runs import claim
from .sta_scores import MEASURES, StaScores, score_sta

__all__ = ["Ego4dStaConfig", "ego4d_sta", "score_predictions"]

PAPER = (15.20, 6.75, 5.41, 2.70)  # Toto-large, Table 9, validation set of version 1
TITLES = ("noun", "noun+verb", "noun+TTC", "overall")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4dStaConfig:
    """Settings of the command `ego4d_sta`.

    Attributes:
        annotations: `fho_sta_val.json` or another annotation file of version 1 or 2.
        predictions: JSON file with the predictions, one list for each annotated image.
        top_k: for each annotated object, the k - 1 false positives with the highest scores in its
            image are left out. The official evaluation uses 5; 1 is the usual mean average
            precision.
        resamples: number of bootstrap resamples of the videos, for the intervals; 0 for none.
        seed: seed of the resamples.
    """

    annotations: Path
    predictions: Path
    top_k: int
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.top_k < 1 or self.resamples < 0:
            raise ValueError(
                f"top_k must be at least 1 and resamples at least 0, got {self.top_k} and "
                f"{self.resamples}"
            )


def ego4d_sta(config: Ego4dStaConfig, out: Path) -> dict[str, StaScores]:
    """Score the predictions; write `results.json` and `nouns.csv`.

    If annotated boxes have faults, `problems.csv` lists them.

    Returns:
        The scores by name: `published` and `corrected`.

    Raises:
        ValueError: a file is damaged or does not belong to the other; the message names the field.
    """
    annotations = read_sta_annotations(config.annotations)
    predictions = read_sta_predictions(config.predictions, annotations)
    claim(out, config)
    return score_predictions(
        config.annotations,
        annotations,
        predictions,
        out,
        top_k=config.top_k,
        resamples=config.resamples,
        seed=config.seed,
    )


def score_predictions(
    file: Path,
    annotations: StaAnnotations,
    predictions: Sequence[StaObjects],
    out: Path,
    *,
    top_k: int = 5,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, StaScores]:
    """Score predictions, write the files of `ego4d_sta`, and print the table.

    Args:
        file: the file of the annotations, for messages.
        annotations: the annotations.
        predictions: the predictions for each annotated image.
        out: folder of the results.
        top_k: the k of top-k, as in `score_sta`.
        resamples: number of resamples of the videos.
        seed: seed of the resamples.
    """
    truth = [image.objects for image in annotations.images]
    videos, groups = np.unique([image.video for image in annotations.images], return_inverse=True)
    empty = sum(not len(found) for found in predictions)
    print(
        f"{annotations.num_objects} annotated objects in {len(truth)} images of {len(videos)} "
        f"videos; {sum(map(len, predictions))} predictions, none in {empty} images",
        flush=True,
    )
    use = "scored, as in the official evaluation"
    report_boxes(out / "problems.csv", file, annotations, use)
    scores = {
        name: score_sta(
            truth,
            predictions,
            published=name == "published",
            top_k=top_k,
            groups=groups,
            resamples=resamples if len(videos) > 1 else 0,  # one video has no interval
            seed=seed,
        )
        for name in ("published", "corrected")
    }
    results = {name: _numbers(one) for name, one in scores.items()}
    facts = {"images": len(truth), "videos": len(videos), "images_without_predictions": empty}
    write_json(out / "results.json", {**results, **facts, "top_k": top_k})
    _write_nouns(out, annotations, scores["corrected"])
    print("\n".join(_table(results, top_k)))
    return scores


def _numbers(scores: StaScores) -> dict[str, object]:
    """Return the scores as plain data."""
    rows: dict[str, object] = {"nouns": len(scores.nouns), "objects": int(scores.counts.sum())}
    ends = interval(scores.replicates) if len(scores.replicates) else None
    for m, name in enumerate(MEASURES):
        rows[name] = float(scores.values[m])
        rows[f"{name}_interval"] = None if ends is None else ends[:, m].tolist()
    return rows


def _table(results: dict[str, dict[str, object]], top_k: int) -> list[str]:
    """Return the lines of the table, with the numbers of the paper in the last row."""
    lines = [f"mAP top-{top_k}, %".ljust(24) + "".join(title.rjust(22) for title in TITLES)]
    for name, row in results.items():
        cells = []
        for measure in MEASURES:
            ends = row[f"{measure}_interval"]
            text = "" if ends is None else " ({:.2f} to {:.2f})".format(*ends)  # pyrefly: ignore
            cells.append(f"{row[measure]:.2f}{text}".rjust(22))
        lines.append(name.ljust(24) + "".join(cells))
    paper = "".join(f"{value:.2f}".rjust(22) for value in PAPER)
    return [*lines, "Toto-large (paper)".ljust(24) + paper]


def _write_nouns(out: Path, annotations: StaAnnotations, scores: StaScores) -> None:
    rows = []
    for c, noun in enumerate(scores.nouns):
        precisions = zip(MEASURES, scores.precisions[:, c].tolist(), strict=True)
        name = annotations.nouns[int(noun)]
        rows.append({"name": name, "objects": int(scores.counts[c]), **dict(precisions)})
    write_csv(out / "nouns.csv", rows)


def report_boxes(path: Path, file: Path, annotations: StaAnnotations, use: str) -> None:
    """Write the faults of annotated boxes to the table ``path``, and print how many there are.

    Args:
        path: the table; not written if there are no faults.
        file: the file of the annotations.
        annotations: the annotations.
        use: what is done with these boxes, for the message.
    """
    if annotations.problems:
        rows = [
            {"file": file, "field": field, "problem": fault}
            for field, fault in annotations.problems
        ]
        write_csv(path, rows)
        field, fault = annotations.problems[0]
        print(
            f"{len(rows)} annotated boxes are empty or not inside the image, such as {file}: "
            f"{field}: {fault}; all are in {path}. They are {use}",
            flush=True,
        )


main = command("ego4d_sta", Ego4dStaConfig)(ego4d_sta)

if __name__ == "__main__":
    main()
