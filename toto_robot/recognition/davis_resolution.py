"""`python -m toto_robot.recognition.davis_resolution data=FOLDER`: track at several image sizes.

The paper concludes from Table 10 that tracking improves with the resolution. This command runs
`davis` once for each image size, with the same layer. The layer is the best one at the first size,
which is the cheapest if the sizes rise. The differences of J&F between sizes are paired over the
objects, and their 95 % intervals are from a bootstrap over the sequences.

    results.json             J&F at each size, the differences and the verdict
    resolution.png           J&F against the image size
    size-<pixels>/           the results of `davis` at this size
"""

from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analyses.statistics import grouped_means, interval
from ..cli import command
from ..config import to_dict
from ..files import write_json
from ..plots import drawing
from ..runs import claim
from .davis import DavisConfig, TrackingConfig, davis
from .davis_report import RESAMPLES, TrackingScores

__all__ = ["DavisResolutionConfig", "compare_sizes", "davis_resolution"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DavisResolutionConfig(TrackingConfig):
    """Settings of the command `davis_resolution`.

    Attributes:
        image_sizes: sides of the squares to which frames are resized, pixels, in ascending order.
            `rope_base` is used at all sizes except the first.
    """

    image_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the settings, and that there are at least two sizes in ascending order."""
        TrackingConfig.__post_init__(self)
        sizes = self.image_sizes
        if len(sizes) < 2 or list(sizes) != sorted(set(sizes)):
            raise ValueError(
                f"image_sizes must be two or more different sizes in ascending order, got {sizes}"
            )

    def at(self, number: int, best: int | None) -> DavisConfig:
        """Return the settings of `davis` at a size.

        Args:
            number: number of the size in `image_sizes`.
            best: the layer; None: all layers that the settings name.
        """
        same = {field.name: getattr(self, field.name) for field in fields(TrackingConfig)}
        if number == 0:
            same["rope_base"] = None
        if best is not None and self.encoder_layers() is None:
            same["layers"] = (best,)
        return DavisConfig(**same, image_size=self.image_sizes[number])


def davis_resolution(config: DavisResolutionConfig, out: Path) -> dict[str, Any]:
    """Track at all sizes, and write and return the differences of J&F and the verdict.

    An interrupted run resumes with the first unfinished sequence.

    Raises:
        ValueError: as in `davis`.
    """
    claim(out, config)
    runs: list[TrackingScores] = []
    best: int | None = None
    for number, size in enumerate(config.image_sizes):
        print(f"image size {size}: {number + 1} of {len(config.image_sizes)}", flush=True)
        runs.append(davis(config.at(number, best), out / f"size-{size}"))
        best = runs[0].best_layer
    found = compare_sizes(config.image_sizes, runs)
    write_json(out / "results.json", {**found, "config": to_dict(config)})
    _draw(out / "resolution.png", runs, config.image_sizes, found)
    number = len(runs[0].names)
    print(f"layer {found['layer']}, {number} sequences; in brackets 95 % intervals over them")
    for row in found["sizes"]:
        print(f"  {row['image_size']} pixels: J&F {_percent(row, 'J&F')}")
    for row in found["differences"]:
        change = f"from {row['from']} to {row['to']} pixels"
        print(f"  {change}: {_percent(row, 'difference')}, higher in {row['higher']} of {number}")
    print(f"tracking improves with the image size: {found['verdict']}")
    print(f"results: {out / 'results.json'}, resolution.png")
    return found


def compare_sizes(sizes: tuple[int, ...], runs: list[TrackingScores]) -> dict[str, Any]:
    """Return J&F at each size and all paired differences, with 95 % intervals, and a verdict.

    The layer is the best one at the first size. The verdict is about the first and the last size:
    `confirmed` if the interval of their difference is above 0, `not confirmed` if it is below 0,
    and otherwise `no clear result`. One sequence has no interval: its ends are NaN.

    Args:
        sizes: the image sizes.
        runs: the scores at each size, of the same sequences.
    """
    layer = runs[0].best_layer
    scores = [run.both(layer)[0] for run in runs]
    groups = runs[0].both(layer)[1]
    rows = [
        {"image_size": size, **_with_interval("J&F", values, groups)}
        for size, values in zip(sizes, scores, strict=True)
    ]
    differences = []
    for one, two in combinations(range(len(sizes)), 2):
        apart = scores[two] - scores[one]
        higher = int((np.bincount(groups, apart) > 0).sum())
        row = {"from": sizes[one], "to": sizes[two], "higher": higher}
        differences.append(row | _with_interval("difference", apart, groups))
    ends = next(row for row in differences if (row["from"], row["to"]) == (sizes[0], sizes[-1]))
    verdict = "no clear result"
    if ends["difference_low"] > 0:
        verdict = "confirmed"
    elif ends["difference_high"] < 0:
        verdict = "not confirmed"
    return {"layer": layer, "sizes": rows, "differences": differences, "verdict": verdict}


def _with_interval(
    name: str, values: NDArray[np.float64], groups: NDArray[np.int64]
) -> dict[str, float]:
    resampled = grouped_means(values, groups, RESAMPLES, np.random.default_rng(0))
    low, high = interval(resampled) if len(np.unique(groups)) > 1 else (np.nan, np.nan)
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def _percent(row: dict[str, Any], name: str) -> str:
    value, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _draw(
    path: Path, runs: list[TrackingScores], sizes: tuple[int, ...], found: dict[str, Any]
) -> None:
    with drawing(path, columns=1, width=6.0, height=4.0) as (_, (axes,)):
        for values in np.transpose([run.both(found["layer"])[0] for run in runs]):
            axes.plot(sizes, 100 * values, color="grey", alpha=0.4, linewidth=0.8)
        means, *ends = (
            [100 * row[f"J&F{end}"] for row in found["sizes"]] for end in ("", "_low", "_high")
        )
        axes.fill_between(sizes, *ends, alpha=0.2, linewidth=0)
        axes.plot(sizes, means, marker="o", label="mean, 95 % interval; grey: objects")
        axes.set(xlabel="image size (pixels)", ylabel="J&F (%)", xscale="log", xticks=sizes)
        axes.set_xticks(sizes, labels=map(str, sizes))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()


main = command("davis_resolution", DavisResolutionConfig)(davis_resolution)

if __name__ == "__main__":
    main()
