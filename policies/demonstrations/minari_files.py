"""Read the files of a local Minari data set. The library `minari` is not needed.

    data/metadata.json                      observation_space, action_space, env_spec, data_format,
                                            total_episodes
    data/main_data.hdf5                     data_format hdf5: a group `episode_<n>` per episode
    data/<n>/*.arrow or data/<n>/*.parquet  data_format arrow or parquet: a table per episode
    data/<n>/metadata.json                  and its attributes

An episode has `actions` of T steps, `observations` and `infos` of T + 1 frames, and the attributes
`seed` and `options` of its reset. Observations and infos are arrays, or groups (in tables: structs)
of arrays, like the Dict and Tuple spaces of the environment. Images may be stored as JPEG.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toto_robot.data.lerobot import read_json
from toto_robot.data.tables import column_array, read_table, require_pyarrow
from toto_robot.data.walk import require_regular, walk

from .hdf5 import member, open_hdf5, read_tree

__all__ = ["MinariFolder", "RecordedEpisode"]

Array = NDArray[Any]
Tree = Any  # an array, or a dictionary or tuple of trees

METADATA, MAIN_FILE = "metadata.json", "main_data.hdf5"
FORMATS = ("hdf5", "arrow", "parquet")
_ONCE = ("actions", "observations", "rewards", "terminations", "truncations")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedEpisode:
    """An episode of T steps, as Minari stored it.

    Attributes:
        observations: arrays [T+1 ...], in the dictionaries and tuples of the observation space.
        actions: [T ...], in the units of the environment.
        others: other arrays, by name: `infos`, and groups that a callback added, such as `state`.
        seed: seed of the reset; None: not recorded.
        options: options of the reset; None: not recorded.
    """

    observations: Tree
    actions: Array
    others: Mapping[str, Tree]
    seed: int | None
    options: dict[str, Any] | None


class MinariFolder:
    """An opened data set.

    Attributes:
        folder: the folder `data` of the data set.
        metadata: content of `metadata.json`.
        data_format: `hdf5`, `arrow` or `parquet`.
    """

    def __init__(self, path: Path) -> None:
        """Open a data set.

        Args:
            path: folder of the data set, such as `~/.minari/datasets/D4RL/kitchen/complete-v2`.

        Raises:
            FileNotFoundError: there is no data set in the folder.
            ValueError: `metadata.json` is damaged, or its data format is unknown.
        """
        path = path.expanduser()
        self.folder = path if (path / METADATA).is_file() else path / "data"
        if not (self.folder / METADATA).is_file():
            raise FileNotFoundError(
                f"no Minari data set in {path}: data/{METADATA} is missing (Minari 0.5 and newer "
                "write it)"
            )
        self.metadata = read_json(self.folder / METADATA)
        self.data_format = self.metadata.get("data_format")
        if self.data_format not in FORMATS:
            raise ValueError(
                f"{self.folder / METADATA}: data_format must be one of {', '.join(FORMATS)}, got "
                f"{self.data_format!r}"
            )

    def names(self) -> list[str]:
        """Return the names of the episodes in order: `<data set>/episode_<n>`.

        Raises:
            FileNotFoundError: there are no episodes.
            ValueError: the file of the episodes is damaged.
        """
        if self.data_format == "hdf5":
            with open_hdf5(self.folder / MAIN_FILE, "minari") as file:
                numbers = [name.removeprefix("episode_") for name in file if _is_episode(name)]
        else:
            numbers = [one.name for one in self.folder.iterdir() if one.name.isdecimal()]
        if not numbers:
            raise FileNotFoundError(f"no episodes in {self.folder}")
        return [self._name(number) for number in sorted(map(int, numbers))]

    def missing(self) -> list[str]:
        """Return the names of the episodes that `metadata.json` counts, but that do not exist."""
        total = self.metadata.get("total_episodes")
        there = set(self.names())
        expected = map(self._name, range(total if isinstance(total, int) else 0))
        return [name for name in expected if name not in there]

    def _name(self, number: int) -> str:
        place = self.folder.parent if self.folder.name == "data" else self.folder
        return f"{self.metadata.get('dataset_id') or place.name}/episode_{number}"

    def env_spec(self) -> dict[str, Any] | None:
        """Return the description of the environment by Gymnasium; None: it was not recorded.

        Raises:
            ValueError: the description is damaged.
        """
        text = self.metadata.get("env_spec")
        if text is None:
            return None
        try:
            found = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.folder / METADATA}: env_spec is damaged: {error}") from error
        if not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise ValueError(f"{self.folder / METADATA}: env_spec has no environment id")
        return found

    def space(self, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and dtype of each entry of a space, by path, such as `desired_goal/kettle`.

        Args:
            name: `observation` or `action`.

        Raises:
            ValueError: the description of the space is missing or damaged.
        """
        text = self.metadata.get(f"{name}_space", "null")
        try:
            return _entries(json.loads(text))
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{self.folder / METADATA}: {name}_space is missing or damaged: {error!r}"
            ) from error

    def read(self, names: list[str]) -> Iterator[RecordedEpisode | ValueError]:
        """Read the episodes with these names.

        Yields:
            For each name, the episode. If it cannot be read, an error instead, which says why.
        """
        if self.data_format != "hdf5":
            for name in names:
                yield _caught(lambda name=name: self._from_table(name))
            return
        with open_hdf5(self.folder / MAIN_FILE, "minari") as file:
            for name in names:
                yield _caught(lambda name=name: _from_group(file, name.rpartition("/")[2]))

    def _from_table(self, name: str) -> RecordedEpisode:
        folder = self.folder / name.rpartition("_")[2]
        columns = _columns(folder, f".{self.data_format}")
        path = folder / METADATA
        attributes = read_json(path) if path.is_file() else {}
        options = attributes.get("options")
        return _episode(
            # a table has as many actions as observations, and the last one is a placeholder
            {**columns, "actions": columns["actions"][:-1]} if "actions" in columns else columns,
            attributes.get("seed"),
            None if options is None else _with_arrays(options),
        )


