"""Read LeRobot data sets of format v3.0, both of this project and of other projects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from envs.interface import Interface
from toto_robot.data.lerobot import TASKS, LeRobotFolder, read_json

from . import layout
from .demonstration import Demonstration
from .layout import Column
from .others import STANDARD, LerobotLayout, numbers


class DatasetReader:
    """A reader that returns the episodes of a data set one by one.

    Episodes that were not written completely are ignored.

    Attributes:
        folder: folder of the data set.
        interface: action and observation spec: cameras, states and actions.
        columns: additional columns, besides state, action and images.
        is_others: True if the data set is of another project and its actions are used unchanged.
    """

    def __init__(
        self,
        folder: Path,
        interface: Interface | None = None,
        others: LerobotLayout | None = None,
    ) -> None:
        """Open a data set.

        Args:
            folder: folder of the data set, which contains `meta/info.json`.
            interface: the action and observation spec. It is needed only for a data set without
                `records/interface.json`; otherwise it must be equal to the spec in this file.
            others: the columns to use of another project's data set, whose actions are kept
                unchanged (action kind `own`). The spec is then derived from these columns.

        Raises:
            FileNotFoundError: the folder has no data set.
            ValueError: the data set is damaged, has another version, has an interface that differs
                from `interface`, or lacks a needed column; or its interface is unknown.
        """
        self.folder = folder
        self._files = LeRobotFolder(folder)
        self._is_own = others is None and (folder / layout.INTERFACE).is_file()
        if others is not None:
            self.interface = others.interface(self._files)
        elif self._is_own:
            self.interface = read_own_interface(folder)
            if interface is not None:
                interface.require_equal(self.interface, "this run", str(folder))
        elif interface is None:
            raise ValueError(
                f"{folder} was not written by this project: it has no {layout.INTERFACE}, so the "
                "meaning of its states and actions is unknown. To learn its own actions: "
                "`python -m policies.train method=bc env=none layout=lerobot`"
            )
        else:
            self.interface = interface
        self.is_others = others is not None
        self._layout = STANDARD if others is None else others
        if others is None:
            self._keys = {name: layout.video_key(name) for name in self.interface.camera_names}
        else:
            self._keys = others.camera_keys(self._files)
        self.columns = self._find_columns() if others is None else ()
        self._videos = tuple(key for key in self._keys.values() if key in self._files.cameras)
        self._rows: dict[int, dict[str, Any]] = {} if self._is_own else self._read_rows()
        self._tasks = self._files.tasks() if len(self) else {}

    def __len__(self) -> int:
        return int(self._files.info["total_episodes"])

    def __iter__(self) -> Iterator[Demonstration]:
        for index in range(len(self)):
            yield self[index]

    def __getitem__(self, index: int) -> Demonstration:
        """Read an episode with its images.

        Raises:
            IndexError: the index is out of range.
            ValueError: a file of the episode is damaged; the message names the file.
        """
        row = self._row(index)
        further = tuple(column.name for column in self.columns)
        has_labels = layout.LABELLED in self._files.features
        state, actions = self._layout.state, self._layout.actions
        needed = [*state, *actions, "task_index", *((layout.LABELLED,) if has_labels else ())]
        needed += further if self._is_own else ()
        values = self._files.values(row, needed, further)
        steps, numbers_of_tasks = len(values[actions[0]]), values["task_index"]
        task = numbers_of_tasks[0].item() if numbers_of_tasks.size == steps else None
        if task not in self._tasks:
            raise ValueError(
                f"episode {index} of {self.folder} has the task {task}, which the table lacks "
                f"({self.folder / TASKS})"
            )
        others = () if self._is_own else self._rows.values()
        return Demonstration(
            interface=self.interface,
            images={
                camera: self._files.images(row, key, values["timestamp"], others)
                for camera, key in self._keys.items()
            },
            proprio=numbers(values, state),
            actions=numbers(values, actions),
            labelled=values.get(layout.LABELLED, np.ones(steps, np.bool_)),
            columns={name: values[name] for name in further if name in values},
            task=self._tasks[task],
            facts=self.facts(index),
        )

    def num_steps(self, index: int) -> int:
        """Return the number of steps of an episode."""
        return int(self._row(index)["length"])

    def facts(self, index: int) -> dict[str, Any]:
        """Return the data of a whole episode, such as its success, by name.

        The dictionary is empty for an episode without a file in `records/`.

        Raises:
            IndexError: the index is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        path = self.folder / layout.RECORD_PATH.format(index=index)
        return read_json(path) if path.is_file() else {}

    def empty_facts(self) -> list[dict[str, Any]]:
        """Return the data of each episode that ended before its first step."""
        return [
            read_json(path) for path in sorted((self.folder / "records").glob("empty-[0-9]*.json"))
        ]

    def _row(self, index: int) -> dict[str, Any]:
        """Return the row of episode `index` in the table of episodes (`meta/episodes`)."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        if index not in self._rows:  # our data sets have a file per episode
            path = self.folder / layout.EPISODES_PATH.format(**layout.place(index))
            (self._rows[index],) = self._files.episodes(self._videos, files=(path,))
        return self._rows[index]

    def _find_columns(self) -> tuple[Column, ...]:
        """Return the additional columns that can be read.

        Raises:
            ValueError: a column for state, action or images is missing.
        """
        found: list[Column] = []
        known = {*layout.all_columns(self.interface, ())}
        for name, feature in self._files.features.items():
            dtype, shape = feature["dtype"], feature.get("shape", ())
            usable = dtype in ("float32", "float64", "int64", "bool", "string") and len(shape) == 1
            if name in known or name.startswith(("observation", "action")) or not usable:
                continue
            names = feature.get("names")
            if not isinstance(names, list) or len(names) != shape[0]:
                names = [str(index) for index in range(shape[0])]
            found.append(Column(name=name, dtype=dtype, names=tuple(map(str, names))))
        lacking = [
            name
            for name in (*STANDARD.state, *STANDARD.actions, *self._keys.values())
            if name not in self._files.features
        ]
        if lacking:
            raise ValueError(
                f"{self.folder} lacks {', '.join(lacking)}; it has "
                f"{', '.join(self._files.features)}"
            )
        return tuple(found)

    def _read_rows(self) -> dict[int, dict[str, Any]]:
        """Return the rows of all episodes in the table of episodes, by index of the episode.

        This is for data sets of other projects, which may store several episodes in one file.
        """
        rows = {row["episode_index"]: row for row in self._files.episodes(self._videos)}
        if missing := [index for index in range(len(self)) if index not in rows]:
            raise ValueError(f"{self.folder}/meta/episodes lacks episodes {missing}")
        return rows


def is_dataset(folder: Path) -> bool:
    """Return whether a folder is a LeRobot data set."""
    return (folder / layout.INFO).is_file()


def read_info(folder: Path) -> dict[str, Any]:
    """Read `meta/info.json`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or the data set has another version.
    """
    return LeRobotFolder(folder).info


def read_own_interface(folder: Path) -> Interface:
    """Read the action and observation spec of a data set that this project wrote.

    Raises:
        ValueError: `records/interface.json` is missing or damaged.
    """
    path = folder / layout.INTERFACE
    if not path.is_file():
        raise ValueError(f"{folder} was not written by this project: {path} is missing")
    try:
        return Interface.from_dict(read_json(path)["interface"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
