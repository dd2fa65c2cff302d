"""`python -m policies.study`: compare encoders by the success rates of policies.

    python -m policies.study                                     # the study of the four tasks
    python -m policies.study study=tiny out=runs/tiny_study      # all steps, in a few minutes
    python -m policies.study study=mine --config-dir FOLDER      # your own FOLDER/study/mine.yaml
    python -m policies.study seeds=[0,1,2] '~columns.kuka_pick'
    python -m policies.study '+rows.mvp={settings: ["encoder=mvp", "encoder.name_or_path=FILE"]}'

Every combination of a row (an encoder), a column (a task) and a training seed is a cell: one run of
`policies.train` and its evaluations. The cells that have results are not run again, so the same
command resumes a stopped study, and a study can be extended by rows, columns and seeds. The files:

    cells/COLUMN/ROW/seed_N/   result.json; train/ is the run of policies.train; log.txt, videos
    demonstrations/            recorded once for all cells with the same tokenizer
    report.html report.md      learning curves, success rates, differences, costs and videos
    cells.csv comparisons.csv  all numbers of the report
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toto_robot.cli import command, config_dirs
from toto_robot.config import to_dict
from toto_robot.data.runners import Slurm, run_slices
from toto_robot.files import write_json
from toto_robot.locks import REPORT, lock
from toto_robot.runs import require_same_inputs, require_same_weights

from .environment import AnyEnv, make_env
from .evaluate import on_suite
from .studies.config import ATTACHED, Cell, StudyConfig, cell_folder, result_path
from .studies.report import write_report
from .studies.results import read_results
from .teacher_policy import teacher_inputs

_LOG_LINES = 12


def study(config: StudyConfig, out: Path) -> None:
    """Run the cells without a result, and write the report.

    With `runner=slurm`, a task of a job array runs only its cells. Outside of a job array, no cell
    is run, and the report of the finished cells is written.

    Raises:
        ValueError: a cell has settings that are not valid, an evaluation suite that its environment
            does not have, or an earlier result of other settings; or cells failed, after the report
            was written. The message names the cells.
    """
    cells = config.cells(config_dirs())
    _check_cells(cells)
    _check_results(out, cells)
    waiting = [number for number, cell in enumerate(cells) if not _is_done(out, cell)]
    is_task = isinstance(config.runner, Slurm) and config.runner.is_task
    if isinstance(config.runner, Slurm) and not is_task:
        print("runner=slurm, but not a task of a job array: no cell is run, only reported")
        mine = []
    else:
        mine = run_slices(config.runner, waiting, len(cells))
    print(_plan(config, out, cells, mine), flush=True)
    if mine:
        config.runner.run(_Run(out.resolve(), cells), mine)
    if is_task and not all(_is_done(out, cell) for cell in cells):
        print("other cells are not finished yet; run the command once more for the report")
    else:
        _report(config, out, cells)
    failed = [cells[number].name for number in mine if not _is_done(out, cells[number])]
    if failed:
        logs = "\n  ".join(str(out / "cells" / name / "log.txt") for name in failed)
        raise ValueError(f"{len(failed)} of {len(mine)} cells failed; their logs:\n  {logs}")


def _report(config: StudyConfig, out: Path, cells: Sequence[Cell]) -> None:
    """Write the report, and print one line per comparison."""
    with lock(out, wait=True, name=REPORT):  # the last tasks of an array may end together
        comparisons = write_report(out, config, cells)
    for one in comparisons:
        against = "" if one.against is None else f"  {one.against.mean:+.3f}"
        print(
            f"{one.column:18} {one.suite:12} {one.row:14} {one.rate.mean:6.1%}{against:9}  "
            f"{one.verdict(config.baseline)}"
        )
    print(f"report:  {out / 'report.html'}")


class _Run:
    """A job that runs one cell in a process of its own, which writes to the cell's log."""

    def __init__(self, out: Path, cells: Sequence[Cell]) -> None:
        self._out, self._cells = out, cells

    def __call__(self, number: int) -> None:
        """Run the cell with this number; if it fails, print the last lines of its log."""
        cell = self._cells[number]
        folder = cell_folder(self._out, cell)
        write_json(folder / "cell.json", to_dict(cell))
        log = folder / "log.txt"
        if _run_cell([str(folder / "cell.json"), ATTACHED], log):
            last = "\n  ".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            print(f"\n{cell.name} failed; the last lines of {log}:\n  {last}", file=sys.stderr)