def _entries(
    space: Mapping[str, Any], path: tuple[str, ...] = ()
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of each entry of a space that Minari described in JSON, by path."""
    kind = space["type"]
    if kind in ("Dict", "Tuple"):
        below = space["subspaces"]
        pairs = below.items() if kind == "Dict" else enumerate(below)
        made = [_entries(one, (*path, str(name))) for name, one in pairs]
        return {key: entry for one in made for key, entry in one.items()}
    shape = np.shape(space["nvec"]) if kind == "MultiDiscrete" else space.get("shape", ())
    if kind == "MultiBinary":
        shape = np.atleast_1d(space["n"])
    return {"/".join(path): (tuple(map(int, shape)), str(space.get("dtype", "int8")))}


def _caught(read: Any) -> RecordedEpisode | ValueError:
    try:
        return read()
    except (ValueError, KeyError, OSError, MemoryError, TypeError) as error:
        return error if isinstance(error, ValueError) else ValueError(f"cannot be read: {error}")


def _is_episode(name: str) -> bool:
    return re.fullmatch(r"episode_\d+", name) is not None


def _from_group(file: Any, name: str) -> RecordedEpisode:
    group = member(file, name, str(file.filename), is_group=True)
    attributes = dict(group.attrs)
    options: dict[str, Any] = {}
    for key, value in attributes.items():  # stored flat: options/initial_state_dict/qpos
        first, *path = key.split("/")
        if first == "options" and path:
            inner = options
            for part in path[:-1]:
                inner = inner.setdefault(part, {})
            inner[path[-1]] = value
    return _episode(read_tree(group, name), attributes.get("seed"), options or None)


def _episode(
    arrays: Mapping[str, Tree], seed: Any, options: dict[str, Any] | None
) -> RecordedEpisode:
    if lacking := [name for name in ("observations", "actions") if name not in arrays]:
        raise ValueError(f"lacks {', '.join(lacking)}; it has {', '.join(sorted(arrays))}")
    if not isinstance(arrays["actions"], np.ndarray):
        raise ValueError("its actions are not one array, as the actions of a Box space are")
    return RecordedEpisode(
        observations=_with_tuples(arrays["observations"]),
        actions=arrays["actions"],
        others={name: one for name, one in arrays.items() if name not in _ONCE},
        seed=None if seed is None else int(seed),
        options=options,
    )


def _with_tuples(tree: Tree) -> Tree:
    """Return a tree in which the groups of Tuple spaces are tuples.

    Their members have the names `_index_0`, `_index_1` (HDF5) or `0`, `1` (tables).
    """
    if not isinstance(tree, dict):
        return tree
    made = {name: _with_tuples(one) for name, one in tree.items()}
    for prefix in ("_index_", ""):
        names = [f"{prefix}{index}" for index in range(len(made))]
        if made and set(names) == set(made):
            return tuple(made[name] for name in names)
    return made


def _with_arrays(options: Any) -> Any:
    """Return options from a JSON file with arrays instead of lists of numbers."""
    if isinstance(options, dict):
        return {name: _with_arrays(one) for name, one in options.items()}
    return np.asarray(options) if isinstance(options, list) else options


def _columns(folder: Path, suffix: str) -> dict[str, Tree]:
    """Return the columns of the table of an episode, by name."""
    paths = walk(folder, (suffix,), deep=False)
    if not paths:
        raise ValueError(f"{folder} has no file *{suffix}")
    tables = [read_table(path, None) if suffix == ".parquet" else _arrow(path) for path in paths]
    import pyarrow

    table = pyarrow.concat_tables(tables)
    return {
        name: _from_column(table[name].combine_chunks())
        for name in table.column_names
        if name != "episode_id"
    }


def _arrow(path: Path) -> Any:
    """Read a table in Arrow's file format.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is damaged.
    """
    pyarrow = require_pyarrow("Minari data sets of the format arrow need")
    require_regular(path)
    try:
        with pyarrow.ipc.open_file(path) as file:
            return file.read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _from_column(column: Any) -> Tree:
    import pyarrow

    if pyarrow.types.is_struct(column.type):
        fields = [field.name for field in column.type]
        return {name: _from_column(column.field(name)) for name in fields}
    return column_array(pyarrow.chunked_array([column]))
