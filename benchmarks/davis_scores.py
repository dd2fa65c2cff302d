"""Compare J and F of `toto-robot davis` with a slow version of their definitions, on real masks.

    python -m benchmarks.davis_scores data/DAVIS FOLDER [year]

FOLDER has one subfolder of predicted masks per sequence, such as the masks of OSVOS that are
published with davis2017-evaluation. The slow version shares no code with ours, except the reading
of the lists: it decodes the files with PIL, and computes all distances between the pixels of two
outlines. Mean, recall and decay of J and F are printed with six digits for each sequence. The exit
code is 1 if a number differs by more than 1e-9.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toto_robot.recognition.davis_sequences import list_sequences
from toto_robot.recognition.masks import read_mask
from toto_robot.recognition.segmentation_scores import score_frame, summarise

LIMIT = 1e-9


def main() -> None:
    """Print the scores of all sequences that both folders have, and the largest difference."""
    data, predicted, *rest = sys.argv[1:]
    worst, found = 0.0, 0
    names = " J mean    recall     decay    F mean    recall     decay"
    print(f"{'sequence':<20}{names}    largest difference")
    for sequence in list_sequences(Path(data), int(rest[0]) if rest else 2016, "480p", None):
        folder = Path(predicted) / sequence.name
        if not folder.is_dir():
            continue
        fast, slow = [], []
        for path in sequence.masks[1 : len(sequence.frames) - 1]:
            file = folder / path.name
            fast.append(score_frame([read_mask(file)], read_mask(path), objects=1)[0, 0])
            slow.append(_slow_scores(_decode(file), _decode(path)))
        ours = [_numbers(summarise(np.array(fast)[:, k])) for k in (0, 1)]
        other = [_slow_summary(np.array(slow)[:, k]) for k in (0, 1)]
        apart = max(
            np.abs(np.array(fast) - np.array(slow)).max(),
            np.abs(np.array(ours) - np.array(other)).max(),
        )
        texts = "".join(f"{value:10.6f}" for value in np.ravel(ours))
        print(f"{sequence.name:<19}{texts}    {apart:.0e}", flush=True)
        worst, found = max(worst, float(apart)), found + 1
    print(f"{found} sequences, largest difference {worst:.0e}")
    if not found or worst > LIMIT:
        sys.exit(f"FAIL: no sequence, or a difference above {LIMIT}")


def _decode(path: Path) -> NDArray[np.bool_]:
    """Return where a mask file has an object; 255 is an object only in a grey image."""
    image = Image.open(path)
    values = np.array(image)
    return values > 0 if image.mode == "L" else (values > 0) & (values < 255)


def _slow_scores(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Return J and F of one object in a frame."""
    inside, either = int((mask * truth).sum()), int(((mask + truth) > 0).sum())
    one, two = _outline(mask), _outline(truth)
    if not len(one) or not len(two):
        return inside / either if either else 1.0, float(len(one) == len(two))
    squares = ((one[:, None] - two[None]) ** 2).sum(-1)  # of the distances of all pairs
    reach = np.ceil(0.008 * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)) ** 2
    precision, recall = (squares.min(axis) <= reach for axis in (1, 0))
    p, r = precision.mean(), recall.mean()
    return inside / either if either else 1.0, 2 * p * r / (p + r) if p + r else 0.0


def _outline(region: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the pixels [p 2] that differ from their right, lower or lower right neighbour."""
    height, width = region.shape
    pixels = set()
    for y, x in ((0, 1), (1, 0), (1, 1)):
        differs = region[: height - y, : width - x] != region[y:, x:]
        pixels |= set(map(tuple, np.argwhere(differs).tolist()))
    return np.array(sorted(pixels), np.int64).reshape(-1, 2)


def _slow_summary(values: NDArray[np.float64]) -> list[float]:
    """Return mean, recall and decay; the quarters share their first and last frames."""
    last = len(values) - 1
    ends = [int(last * part / 4 + 0.5 + 1e-10) for part in range(5)]
    quarters = [values[a : b + 1] for a, b in pairwise(ends)]
    recall = sum(value > 0.5 for value in values) / len(values)
    return [float(values.mean()), float(recall), float(quarters[0].mean() - quarters[3].mean())]


def _numbers(summary: object) -> list[float]:
    return [getattr(summary, name) for name in ("mean", "recall", "decay")]


if __name__ == "__main__":
    main()