def _run_cell(words: list[str], log: Path) -> int:
    """Run a cell in a process that ends with this process; return its exit status."""
    command = [sys.executable, "-m", f"{__package__}.studies.cell", *words]
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT
        ) as process,
    ):
        return process.wait()


def _plan(config: StudyConfig, out: Path, cells: Sequence[Cell], mine: Sequence[int]) -> str:
    """Return what the command will do, with the expected time."""
    seconds = [one["seconds"] for one in read_results(out, cells)]
    minutes = float(np.mean(seconds)) / 60 if seconds else config.minutes_per_cell
    source = f"mean of {len(seconds)} cells" if seconds else "minutes_per_cell"
    workers = getattr(config.runner, "workers", 1)
    return (
        f"study: {len(config.rows)} rows x {len(config.columns)} columns, {len(cells)} cells; "
        f"{len(mine)} to run here x {minutes:.1f} minutes ({source}) / {workers} at a time = "
        f"{len(mine) * minutes / workers / 60:.1f} hours"
    )


def _different(cells: Sequence[Cell]) -> list[Cell]:
    """Return the first cell of each combination of settings and suites, with any seed."""
    return list({(cell.settings, cell.suites): cell for cell in reversed(cells)}.values())


def _check_cells(cells: Sequence[Cell]) -> None:
    """Check the settings of all cells before any cell runs.

    Raises:
        ValueError: a setting is not valid, the cells of a column have other numbers of held-out
            episodes, or an environment does not have an evaluation suite. The message names the
            cell.
    """
    episodes: dict[str, tuple[str, int]] = {}
    opened: list[AnyEnv] = []
    for cell in _different(cells):
        train_config = cell.train_config()
        number = train_config.evaluation_episodes
        first, expected = episodes.setdefault(cell.column, (cell.name, number))
        if number != expected:
            raise ValueError(
                f"rows are compared on the same held-out episodes, but {first} has "
                f"evaluation_episodes={expected}, and {cell.name} has {number}"
            )
        assert train_config.env is not None  # without an environment, `data` would have to be set
        for name in cell.suites:
            try:
                env = on_suite(train_config.env, name)
                if env not in opened:
                    make_env(env, with_images=False, privileged=False).close()
                    opened.append(env)
            except ValueError as error:
                raise ValueError(f"{cell.name}, suite {name}: {error}") from error


def _check_results(out: Path, cells: Sequence[Cell]) -> None:
    """Check that existing results belong to the same settings.

    Raises:
        ValueError: a cell has a result of other settings, of other weights of the encoders of this
            package, or of a teacher whose weights have changed; the message names the cell.
    """
    there = {(one["column"], one["row"], one["seed"]): one for one in read_results(out, cells)}
    for cell in cells:
        found = there.get((cell.column, cell.row, cell.seed))
        if found is None:
            continue
        run, teacher = cell_folder(out, cell) / "train", found["config"]["teacher"]
        require_same_weights(run)
        require_same_inputs(run, teacher_inputs(None if teacher is None else Path(teacher)))
        if (
            found["settings"] != list(cell.settings)
            or not set(cell.suites) <= set(found["suites"])
            or any(found["suites"][name]["episodes"] != cell.suite_episodes for name in cell.suites)
        ):
            raise ValueError(
                f"{cell.name} in {out} has a result of other settings: {found['settings']}, suites "
                f"{sorted(found['suites'])}; choose another out=, or delete "
                f"{cell_folder(out, cell)}"
            )


def _is_done(out: Path, cell: Cell) -> bool:
    return result_path(out, cell).is_file()


main = command("study", StudyConfig)(study)

if __name__ == "__main__":
    main()
