"""What lies where in a data set, and what its columns are.

    meta/info.json                              features, and how many episodes there are
    meta/tasks.parquet, meta/stats.json
    meta/episodes/chunk-000/file-000.parquet    where an episode's rows and frames are
    data/chunk-000/file-000.parquet             its rows
    videos/<key>/chunk-000/file-000.mp4         its frames, a file for each camera
    records/interface.json                      ours: what the numbers mean
    records/episode-000000.json                 ours: what belongs to an episode as a whole
    records/empty-000000.json                   ours: an episode that ended before its first step

An episode has files of its own, so that nothing that is finished is ever touched again. The format
is that of LeRobot's `CODEBASE_VERSION = "v3.0"` (Apache-2.0; lerobot 0.4.4 and 0.6.1 read it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from envs.interface import Interface
from toto_robot.data.lerobot import CODEBASE_VERSION as CODEBASE_VERSION
from toto_robot.data.lerobot import INFO as INFO
from toto_robot.data.lerobot import TASKS as TASKS

CHUNK_SIZE = 1000  # files in a folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
STATS = "meta/stats.json"
INTERFACE = "records/interface.json"
RECORD_PATH = "records/episode-{index:06d}.json"
EMPTY_PATH = "records/empty-{index:06d}.json"

STATE, ACTION = "observation.state", "action"
LABELLED = "labelled"
_COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}

Dtype = Literal["float32", "float64", "int64", "bool", "string"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Name what a data set holds of each step, beside state, action and pictures.

    Attributes:
        name: without `/`; LeRobot takes what begins with `observation` or `action` for a policy's.
        dtype: of the elements.
        names: one for each element.
    """

    name: str
    dtype: Dtype
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if "/" in self.name or self.name.startswith(("observation", "action")):
            raise ValueError(f"{self.name!r}: no '/', and neither observation nor action in front")
        if self.name in _COUNTERS or self.name == LABELLED:
            raise ValueError(f"a column {self.name!r} is there already")
        if not self.names:
            raise ValueError(f"column {self.name!r} needs a name for each element")

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Return the dtype of its array."""
        return np.dtype(object if self.dtype == "string" else self.dtype)


def video_key(camera: str) -> str:
    """Return LeRobot's name of a camera's pictures."""
    return f"observation.images.{camera}"


def rate_of(interface: Interface) -> int:
    """Return the frames per second, which LeRobot counts in whole numbers.

    Raises:
        ValueError: they are none.
    """
    if interface.rate_hz != int(interface.rate_hz):
        raise ValueError(f"LeRobot needs whole frames per second, not {interface.rate_hz}")
    return int(interface.rate_hz)


def place(index: int) -> dict[str, int]:
    """Return the place of an episode's files."""
    return {"chunk_index": index // CHUNK_SIZE, "file_index": index % CHUNK_SIZE}


def all_columns(interface: Interface, columns: Sequence[Column]) -> dict[str, tuple[Dtype, int]]:
    """Return dtype and width of every column of an episode's table, in order."""
    found: dict[str, tuple[Dtype, int]] = {
        STATE: ("float32", len(interface.proprio)),
        ACTION: ("float32", len(interface.action)),
        LABELLED: ("bool", 1),
    }
    found |= {column.name: (column.dtype, len(column.names)) for column in columns}
    counters: dict[str, Dtype] = _COUNTERS  # pyrefly: ignore  # written as plain strings above
    return found | {name: (dtype, 1) for name, dtype in counters.items()}


def features(
    interface: Interface, columns: Sequence[Column], video: dict[str, Any]
) -> dict[str, Any]:
    """Return `features` of `info.json`; `video` says how the pictures are coded."""
    names: dict[str, list[str] | None] = {
        STATE: list(interface.proprio),
        ACTION: list(interface.action),
    }
    names |= {column.name: list(column.names) for column in columns}
    found: dict[str, Any] = {
        name: {"dtype": dtype, "shape": [width], "names": names.get(name)}
        for name, (dtype, width) in all_columns(interface, columns).items()
    }
    for camera in interface.cameras:
        found[video_key(camera.name)] = {
            "dtype": "video",
            "shape": [camera.height, camera.width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": camera.height,
                "video.width": camera.width,
                "video.channels": 3,
                "video.fps": rate_of(interface),
                "video.is_depth_map": False,
                "has_audio": False,
                **video,
            },
        }
    return found
