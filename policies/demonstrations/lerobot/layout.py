"""The names of the files and columns of a LeRobot data set.

    meta/info.json                              columns, and the number of episodes
    meta/tasks.parquet                          the tasks in words
    meta/stats.json                             statistics for normalisation
    meta/episodes/chunk-000/file-000.parquet    which files and rows belong to an episode
    data/chunk-000/file-000.parquet             the table of an episode, one row per step
    videos/<column>/chunk-000/file-000.mp4      the frames of an episode from one camera
    records/interface.json                      the action and observation spec
    records/episode-000000.json                 data of the whole episode, such as its success
    records/empty-000000.json                   the same for an episode without any step

LeRobot does not use `records/`. Each episode has its own files, so complete episodes are never
written again. The format is LeRobot's `CODEBASE_VERSION = "v3.0"` (Apache-2.0; lerobot 0.4.4 and
0.6.1 read it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    """An additional column of a data set, besides state, action and images. It has a row per step.

    Attributes:
        name: name of the column. The name must not contain `/`. LeRobot uses columns whose names
            begin with `observation` or `action` as inputs and outputs of a policy.
        dtype: name of the NumPy dtype of the elements, or `string`.
        names: one name per element of a row.
        used_by_policies: must be True if the name begins with `observation` or `action`, otherwise
            False. If True, the column has statistics for normalisation.

    Raises:
        ValueError: the name is not allowed or reserved, or `names` is empty.
    """

    name: str
    dtype: Dtype
    names: tuple[str, ...]
    used_by_policies: bool = False

    def __post_init__(self) -> None:
        is_input = self.name.startswith(("observation", "action"))
        if "/" in self.name or is_input != self.used_by_policies:
            raise ValueError(
                f"a column's name must not contain '/', nor begin with 'observation' or 'action' "
                f"unless policies use it, got {self.name!r}"
            )
        if self.name in _COUNTERS or self.name == LABELLED:
            raise ValueError(f"the column name {self.name!r} is reserved; choose another")
        if not self.names:
            raise ValueError(f"column {self.name!r} needs a name for each element")


def video_key(camera: str) -> str:
    """Return the name of the column with the images of a camera, as LeRobot requires it."""
    return f"observation.images.{camera}"


def rate_of(interface: Interface) -> int:
    """Return the control rate, Hz, as a whole number, which LeRobot requires.

    Raises:
        ValueError: the rate is not a whole number.
    """
    if interface.rate_hz != int(interface.rate_hz):
        raise ValueError(f"LeRobot needs a whole number of Hz, got {interface.rate_hz}")
    return int(interface.rate_hz)


def place(index: int) -> dict[str, int]:
    """Return the chunk number and the file number in the file names of episode `index`."""
    return {"chunk_index": index // CHUNK_SIZE, "file_index": index % CHUNK_SIZE}


def all_columns(interface: Interface, columns: Sequence[Column]) -> dict[str, tuple[Dtype, int]]:
    """Return all columns of an episode's table in order: dtype and number of elements, by name."""
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
    """Return the entry `features` of `info.json`, which describes all columns.

    Args:
        interface: action and observation spec.
        columns: the additional columns.
        video: codec and pixel format of the videos.
    """
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
