"""Read episodes of a LeRobot data set for probes. Any numeric column can be the target."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.lerobot import INFO, LeRobotFolder

__all__ = [
    "arrays_of",
    "episode_paths",
    "frames_of",
    "is_lerobot",
    "readable",
    "usual_column",
]

Array = NDArray[Any]
Kind = Literal["action", "state", "label"]
_USUAL: dict[Kind, tuple[str, ...]] = {
    "action": ("action",),
    "state": ("observation.state",),
    "label": ("next.success", "success"),
}
_JOINTS = "observation.state"


def is_lerobot(folder: Path) -> bool:
    """Return True if a folder is a LeRobot data set."""
    return (folder / INFO).is_file()


class _Opened:
    """An opened data set, and the row of each episode in the episode table."""

    def __init__(self, folder: Path) -> None:
        self.files = LeRobotFolder(folder)
        self.cameras = (*self.files.cameras, *self.files.image_columns)
        if not self.cameras:
            raise ValueError(f"{folder} has no column of images: it has {[*self.files.features]}")
        rows = self.files.episodes(self.files.cameras)
        self.rows = {folder / f"episode_{row['episode_index']:06}": row for row in rows}


@lru_cache(maxsize=2)
def _open(folder: Path, changed_ns: int) -> _Opened:
    del changed_ns  # only part of the cache key: a changed data set is opened again
    return _Opened(folder)


def _opened(folder: Path) -> _Opened:
    return _open(folder, (folder / INFO).stat().st_mtime_ns)


def episode_paths(folder: Path) -> list[Path]:
    """Return a path for each episode, such as `<folder>/episode_000003`.

    The path only identifies the episode. There is no file with this name.
    """
    return [*_opened(folder).rows]


def usual_column(folder: Path, kind: Kind | None) -> str:
    """Return the name of the default column for a kind of target: `action`, `state` or `label`.

    Without a target, it is empty.
    """
    if kind is None:
        return ""
    there = _opened(folder).files.features
    return next((name for name in _USUAL[kind] if name in there), _USUAL[kind][0])


def arrays_of(path: Path, column: str) -> dict[str, Array]:
    """Return a dictionary of the target column of an episode, its element names, and `proprio`.

    `proprio` (proprioception) is left out if it is the target column. If the name of the column is
    empty, the only array is [t 0], for t steps.

    Raises:
        ValueError: the data set does not have the column, or the episode is damaged.
    """
    opened = _opened(path.parent)
    if not column:
        steps = len(opened.files.values(opened.rows[path], ())["timestamp"])
        return {column: np.zeros((steps, 0))}
    names = opened.files.element_names(column)
    values = opened.files.values(opened.rows[path], (column,), (_JOINTS,))
    found = {column: values[column], f"{column}_names": np.array(names)}
    if column != _JOINTS and _JOINTS in values:
        found["proprio"] = values[_JOINTS].reshape(len(values[_JOINTS]), -1)
    return found


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    """Return the images of an episode, one array for each camera, uint8 [t h w 3] for t steps.

    Raises:
        ValueError: a step has no image, or a file is damaged.
    """
    opened = _opened(path.parent)
    row, rows = opened.rows[path], opened.rows.values()
    times_s = opened.files.values(row, ())["timestamp"]
    return [opened.files.images(row, camera, times_s, rows) for camera in opened.cameras]


def readable(paths: list[Path], column: str) -> list[Path]:
    """Return the episodes whose column and images can be read. Report the others.

    Raises:
        ValueError: no episode can be read, or the data set does not have the column.
    """
    if column:
        _opened(paths[0].parent).files.element_names(column)
    good, reasons = list[Path](), list[str]()
    for path in tqdm(paths, desc="check", unit="episode", leave=False):
        try:
            arrays_of(path, column)
            frames_of(path)
        except ValueError as error:
            reasons.append(f"left out: {path.name}: {error}")
            tqdm.write(reasons[-1])
            continue
        good.append(path)
    if not good:
        raise ValueError(f"no episode of {paths[0].parent} can be read; {reasons[0]}")
    return good
