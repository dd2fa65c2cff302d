"""Settings of `policies.study`: the rows, columns and seeds, whose combinations are the cells."""

import re
from dataclasses import dataclass
from pathlib import Path

from envs.randomisation import suite
from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.data.runners import Local, RayCluster, Slurm

from ..learning.config import TrainConfig

# With fewer training seeds, a result is reported as an observation, not as a claim.
CLAIM_SEEDS = 3

# With this argument, a cell ends when the study that started it ends.
ATTACHED = "--attached"

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_RESERVED = ("seed", "data", "out", "video_episodes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What is compared: settings of `policies.train`, such as `encoder=mae_nano`.

    Attributes:
        settings: settings `key=value` of `policies.train`, which replace those of the column.
        seeds: training seeds of this row; None: the seeds of the study.
        x: value of the row in a plot of success rates over a quantity, such as a layer; None: the
            row is a horizontal line in this plot.
    """

    settings: tuple[str, ...]
    seeds: tuple[int, ...] | None = None
    x: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Where the rows are compared: settings of `policies.train`, such as `env=kuka_pick`.

    Attributes:
        settings: settings `key=value` of `policies.train`, which replace those of the study.
        suites: evaluation suites in which each policy is evaluated in addition to the environment
            of its training; each is one of `envs.randomisation.suites()`.
    """

    settings: tuple[str, ...]
    suites: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One training run of a study: a row, a column and a training seed.

    Attributes:
        row: name of the row.
        column: name of the column.
        seed: training seed.
        settings: settings of `policies.train`, without `seed`, `data` and `out`.
        suites: evaluation suites for the trained policy.
        suite_episodes: number of held-out episodes in each suite.
        filmed: whether a success and a failure are filmed.
        config_dirs: folders with further choices for the settings, such as `env/my_robot.yaml`.
    """

    row: str
    column: str
    seed: int
    settings: tuple[str, ...]
    suites: tuple[str, ...]
    suite_episodes: int
    filmed: bool
    config_dirs: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The name of the cell, and its folder below `cells`."""
        return f"{self.column}/{self.row}/seed_{self.seed}"

    def train_config(self) -> TrainConfig:
        """Return the settings of the training run.

        Raises:
            ValueError: a setting is unknown or not valid; the message names the cell.
        """
        words = [*self.settings, f"seed={self.seed}", "video_episodes=0"]
        try:
            data, _ = compose("train", words, TrainConfig, self.config_dirs)
            return from_dict(TrainConfig, data)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """Settings of a study.

    Attributes:
        rows: what is compared, by name.
        columns: where it is compared, by name.
        seeds: training seeds. Row and baseline are compared on the same seeds, in pairs.
        settings: settings `key=value` of `policies.train` for all cells, such as
            `demonstrations=20`.
        baseline: the row with which all other rows are compared.
        suite_episodes: number of held-out episodes in each evaluation suite.
        x_label: what `x` of the rows is, for the plot.
        videos: whether a success and a failure of the first seed are filmed in each cell.
        minutes_per_cell: expected time of a cell, minutes, printed before any cell has run.
        runner: where the cells run: processes on this machine, a Slurm array, or Ray.
    """

    rows: dict[str, Row]
    columns: dict[str, Column]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    baseline: str
    suite_episodes: int
    x_label: str
    videos: bool
    minutes_per_cell: float
    runner: Local | Slurm | RayCluster

    def __post_init__(self) -> None:
        for what, names in (("rows", self.rows), ("columns", self.columns)):
            if not names:
                raise ValueError(f"{what} must have at least one entry")
            if bad := [name for name in names if not _NAME.fullmatch(name)]:
                raise ValueError(f"{what}: names are a to z, 0 to 9 and _, got {bad[0]!r}")
        if self.baseline not in self.rows:
            raise ValueError(f"baseline must be one of {', '.join(self.rows)}: {self.baseline!r}")
        for name, seeds in [("seeds", self.seeds)] + [
            (f"rows.{name}.seeds", row.seeds)
            for name, row in self.rows.items()
            if row.seeds is not None
        ]:
            if not seeds or len(set(seeds)) < len(seeds):
                raise ValueError(f"{name} must be different numbers, at least one, got {seeds}")
        if self.suite_episodes < 1 or self.minutes_per_cell <= 0:
            raise ValueError("suite_episodes and minutes_per_cell must be positive")
        for column in self.columns.values():
            for name in column.suites:
                suite(name)
        for setting in (
            *self.settings,
            *(
                one
                for part in (*self.rows.values(), *self.columns.values())
                for one in part.settings
            ),
        ):
            key, equals, _ = setting.lstrip("+~").partition("=")
            if key in _RESERVED or not (equals or setting.startswith("~")):
                raise ValueError(
                    f"a setting is key=value of policies.train, and the study sets "
                    f"{', '.join(_RESERVED)} itself: {setting!r}"
                )

    def cells(self, config_dirs: tuple[Path, ...] = ()) -> tuple[Cell, ...]:
        """Return all cells: for each seed all columns, and for each column all rows.

        So the first seed of every row is finished first, and a study that stops early is complete
        for fewer seeds.

        Args:
            config_dirs: folders with further choices for the settings of the cells.
        """
        rows = {name: row.seeds or self.seeds for name, row in self.rows.items()}
        order = dict.fromkeys(seed for seeds in (self.seeds, *rows.values()) for seed in seeds)
        return tuple(
            Cell(
                row=row,
                column=column,
                seed=seed,
                settings=(*self.settings, *where.settings, *self.rows[row].settings),
                suites=where.suites,
                suite_episodes=self.suite_episodes,
                filmed=self.videos and seed == seeds[0],
                config_dirs=config_dirs,
            )
            for seed in order
            for column, where in self.columns.items()
            for row, seeds in rows.items()
            if seed in seeds
        )


def cell_folder(out: Path, cell: Cell) -> Path:
    """Return the folder of a cell's results."""
    return out / "cells" / cell.name


def result_path(out: Path, cell: Cell) -> Path:
    """Return the path of a cell's result, which exists once the cell is finished."""
    return cell_folder(out, cell) / "result.json"
