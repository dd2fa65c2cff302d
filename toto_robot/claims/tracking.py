"""Test whether tracking gets better with larger images."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from .runs import Runs
from .verdict import Bound, Finding, Statement, by_sign

__all__ = ["Tracked", "TrackingResolution"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """Tracking with one kind of features at several image sizes.

    Attributes:
        name: name in tables.
        run: name of the run of `davis_resolution`.
        control: true if the result is shown only for comparison.
    """

    name: str
    run: str
    control: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingResolution:
    """J&F at the largest image size against the smallest, paired over the sequences.

    Attributes:
        features: the kinds of features.
        paper: the paper's J&F, %, by the image size.
    """

    kind: ClassVar[str] = "tracking_resolution"
    features: tuple[Tracked, ...]
    paper: dict[str, float]

    def evaluate(self, runs: Runs) -> Finding:
        """Return J&F at each image size, and the difference of the largest and the smallest."""
        rows: list[dict[str, Any]] = []
        statements = []
        for one in self.features:
            ((folder, _),) = runs.of(one.run)
            found = json.loads((folder / "results.json").read_text())
            for size in found["sizes"]:
                pixels = size["image_size"]
                paper = "" if one.control else f"{self.paper.get(str(pixels), '')}"
                row = {"name": f"{one.name}, {pixels} pixels", "layer": found["layer"]}
                rows.append(row | _bound(size, "J&F")[1] | {"paper": paper})
            sizes = [size["image_size"] for size in found["sizes"]]
            (ends,) = (
                d for d in found["differences"] if (d["from"], d["to"]) == (sizes[0], sizes[-1])
            )
            bound, values = _bound(ends, "difference")
            text = f"{one.name}: J&F is higher at {sizes[-1]} than at {sizes[0]} pixels"
            if one.control:
                rows.append({"name": f"control: {text} by", "paper": ""} | values)
            else:
                verdict = by_sign(bound)
                statements.append(Statement(text=text, bound=bound, unit="%", verdict=verdict))
        return Finding(rows=rows, measure="J&F", unit="%", statements=statements)


def _bound(row: dict[str, float], name: str) -> tuple[Bound, dict[str, float]]:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    bound = Bound(value=value, low=low, high=high, by_seed=(value,))
    return bound, {"value": value, "low": low, "high": high}
