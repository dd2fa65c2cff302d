"""Train the models of a study. Each model is trained once, and interrupted training resumes."""

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
    """The result of training one model of a study.

    Attributes:
        rows: lines of the log, each with `step`, `tokens`, `loss` and `validation_loss`.
        diverged: True if training stopped because of loss spikes or non-finite losses.
        finished: True if training ended. False if a stop signal of the scheduler interrupted it.
    """

    rows: tuple[dict[str, Any], ...]
    diverged: bool
    finished: bool

    @property
    def loss(self) -> float:
        """Final held-out loss, nats. Infinite if the training diverged."""
        return float("inf") if self.diverged else self.rows[-1]["validation_loss"]


def train_member(config: PretrainConfig, folder: Path) -> Outcome:
    """Train a model of a study, and return the result.

    If the folder holds a finished model, its result is read. If it holds an interrupted training,
    the training is resumed.

    Raises:
        ValueError: the folder holds a model with another config, or a model without a held-out
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
    log = folder / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    finished = diverged or (folder / "encoder" / "config.json").is_file()
    if not diverged and rows and "validation_loss" not in rows[-1]:
        raise ValueError(
            f"{folder}: no held-out loss; a data set needs more files, and "
            "pretrain.validation_sequences must be at least 1"
        )
    if finished and writes_results():
        write_json(mark, {"diverged": diverged, "config": to_dict(config)})
    return Outcome(rows=tuple(rows), diverged=diverged, finished=finished)


def writes_results() -> bool:
    """Return True if this process is rank 0, which writes the results."""
    return int(os.environ.get("RANK", "0")) == 0
