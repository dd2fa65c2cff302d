"""Append episodes to a LeRobot data set; after a kill, the data set has only complete episodes.

Only one process can write at a time. The files of an episode are written in this order, each under
a temporary name and then renamed:

    videos, task, JSON record no other file refers to these files yet
    row in meta/episodes      refers to these files
    table of the steps
    stats.json
    info.json                 contains the number of episodes; now the episode exists

After a kill before the last step, there can be files of an episode that `info.json` does not count
yet. This project's reader and LeRobot's reader ignore such files, and they are deleted when the
folder is next opened for writing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from envs.interface import Interface
from toto_robot.config import differences
from toto_robot.data.lerobot import LeRobotFolder
from toto_robot.data.tables import read_rows
from toto_robot.files import write_aside
from toto_robot.locks import lock

from . import layout, statistics, tables
from .demonstration import Array, Demonstration
from .layout import Column
from .reader import read_info, read_own_interface
from .statistics import Statistics
from .video import LOSSLESS, Codec, check_size, encode

FORMAT = 1


class DatasetWriter:
    """A writer that appends episodes to a data set. It creates the data set if necessary.

    Attributes:
        folder: folder of the data set.
        interface: action and observation spec: cameras, states and actions.
    """

    def __init__(
        self,
        folder: Path,
        interface: Interface,
        columns: Sequence[Column] = (),
        codec: Codec = LOSSLESS,
    ) -> None:
        """Open a data set for writing: lock the folder, and delete files of incomplete episodes.

        Args:
            folder: a new folder, or the folder of a data set with the same interface, columns and
                codec.
            interface: action and observation spec: cameras, states and actions.
            columns: additional columns, besides state, action and images.
            codec: video codec. The default is lossless RGB, so toto-nano computes the same tokens
                from the videos as from the images; a rendered image of 128 x 128 pixels takes
                3.2 KB. With `small(0)` such an image takes 1.6 KB, and 27 % of the tokens change.

        Raises:
            ValueError: another process writes to the folder, the data set in it has another
                interface or other columns, the codec cannot store images of a camera's size, or the
                control rate is not a whole number of Hz.
        """
        self.folder, self.interface = folder, interface
        self._columns, self._codec = tuple(columns), codec
        # What LeRobot's policies normalise, beside images. Each episode has its own statistics, so
        # those of further columns would make opening slow.
        used = (column.name for column in columns if column.used_by_policies)
        self._normalised = (layout.STATE, layout.ACTION, *used)
        self._rate_hz = layout.rate_of(interface)
        for camera in interface.cameras:  # before an episode is recorded that cannot be stored
            check_size(camera.height, camera.width, codec)
        (folder / "records").mkdir(parents=True, exist_ok=True)
        (folder / "meta").mkdir(exist_ok=True)
        self._lock = lock(folder)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Return the number of episodes, without those that ended before their first step."""
        return self._length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the folder. A second call does nothing."""
        self._lock.close()

    def append(self, episode: Demonstration) -> int:
        """Write an episode to disk and return its index.

        Raises:
            ValueError: interface or columns of the episode differ from those of the data set, or
                the writer is closed.
        """
        if self._lock.closed:
            raise ValueError(f"{self.folder} is closed")
        self.interface.require_equal(episode.interface, str(self.folder), "the episode")
        index, where = self._length, layout.place(self._length)
        table, found = self._table(episode, index)
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [episode.task],
            "length": episode.num_steps,
            **{f"data/{name}": value for name, value in where.items()},
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + episode.num_steps,
            **{f"meta/episodes/{name}": value for name, value in where.items()},
        }
        for camera in self.interface.camera_names:
            key = layout.video_key(camera)
            data = encode(episode.images[camera], self._rate_hz, self._codec)
            self._write(layout.VIDEO_PATH.format(video_key=key, **where), data)
            found[key] = statistics.of_images(episode.images[camera])
            row |= {f"videos/{key}/{name}": value for name, value in where.items()}
            row |= {
                f"videos/{key}/from_timestamp": 0.0,
                f"videos/{key}/to_timestamp": episode.num_steps / self._rate_hz,
            }
        for name, values in found.items():
            row |= {f"stats/{name}/{kind}": value.tolist() for kind, value in values.items()}
        if episode.task not in self._tasks:
            self._tasks.append(episode.task)
            self._write(layout.TASKS, tables.of_tasks(self._tasks))
        facts = {"format": FORMAT, "episode": index, "task": episode.task, **episode.facts}
        self._write(layout.RECORD_PATH.format(index=index), _json(facts))
        self._write(layout.EPISODES_PATH.format(**where), tables.of_row(row))
        self._write(layout.DATA_PATH.format(**where), table)
        merged = _merge(self._statistics, found)
        plain = {
            name: {kind: value.tolist() for kind, value in values.items()}
            for name, values in merged.items()
        }
        self._write(layout.STATS, _json(plain))
        self._commit(self._length + 1, self._num_frames + episode.num_steps)
        self._statistics = merged
        return index

    def append_empty(self, facts: Mapping[str, Any]) -> None:
        """Write the data `facts` of an episode that ended before its first step."""
        if self._lock.closed:
            raise ValueError(f"{self.folder} is closed")
        index = len(list((self.folder / "records").glob("empty-[0-9]*.json")))
        data = {"format": FORMAT, "episode": None, **facts}
        self._write(layout.EMPTY_PATH.format(index=index), _json(data))

    def _open(self) -> None:
        if (self.folder / layout.INFO).exists():
            self._check()
        else:
            self._tasks: list[str] = []
            data = self.interface.to_dict()
            self._write(layout.INTERFACE, _json({"format": FORMAT, "interface": data}))
            self._commit(0, 0)
        info = read_info(self.folder)
        self._length, self._num_frames = info["total_episodes"], info["total_frames"]
        self._tasks = []
        if (self.folder / layout.TASKS).exists():
            self._tasks = [text for _, text in sorted(LeRobotFolder(self.folder).tasks().items())]
        self._repair()
        self._statistics = self._read_statistics()

    def _check(self) -> None:
        """Check that the data set in the folder has this interface and these columns.

        Raises:
            ValueError: they differ; the message lists the differences.
        """
        found = read_own_interface(self.folder)
        found.require_equal(self.interface, str(self.folder), "this recording")
        if lines := differences(read_info(self.folder)["features"], self._features()):
            raise ValueError(
                f"{self.folder} has other columns (there != here); choose another folder:\n  "
                + "\n  ".join(lines)
            )

    def _features(self) -> dict[str, Any]:
        return layout.features(
            self.interface,
            self._columns,
            {"video.codec": "h264", "video.pix_fmt": self._codec.stored_format},
        )

    def _commit(self, length: int, num_frames: int) -> None:
        """Write `info.json`, as the last file of an episode.

        Args:
            length: number of episodes.
            num_frames: number of steps of all episodes.
        """
        info = {
            "codebase_version": layout.CODEBASE_VERSION,
            "robot_type": self.interface.arm,
            "total_episodes": length,
            "total_frames": num_frames,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self._rate_hz,
            "splits": {"train": f"0:{length}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH if self.interface.cameras else None,
            "features": self._features(),
        }
        self._write(layout.INFO, _json(info))
        self._length, self._num_frames = length, num_frames

    def _repair(self) -> None:
        """Delete the files of episodes that were not written completely."""
        for path in self.folder.rglob("*"):
            index = _index_of(path)
            is_aside = path.name.startswith(".") and path.name.endswith(".part")
            if is_aside or (index is not None and index >= self._length):
                path.unlink()

    def _read_statistics(self) -> dict[str, Statistics]:
        """Return the statistics of all episodes, by name of the column.

        They are read from `stats.json`. If their number of steps is not that of the data set,
        because a process was killed, they are computed again from the statistics of each episode.
        """
        path = self.folder / layout.STATS
        data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if data and data[layout.ACTION]["count"] == [self._num_frames]:
            return {
                name: {kind: np.array(value) for kind, value in values.items()}
                for name, values in data.items()
            }
        merged: dict[str, Statistics] = {}
        for index in range(self._length):
            row_path = self.folder / layout.EPISODES_PATH.format(**layout.place(index))
            (row,) = read_rows(row_path)
            found: dict[str, Statistics] = {}
            for name, value in row.items():
                if name.startswith("stats/"):
                    _, key, kind = name.split("/")
                    found.setdefault(key, {})[kind] = np.array(value)
            merged = _merge(merged, found)
        return merged

    def _table(self, episode: Demonstration, index: int) -> tuple[bytes, dict[str, Statistics]]:
        """Return the Parquet table of an episode's steps, and the statistics of its columns."""
        steps = episode.num_steps
        task = episode.task
        number = self._tasks.index(task) if task in self._tasks else len(self._tasks)
        values: dict[str, Array] = {
            layout.STATE: episode.proprio,
            layout.ACTION: episode.actions,
            layout.LABELLED: episode.labelled,
            **episode.columns,
            "timestamp": (np.arange(steps) / self._rate_hz).astype(np.float32),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, index),
            "index": np.arange(self._num_frames, self._num_frames + steps),
            "task_index": np.full(steps, number),
        }
        expected = layout.all_columns(self.interface, self._columns)
        if set(values) != set(expected):
            raise ValueError(
                f"the data set has the columns {sorted(expected)}, the episode has {sorted(values)}"
            )
        columns: dict[str, Array] = {}
        found: dict[str, Statistics] = {}
        for name, (dtype, width) in expected.items():
            column = values[name]
            if column.reshape(steps, -1).shape[1] != width:
                raise ValueError(f"column {name!r} must have {width} elements, got {column.shape}")
            column = column.astype(object if dtype == "string" else dtype)
            # LeRobot stores a single number as a scalar, not as a list
            columns[name] = column.reshape(steps) if width == 1 else column
            if name in self._normalised:
                found[name] = statistics.of_column(column)
        return tables.of_columns(columns), found

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, data)


def _merge(
    before: Mapping[str, Statistics], found: Mapping[str, Statistics]
) -> dict[str, Statistics]:
    if not before:
        return dict(found)
    return {name: statistics.merge(before[name], values) for name, values in found.items()}


_NUMBERED = re.compile(
    r"(?:chunk-(?P<chunk>\d+)/file-(?P<file>\d+)\.(?:parquet|mp4)|episode-(?P<episode>\d+)\.json)$"
)


def _index_of(path: Path) -> int | None:
    """Return the index of the episode to which a file belongs; None: it belongs to all episodes."""
    found = _NUMBERED.search(path.as_posix())
    if found is None:
        return None
    if found["episode"] is not None:
        return int(found["episode"])
    return int(found["chunk"]) * layout.CHUNK_SIZE + int(found["file"])


def _json(data: Any) -> bytes:
    return (json.dumps(_plain(data), indent=1, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """Return a value as data that can be written as JSON; unknown types become strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
