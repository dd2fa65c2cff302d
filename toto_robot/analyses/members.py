"""Runs that belong to one study: trained one after the other, each once, each resumable."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import to_dict
from ..files import write_json
from ..runs import claim
from ..training.pretrain import PretrainConfig, pretrain

__all__ = ["Outcome", "train_member", "writes_results"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a member came to.

    Attributes:
        rows: the lines of its log, each with `step`, `tokens`, `loss` and `validation_loss`.
        diverged: whether training stopped because of losses that were not to be trusted.
        finished: whether it took all its steps; False after a scheduler's signal to stop.
    """

    rows: tuple[dict[str, Any], ...]
    diverged: bool
    finished: bool

    @property
    def loss(self) -> float:
        """Held-out loss at the end, nats; infinite for a member that diverged."""
        return float("inf") if self.diverged else self.rows[-1]["validation_loss"]


def train_member(config: PretrainConfig, folder: Path) -> Outcome:
    """Train, or go on, or read what a member came to that has ended.

    Raises:
        ValueError: the folder holds a member with another config; or a member without a held-out
            loss.
    """
    claim(folder, config)
    mark = folder / "outcome.json"
    diverged = False
    if mark.is_file():
        diverged = json.loads(mark.read_text())["diverged"]
    else:
        try:
            pretrain(config, folder)
        except FloatingPointError as error:
            diverged = True
            print(f"{folder}: {error}")
    steps = sum(stage.steps for stage in config.stages)
    log = folder / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    finished = diverged or bool(rows and rows[-1]["step"] == steps)
    if not diverged and rows and "validation_loss" not in rows[-1]:
        raise ValueError(
            f"{folder}: no held-out loss to compare by; a data set needs more files, and "
            "pretrain.validation_sequences must be at least 1"
        )
    if finished and writes_results():
        write_json(mark, {"diverged": diverged, "config": to_dict(config)})
    return Outcome(rows=tuple(rows), diverged=diverged, finished=finished)


def writes_results() -> bool:
    """Return whether this process is the first, or the only one, of a run."""
    return int(os.environ.get("RANK", "0")) == 0
