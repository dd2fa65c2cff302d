"""`python -m toto_robot.retest claim=NAME`: re-test a claim of the Toto paper on your own data.

    python -m toto_robot.retest claim=architectures data=IMAGES scale=small out=runs/architectures

A claim is a list of ordinary commands (`toto_robot/configs/claim`), and a rule that decides from
their results. The verdict is `confirmed`, `not confirmed` or `no clear result`. Runs are kept in
`out/runs`, one folder for each run and seed, and an interrupted re-test resumes. Without `data`,
the command makes small synthetic data sets of moving shapes; a verdict on them is only an example.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .claims.comparison import Comparison
from .claims.dagger_study import DaggerStudy
from .claims.drawn_data import DataKind, draw_data
from .claims.first_frame import FirstFrameGap
from .claims.middle_layer import MiddleLayer
from .claims.report import write_finding
from .claims.runs import Run, Runs, Scale
from .claims.scaling_law import ScalingLaw
from .claims.tracking import TrackingResolution
from .claims.verdict import Finding
from .cli import command
from .config import to_dict
from .device import choose_device
from .runs import claim as claim_folder
from .training.patches import PatchTrainingConfig
from .training.pretrain import PretrainConfig

__all__ = ["Claim", "RetestConfig", "retest"]

Rule = Comparison | DaggerStudy | FirstFrameGap | MiddleLayer | ScalingLaw | TrackingResolution


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A claim of the paper, with the runs and the rule that test it.

    Attributes:
        result: the table, figure or section of the paper, a name of `toto-robot reproduce`.
        statement: the claim in words.
        data: kind of the data: `images` (a folder as for `toto-robot imagenet`), `videos` (a folder
            of videos), `davis` (a folder as for `toto-robot davis`), or `none`.
        common: settings of all runs of a command, by the name of the command.
        runs: the runs, in their order.
        rule: decides from the results of the runs.
    """

    result: str
    statement: str
    data: DataKind
    common: dict[str, tuple[str, ...]]
    runs: tuple[Run, ...]
    rule: Rule


@dataclass(frozen=True, kw_only=True, slots=True)
class RetestConfig:
    """Settings of `retest`.

    Attributes:
        claim: the claim.
        scale: sizes of models, data and training.
        data: folder of the data, see `Claim.data`; null: the command makes a synthetic data set.
        seeds: random seeds. Each compared model is trained and measured with each of them.
    """

    claim: Claim
    scale: Scale
    data: Path | None
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that there are seeds."""
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be one or more distinct numbers, got {self.seeds}")


def retest(config: RetestConfig, out: Path) -> Finding | None:
    """Run what is not finished, and write the verdict, `results.json` and `verdict.png`.

    Returns None if a run was asked to stop.

    Raises:
        ValueError: the data or the settings of a run are wrong; the message names them.
    """
    claim, data = config.claim, config.data
    if data is not None and claim.data == "none":
        raise ValueError(f"data: this claim reads finished runs, and no data such as {data}")
    if data is not None and not data.is_dir():
        raise ValueError(f"data: there is no folder {data}")
    drawn = out / "drawn" / claim.data
    if data is None and claim.data != "none":
        data = drawn
    runs = Runs(claim.runs, claim.common, config.scale, data, config.seeds, out)
    runs.check()  # before the claim: a wrong setting leaves `out` free
    claim_folder(out, config)
    if data == drawn:
        draw_data(claim.data, drawn)
    print(_plan(runs, config), flush=True)
    if not runs.execute():
        return None
    finding = claim.rule.evaluate(runs)
    notes = {"result": claim.result, "data": "drawn" if config.data is None else str(data)}
    notes |= {"seeds": list(config.seeds), "scale": to_dict(config.scale)}
    print(write_finding(out, finding, claim.statement, notes))
    if config.data is None and claim.data != "none":
        print("the data are synthetic: this verdict is only an example; set data=FOLDER")
    return finding


def _plan(runs: Runs, config: RetestConfig) -> str:
    """Return a line with the number of runs, and the minutes of the trainings that remain."""
    units = runs.units()
    if not units:
        return f"{config.claim.statement}: compares runs of other commands, and runs nothing"
    names = list(dict.fromkeys(run.name for run, _, _ in units))
    text = f"{config.claim.statement}: {len(names)} kinds of runs ({', '.join(names)}), "
    text += f"{len(config.seeds)} seeds, {len(units)} runs"
    minutes = [_training_minutes(one) for one in runs.unfinished_trainings()]
    if minutes:
        text += f"; {len(minutes)} trainings take about {sum(minutes):.1f} minutes here; tokens "
        text += "and probes take additional time"
    return text


def _training_minutes(config: PretrainConfig | PatchTrainingConfig) -> float:
    """Measure one forward and backward pass for each stage, and return the minutes of all steps."""
    device = torch.device(choose_device(config.engine.device))
    model = config.model.build().to(device)
    seconds = 0.0
    for steps, frames, batch, part in _stages(config):
        if isinstance(config, PatchTrainingConfig):
            side, codes = config.model.image_size, config.model.target_codes
            inputs = [torch.zeros(part, frames, side, side, 3, dtype=torch.uint8)]
            if codes is not None:
                inputs.append(
                    torch.zeros(part, frames * config.model.tokens_per_frame, dtype=torch.long)
                )
        else:
            length = frames * config.model.tokens_per_frame + 2
            inputs = [torch.zeros(part, length, dtype=torch.long)]
        for _ in range(2):  # the first pass is slower
            start = time.perf_counter()
            model.loss(*(one.to(device) for one in inputs)).backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent = time.perf_counter() - start
        seconds += steps * batch / part * spent
    return seconds / 60


def _stages(config: PretrainConfig | PatchTrainingConfig) -> Iterator[tuple[int, int, int, int]]:
    stages: Any = (config,) if isinstance(config, PatchTrainingConfig) else config.stages
    for one in stages:
        yield one.steps, one.frames, one.batch, one.part


main = command("retest", RetestConfig)(retest)

if __name__ == "__main__":
    main()
