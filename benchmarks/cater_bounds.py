"""Measure how well the object of CATER can be found from the state, and from its golden pixels.

    python -m benchmarks.cater_bounds FOLDER

FOLDER has videos of `python -m envs.cater_videos`. The cell of the snitch at the end is predicted
in three ways: from its last position that no cone covers (state), and from the centre of the golden
pixels in the last frame, or in the last frame that has any. A polynomial of the third degree, which
is fitted to the training videos, converts places in the image to places on the table. Each share of
right cells has a 95 % interval (Wilson).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.cater_actions import cell_of
from envs.success_rates import wilson_interval
from toto_robot.data.video import read_frames

LEAST_PIXELS = 4  # golden pixels of a visible snitch
EDGE = 2.99  # largest absolute coordinate inside of the table


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """What is known of a video of t frames.

    Attributes:
        cell: the cell of the snitch at the end.
        path: [t 3] positions of the snitch on the table.
        covered: [t], whether a cone covers it.
        centres: [t 2] row and column of the centre of the golden pixels; nan if there are few.
    """

    cell: int
    path: NDArray[np.float64]
    covered: NDArray[np.bool_]
    centres: NDArray[np.float64]


def main() -> None:
    """Print the shares of right cells, for test videos with a hidden and with a visible snitch."""
    root = Path(sys.argv[1])
    train, test, hidden = (_names(root, part) for part in ("train", "val", "hidden"))
    videos = [_read(root, name) for name in train]
    at, flat = (
        np.concatenate([getattr(one, key) for one in videos]) for key in ("centres", "path")
    )
    fits = ~np.isnan(at[:, 0]) & (np.abs(flat[:, 2]) < 1e-6)  # on the table, not carried
    weights = np.linalg.lstsq(_powers(at[fits]), flat[fits, :2], rcond=None)[0]
    for title, names in (("hidden", hidden), ("not hidden", [n for n in test if n not in hidden])):
        right = np.array([_right(_read(root, name), weights) for name in names])
        ways = ("state, last uncovered", "golden pixels, last frame", "golden pixels, last seen")
        for way, hits in zip(ways, right.T, strict=True):
            low, high = wilson_interval(int(hits.sum()), len(hits))
            print(
                f"{title:<11}{way:<27}{hits.sum():>4} of {len(hits)}: "
                f"{hits.mean():.1%} ({low:.1%} to {high:.1%})"
            )


def _names(root: Path, part: str) -> list[str]:
    lines = (root / "lists/localize" / f"{part}.txt").read_text().splitlines()
    return [line.split()[0] for line in lines]


def _read(root: Path, name: str) -> Seen:
    scene = json.loads((root / "scenes" / name).with_suffix(".json").read_text())
    frames = read_frames(root / "videos" / name)
    red, green, blue = np.moveaxis(frames, -1, 0)
    golden = (red > 190) & (green > 130) & (blue < 100)
    total = len(scene["snitch_path"])
    times = np.arange(1, len(frames) + 1) * total // len(frames) - 1
    centres = [
        np.argwhere(one).mean(0) if one.sum() >= LEAST_PIXELS else np.full(2, np.nan)
        for one in golden
    ]
    return Seen(
        cell=scene["cell"],
        path=np.array(scene["snitch_path"])[times],
        covered=np.isin(times, scene["snitch_covered"]),
        centres=np.array(centres),
    )


def _powers(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    y, x = centres.T / 64
    return np.stack([y**i * x**j for i in range(4) for j in range(4 - i)], axis=1)


def _right(video: Seen, weights: NDArray[np.floating]) -> tuple[bool, bool, bool]:
    """Return whether each of the three predictions is right."""
    open_at = np.flatnonzero(~video.covered)
    seen = np.flatnonzero(~np.isnan(video.centres[:, 0]))
    places = np.clip(_powers(video.centres) @ weights, -EDGE, EDGE)
    last = len(places) - 1
    return (
        len(open_at) > 0 and cell_of(video.path[open_at[-1]]) == video.cell,
        last in seen and cell_of(places[last]) == video.cell,
        len(seen) > 0 and cell_of(places[seen[-1]]) == video.cell,
    )


if __name__ == "__main__":
    main()
