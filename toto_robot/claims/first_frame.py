"""Test whether the first frame of a video has a higher loss, because later frames repeat it."""

import csv
from dataclasses import dataclass
from typing import ClassVar

from .runs import Runs
from .verdict import RULE, Bound, Finding, Statement, by_sign

__all__ = ["FirstFrameGap"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstFrameGap:
    """The gap: the loss of the first frame minus the mean loss of all later frames.

    Attributes:
        run: name of the run of `positions`.
        vanishes_below: share of the video's gap below which the gap of unrelated frames counts as
            vanished.
    """

    kind: ClassVar[str] = "first_frame_gap"
    run: str
    vanishes_below: float

    def evaluate(self, runs: Runs) -> Finding:
        """Return the gaps of videos and of the controls."""
        tables = []
        for folder, _ in runs.of(self.run):
            with (folder / "frames.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["frame"] == "later"]
            first = rows[0]["stride"]
            tables.append(
                {
                    row["order"]: row
                    for row in rows
                    if (row["stride"], row["data"]) == (first, "all")
                }
            )
        gaps = {
            order: _bound([table[order] for table in tables], "against_first")
            for order in tables[0]
        }
        video = gaps["video"]
        bounds = {
            "the loss of the first frame of a video is higher than that of later frames": video
        }
        if "unrelated" in gaps:
            limit, gap = self.vanishes_below * video.value, gaps["unrelated"]
            share = f"{100 * self.vanishes_below:.0f} % of the video's gap minus this gap"
            bounds[f"the gap vanishes for unrelated frames ({share})"] = Bound(
                value=limit - gap.value,
                low=limit - gap.high,
                high=limit - gap.low,
                by_seed=tuple(limit - one for one in gap.by_seed),
            )
        bounds["the gap is larger for repeated frames"] = _bound(
            [table["repeated"] for table in tables], "against_video"
        )
        rows = [
            {"name": order, "value": gap.value, "low": gap.low, "high": gap.high, "paper": ""}
            | {"by_seed": list(gap.by_seed), "sequences": int(tables[0][order]["sequences"])}
            | {"files": int(tables[0][order]["files"])}
            for order, gap in gaps.items()
        ]
        statements = [
            Statement(text=text, bound=bound, unit="nats", verdict=by_sign(bound))
            for text, bound in bounds.items()
        ]
        rule = (
            f"{RULE} A gap vanishes if it is below {100 * self.vanishes_below:.0f} % of the "
            "video's. Intervals are over files, and the widest of the seeds counts."
        )
        return Finding(
            rows=rows,
            measure="gap of the first frame",
            unit="nats",
            statements=statements,
            rule=rule,
        )


def _bound(rows: list[dict[str, str]], column: str) -> Bound:
    """Return a column, with the opposite sign: the mean over seeds, and the widest interval."""
    values = tuple(-float(row[column]) for row in rows)
    return Bound(
        value=sum(values) / len(values),
        low=min(-float(row[f"{column}_high"]) for row in rows),
        high=max(-float(row[f"{column}_low"]) for row in rows),
        by_seed=values,
    )
