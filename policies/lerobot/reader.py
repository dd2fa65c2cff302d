"""Read a LeRobotDataset of format v3.0: ours, and those of others as far as they are alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import ArrowInvalid, Table, array, parquet, types

from envs.interface import Interface

from . import layout
from .episode import Array, Demonstration
from .layout import Column
from .video import decode


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
            (self._rows[index],) = _read_table(path, leave_out="stats/").to_pylist()
        return self._rows[index]

    def _read_values(self, row: dict[str, Any]) -> dict[str, Array]:
        """Read the columns of an episode's steps."""
        where = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        path = self.folder / self._info["data_path"].format(**where)
        table = _read_table(path)
        numbers = table.column("episode_index").to_numpy()
        table = table.filter(array(numbers == row["episode_index"]))
        if len(table) != row["length"]:
            raise ValueError(f"{path} is damaged: {len(table)} steps of {row['length']}")
        needed = [*(column.name for column in self.columns), layout.STATE, layout.ACTION]
        found = {name: _array(table, name) for name in ("task_index", *needed)}
        for name in (layout.STATE, layout.ACTION):
            found[name] = found[name].reshape(len(table), -1).astype(np.float32)
        if layout.LABELLED in table.column_names:
            found[layout.LABELLED] = _array(table, layout.LABELLED)
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
            table = _read_table(path, leave_out="stats/")
            rows |= {row["episode_index"]: row for row in table.to_pylist()}
        if missing := [index for index in range(len(self)) if index not in rows]:
            raise ValueError(f"{self.folder}/meta/episodes lacks the episodes {missing}")
        return rows

    def _read_tasks(self) -> dict[int, str]:
        path = self.folder / layout.TASKS
        if not path.is_file():
            return {}
        table = _read_table(path)
        (words,) = [name for name in table.column_names if name != "task_index"]
        numbers = table.column("task_index").to_pylist()
        return dict(zip(numbers, table.column(words).to_pylist(), strict=True))


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


def _array(table: Table, name: str) -> Array:
    """Give a column as [t] or [t k]."""
    column = table.column(name).combine_chunks()
    if types.is_string(column.type) or types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    if types.is_fixed_size_list(column.type) or types.is_list(column.type):
        values = column.flatten().to_numpy(zero_copy_only=False)
        if len(values) % max(1, len(table)):
            raise ValueError(f"column {name!r} is damaged: its rows have unequal lengths")
        return values.reshape(len(table), -1)
    return column.to_numpy(zero_copy_only=False)


def _read_table(path: Path, leave_out: str | None = None) -> Table:
    """Read a table, but not columns that begin with `leave_out`."""
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if leave_out is not None:
                names = [name for name in names if not name.startswith(leave_out)]
            return file.read(columns=names, use_threads=False)
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: it must be an object")
    return data
