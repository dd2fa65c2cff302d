"""Read a LeRobotDataset of format v3.0: ours, and those of others as far as they are alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface

from . import layout, tables
from .demonstration import Array, Demonstration
from .layout import Column
from .video import decode

_NUMBERS = (layout.STATE, layout.ACTION)


class DatasetReader:
    """Read episodes one by one. What is being written is not seen before it is whole.

    Attributes:
        folder: where the data set is.
        interface: what its numbers mean.
        columns: what there is of each step beside state, action and pictures.
    """

    def __init__(self, folder: Path, interface: Interface | None = None) -> None:
        """Open it.

        Args:
            folder: with `meta/info.json`.
            interface: what the numbers mean, of a data set that does not say so itself.

        Raises:
            FileNotFoundError: no data set there.
            ValueError: of another version, damaged, or not of this interface.
        """
        self.folder = folder
        self._info = read_info(folder)
        if (folder / layout.INTERFACE).is_file():
            self.interface = read_own_interface(folder)
            if interface is not None:
                interface.require_equal(self.interface, "this run", str(folder))
        elif interface is None:
            raise ValueError(
                f"{folder} was not written by this project: it has no {layout.INTERFACE}, so what "
                "its numbers mean is not known. `python -m policies.convert_demonstrations` makes "
                "a data set with one"
            )
        else:
            self.interface = interface
        self.columns = self._find_columns()
        self._rows: dict[int, dict[str, Any]] = {}
        if not (folder / layout.INTERFACE).is_file():
            self._rows = self._read_rows()
        self._tasks = self._read_tasks()

    def __len__(self) -> int:
        return int(self._info["total_episodes"])

    def __iter__(self) -> Iterator[Demonstration]:
        for index in range(len(self)):
            yield self[index]

    def __getitem__(self, index: int) -> Demonstration:
        """Read an episode with its pictures.

        Raises:
            IndexError: no such episode.
            ValueError: a file of it is damaged; the message names it.
        """
        row, rate_hz = self._row(index), float(self._info["fps"])
        values = self._read_values(row)
        steps = len(values[layout.ACTION])
        pictures: dict[str, NDArray[np.uint8]] = {}
        for camera in self.interface.camera_names:
            key = layout.video_key(camera)
            where = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            path = self.folder / self._info["video_path"].format(video_key=key, **where)
            start_s = row[f"videos/{key}/from_timestamp"]
            pictures[camera] = decode(path, start_s, steps, rate_hz)
        labelled = values.get(layout.LABELLED, np.ones(steps, np.bool_))
        return Demonstration(
            interface=self.interface,
            pictures=pictures,
            proprio=values[layout.STATE],
            actions=values[layout.ACTION],
            labelled=labelled,
            columns={column.name: values[column.name] for column in self.columns},
            task=self._tasks[int(values["task_index"][0])],
            facts=self.facts(index),
        )

    def num_steps(self, index: int) -> int:
        """Give an episode's length."""
        return int(self._row(index)["length"])

    def facts(self, index: int) -> dict[str, Any]:
        """Give what belongs to an episode as a whole; empty where nobody wrote it down."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        path = self.folder / layout.RECORD_PATH.format(index=index)
        return _read_json(path) if path.is_file() else {}

    def empty_facts(self) -> list[dict[str, Any]]:
        """Give the records of episodes that ended before their first step."""
        return [
            _read_json(path) for path in sorted((self.folder / "records").glob("empty-[0-9]*.json"))
        ]

    def _row(self, index: int) -> dict[str, Any]:
        """Give the row of the episodes' table."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        if index not in self._rows:  # ours has a file for each
            path = self.folder / layout.EPISODES_PATH.format(**layout.place(index))
            (self._rows[index],) = tables.read_rows(path, leave_out="stats/")
        return self._rows[index]

    def _read_values(self, row: dict[str, Any]) -> dict[str, Array]:
        """Read the columns of an episode's steps."""
        where = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        path = self.folder / self._info["data_path"].format(**where)
        values = tables.read_columns(path)
        needed = ("task_index", *(column.name for column in self.columns), *_NUMBERS)
        if lacking := [name for name in ("episode_index", *needed) if name not in values]:
            raise ValueError(f"{path} lacks the columns {', '.join(lacking)}")
        rows = values["episode_index"] == row["episode_index"]
        if rows.sum() != row["length"]:
            raise ValueError(f"{path} is damaged: {rows.sum()} steps of {row['length']}")
        optional = (layout.LABELLED,) if layout.LABELLED in values else ()
        found = {name: values[name][rows] for name in (*needed, *optional)}
        for name in _NUMBERS:
            found[name] = found[name].reshape(rows.sum(), -1).astype(np.float32)
        return found

    def _find_columns(self) -> tuple[Column, ...]:
        """Give the columns of ours and of others that can be carried along."""
        found: list[Column] = []
        known = {*layout.all_columns(self.interface, ())}
        for name, feature in self._info["features"].items():
            dtype, shape = feature["dtype"], feature["shape"]
            usable = dtype in ("float32", "float64", "int64", "bool", "string") and len(shape) == 1
            if name in known or name.startswith(("observation", "action")) or not usable:
                continue
            names = feature.get("names")
            if not isinstance(names, list) or len(names) != shape[0]:
                names = [str(index) for index in range(shape[0])]
            found.append(Column(name=name, dtype=dtype, names=tuple(map(str, names))))
        lacking = [
            name
            for name in (
                layout.STATE,
                layout.ACTION,
                *map(layout.video_key, self.interface.camera_names),
            )
            if name not in self._info["features"]
        ]
        if lacking:
            raise ValueError(
                f"{self.folder} lacks {', '.join(lacking)}; it has "
                f"{', '.join(self._info['features'])}"
            )
        return tuple(found)

    def _read_rows(self) -> dict[int, dict[str, Any]]:
        """Give the rows of all episodes of a data set whose files are not ours."""
        rows: dict[int, dict[str, Any]] = {}
        for path in sorted((self.folder / "meta" / "episodes").glob("*/*.parquet")):
            found = tables.read_rows(path, leave_out="stats/")
            rows |= {row["episode_index"]: row for row in found}
        if missing := [index for index in range(len(self)) if index not in rows]:
            raise ValueError(f"{self.folder}/meta/episodes lacks the episodes {missing}")
        return rows

    def _read_tasks(self) -> list[str]:
        return tables.read_tasks(self.folder / layout.TASKS) if len(self) else []


def is_dataset(folder: Path) -> bool:
    """Say whether a folder is a LeRobot data set."""
    return (folder / layout.INFO).is_file()


def read_info(folder: Path) -> dict[str, Any]:
    """Read `info.json`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: damaged, or of another version.
    """
    path = folder / layout.INFO
    if not path.is_file():
        raise FileNotFoundError(f"no data set in {folder}: {layout.INFO} is missing")
    info = _read_json(path)
    if info.get("codebase_version") != layout.CODEBASE_VERSION:
        raise ValueError(
            f"{folder} is of LeRobot format {info.get('codebase_version')!r}, needed "
            f"{layout.CODEBASE_VERSION!r}; LeRobot has a converter"
        )
    return info


def read_own_interface(folder: Path) -> Interface:
    """Read the interface that lies beside the data.

    Raises:
        ValueError: it is not there, or damaged.
    """
    path = folder / layout.INTERFACE
    if not path.is_file():
        raise ValueError(f"{folder} was not written by this project: {path} is missing")
    try:
        return layout.read_interface(_read_json(path)["interface"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: it must be an object")
    return data
