"""`python -m policies.metaworld encoder=nano`: compare encoders on tasks of Meta-World.

Meta-World is a public suite of manipulation tasks with scripted experts. It needs a Python
environment of its own, because it requires an old version of MuJoCo; this command starts that
environment as a second process. The command records demonstrations, computes the embeddings of
their frames, and measures each encoder in two ways:

    probes       linear regressions from the embeddings, see `policies.metaworld.probes`
    cloning      policies that imitate the demonstrations, see `policies.metaworld.cloning`

Each run measures one encoder, and beside it the rows of `controls`. Later runs with another
`encoder=` and the same `out` add rows to the same tables. Files in `out`:

    config.json                      settings that all rows share
    cells/<row>/<part>-<task>...     the results of one row on one task; they are not measured again
    policies/<row>/<task>-seed<n>    the policies
    results.json results.csv results.md results.png
    worker.log                       warnings and errors of Meta-World's process
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.config import to_dict
from toto_robot.device import choose_device
from toto_robot.files import write_json
from toto_robot.runs import claim, report_found

from ..vision import FrozenVision
from .cloning import CloningConfig, clone, evaluate, run_expert
from .probes import ProbeConfig, probe
from .process import Appearance, SceneConfig, SuiteProcess, install_metaworld, require_python
from .recordings import collect, folder_of, found, read, require_scene
from .report import EXPERT, write_report
from .rows import Control, Row, rows_of

# Minutes of one core of a server with two cores, measured; only for the forecast.
MINUTES = {"demonstrations": 0.5, "probes": 0.3, "cloning": 1.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class MetaworldConfig:
    """Settings of the benchmark.

    Attributes:
        encoder: the encoder to measure.
        controls: rows that are measured beside the encoder. `pixels`: the frame at 16 x 16 pixels.
            `untrained`: the encoder with random weights. `none`: proprioception only.
        parts: `probes`, `cloning`, or both.
        tasks: names of tasks of Meta-World, such as `push-v3`.
        data: folder of the demonstrations. Those that are missing are recorded.
        metaworld_python: Python of the environment in which Meta-World is installed.
        install: true to make this environment, or to complete it if Meta-World cannot be imported;
            this needs the network.
        scene: settings of the images and of the demonstrations.
        probes: settings of the probes.
        cloning: settings of behaviour cloning.
        training_seeds: seeds of the policies; each is a training of its own.
        appearances: appearances of the scene in which policies are evaluated and probes are
            tested. `same`: as in the demonstrations. `changed`: light, colours of table, floor and
            walls, and the camera beside the table change from episode to episode.
        device: device of encoders and policies: `cpu`, `cuda`, or `auto`.
    """

    encoder: FrozenVision
    controls: tuple[Control, ...]
    parts: tuple[Literal["probes", "cloning"], ...]
    tasks: tuple[str, ...]
    data: Path
    metaworld_python: Path
    install: bool
    scene: SceneConfig
    probes: ProbeConfig
    cloning: CloningConfig
    training_seeds: tuple[int, ...]
    appearances: tuple[Appearance, ...]
    device: str

    def __post_init__(self) -> None:
        for name in ("parts", "tasks", "training_seeds", "appearances"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        if self.probes.folds > self.scene.demonstrations:
            raise ValueError(
                f"{self.probes.folds} folds need at least as many demonstrations, got "
                f"{self.scene.demonstrations}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shared:
    """The settings that all rows of a table share."""

    scene: SceneConfig
    probes: ProbeConfig
    cloning: CloningConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    """A result that is measured at once: one row on one task.

    Attributes:
        row: the row; None: the scripted expert.
        part: `probes` or `cloning`.
        task: name of the task.
        seed: seed of the policy.
        appearance: appearance of the scene in the evaluation.
    """

    row: Row | None
    part: str
    task: str
    seed: int = 0
    appearance: Appearance = "same"

    def path(self, out: Path) -> Path:
        """Return the file of the result."""
        key = EXPERT if self.row is None else self.row.key
        name = f"{self.part}-{self.task}"
        if self.part == "cloning":
            name += f"-seed{self.seed}"
        name += f"-{self.appearance}"
        return out / "cells" / key / f"{name}.json"


def benchmark(config: MetaworldConfig, out: Path) -> None:
    """Measure the missing cells, and write the report; the module docstring lists the files."""
    python = config.metaworld_python.expanduser()
    if config.install:
        install_metaworld(python)
    require_python(python)
    shared = _Shared(scene=config.scene, probes=config.probes, cloning=config.cloning)
    claim(out, shared)
    device = torch.device(choose_device(config.device))
    rows = rows_of(config.encoder, config.controls, device)
    if not config.scene.cameras and any(row.encoder is not None for row in rows):
        raise ValueError("scene.cameras is empty; only encoder=none controls=[] needs no camera")
    require_scene(config.data, config.scene)
    cells = list(_cells(config, rows))
    missing = [cell for cell in cells if not cell.path(out).is_file()]
    _forecast(config, rows, cells, missing)
    with SuiteProcess(python, out / "worker.log") as suite:
        for task in config.tasks:
            for appearance in _recorded(config):
                collect(suite, config.data, task, config.scene, appearance)
        for cell in tqdm(missing, desc="cells", unit="cell"):
            began = time.monotonic()
            result = _measure(config, suite, cell, device, out)
            facts = {
                "key": EXPERT if cell.row is None else cell.row.key,
                "row": "scripted expert" if cell.row is None else cell.row.name,
                "part": cell.part, "task": cell.task, "seed": cell.seed,
                "appearance": cell.appearance, "seconds": round(time.monotonic() - began, 1),
            }  # fmt: skip
            write_json(cell.path(out), facts | result)
    print(write_report(out, {"settings": to_dict(shared)}, rows[0].key))
    print(f"results: {out / 'results.md'}, results.json, results.csv, results.png")


def _cells(config: MetaworldConfig, rows: Sequence[Row]) -> Iterator[_Cell]:
    for task in config.tasks:
        for appearance in config.appearances:
            if "probes" in config.parts:
                for row in rows:
                    yield _Cell(row=row, part="probes", task=task, appearance=appearance)
            if "cloning" in config.parts:
                yield _Cell(row=None, part="cloning", task=task, appearance=appearance)
                for row in rows:
                    for seed in config.training_seeds:
                        yield _Cell(
                            row=row, part="cloning", task=task, seed=seed, appearance=appearance
                        )


def _recorded(config: MetaworldConfig) -> list[Appearance]:
    """Return the appearances of the demonstrations that the cells need."""
    if "probes" in config.parts and "changed" in config.appearances:
        return ["same", "changed"]
    return ["same"]


def _forecast(
    config: MetaworldConfig, rows: Sequence[Row], cells: Sequence[_Cell], missing: Sequence[_Cell]
) -> None:
    """Print what the command will do, and about how long it will take."""
    tasks = [
        task
        for task in config.tasks
        for appearance in _recorded(config)
        if len(found(folder_of(config.data, task, appearance))) < config.scene.demonstrations
    ]
    counts = {part: sum(cell.part == part for cell in missing) for part in ("probes", "cloning")}
    minutes = len(tasks) * MINUTES["demonstrations"]
    minutes += sum(count * MINUTES[part] for part, count in counts.items())
    report_found(len(cells) - len(missing), len(cells), "cell")
    print(
        f"rows: {', '.join(row.name for row in rows)}\n"
        f"{len(config.tasks)} tasks; {len(tasks)} sets of demonstrations to record, "
        f"{counts['probes']} cells of probes and {counts['cloning']} of cloning to measure: about "
        f"{minutes:.0f} minutes on a server with two cores, with an encoder as small as toto-nano",
        flush=True,
    )


def _measure(
    config: MetaworldConfig, suite: SuiteProcess, cell: _Cell, device: torch.device, out: Path
) -> dict[str, Any]:
    """Measure one cell."""
    if cell.row is None:
        suite.open(cell.task, _without_cameras(config.scene), cell.appearance)
        return {"episodes": run_expert(suite, config.scene, config.cloning.episodes)}
    recordings = read(config.data, cell.task, config.scene, "same")
    if cell.part == "probes":
        changed = None
        if cell.appearance != "same":
            changed = read(config.data, cell.task, config.scene, cell.appearance)
        return {"results": probe(cell.row, recordings, config.probes, changed)}
    policy = out / "policies" / cell.row.key / f"{cell.task}-seed{cell.seed}"
    student = clone(cell.row, recordings, config.scene, config.cloning, cell.seed, device, policy)
    longest = max(len(one.actions) for one in recordings)
    max_steps = round(config.cloning.time_limit * longest)
    scene = config.scene if cell.row.encoder is not None else _without_cameras(config.scene)
    suite.open(cell.task, scene, cell.appearance)
    episodes = evaluate(suite, cell.row, student, config.cloning, max_steps)
    return {"max_steps": max_steps, "episodes": episodes}


def _without_cameras(scene: SceneConfig) -> SceneConfig:
    return replace(scene, cameras=())


main = command("metaworld", MetaworldConfig, {"layers": "encoder.layer"})(benchmark)

if __name__ == "__main__":
    main()
