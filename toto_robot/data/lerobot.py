"""LeRobot data sets of format v3.0, ours and those of others: what lies where, tables and images.

    meta/info.json                              columns ("features"), frames a second, templates
    meta/tasks.parquet                          texts, by task_index
    meta/episodes/chunk-000/file-000.parquet    where the rows and frames of episodes are
    data/chunk-000/file-000.parquet             rows, of one or many episodes
    videos/<key>/chunk-000/file-000.mp4         frames, of one or many episodes

Whoever trains on such a data set reads it here. Images belong to rows by their times alone: the one
that is nearest to a row's time, within half a frame, or an error. Data sets of others may say
anything, so paths must stay in the folder and every table is checked. No torch.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .walk import walk

__all__ = ["CODEBASE_VERSION", "LeRobotFolder", "read_json", "read_rows"]

Array = NDArray[Any]

CODEBASE_VERSION = "v3.0"
INFO, TASKS = "meta/info.json", "meta/tasks.parquet"
_PLACE = ("chunk_index", "file_index")
_DATA_PLACE = ("data/chunk_index", "data/file_index")
_TEMPLATE_FIELDS = ("video_key", *_PLACE)


class LeRobotFolder:
    """An opened data set.

    Attributes:
        folder: where it is.
        info: what `meta/info.json` holds.
        rate_hz: frames a second.
        features: by the name of each column, its `dtype`, `shape` and more.
        cameras: names of the columns of images that are kept as videos.
        image_columns: names of the columns of images that are kept in the tables.
    """

    def __init__(self, folder: Path) -> None:
        """Read `meta/info.json`.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is damaged, or of another version.
        """
        self.folder, self.info = folder, _read_info(folder)
        path, rate_hz, features = folder / INFO, self.info.get("fps"), self.info.get("features")
        if not isinstance(rate_hz, (int, float)) or not 0 < rate_hz < math.inf:
            raise ValueError(f"{path} is damaged: fps must be a positive number, got {rate_hz!r}")
        if not isinstance(features, dict) or not all(
            isinstance(feature, dict) and "dtype" in feature for feature in features.values()
        ):
            raise ValueError(f"{path} is damaged: features must have a dtype each")
        self.rate_hz = float(rate_hz)
        self.features: dict[str, dict[str, Any]] = features
        self.cameras, self.image_columns = (
            tuple(name for name, feature in features.items() if feature["dtype"] == dtype)
            for dtype in ("video", "image")
        )
        self._rows_of: dict[Path, list[tuple[float, int]]] = {}

    def episodes(
        self,
        cameras: Iterable[str],
        columns: Iterable[str] = _DATA_PLACE,
        files: Sequence[Path] = (),
    ) -> list[dict[str, Any]]:
        """Return the rows of the episodes' table in the order of their numbers.

        Args:
            cameras: of which each row says where the frames are.
            columns: what else each row says: where the steps are.
            files: of the table; empty: all that are there.

        Raises:
            ValueError: a table is damaged, or lacks a column.
        """
        names = ["episode_index", "length", *columns]
        for camera in cameras:
            fields = (*_PLACE, "from_timestamp", "to_timestamp")
            names += [f"videos/{camera}/{field}" for field in fields]
        paths = files or walk(self.folder / "meta" / "episodes", (".parquet",))
        if not paths:
            raise ValueError(f"{self.folder} has no meta/episodes/*/*.parquet")
        rows = [row for path in paths for row in read_rows(path, names)]
        for row in rows:
            for name in names:
                counts = not name.endswith("_timestamp")
                if not _is_number(row[name], counts):
                    raise ValueError(f"{self.folder}/meta/episodes: {name} is {row[name]!r}")
        return sorted(rows, key=lambda row: row["episode_index"])

    def tasks(self) -> dict[int, str]:
        """Return the tasks in words, by `task_index`.

        Raises:
            ValueError: the table is damaged.
        """
        path = self.folder / TASKS
        rows = read_rows(path)
        # LeRobot names the column of words in one of two ways.
        words = [name for name in (rows[0] if rows else {}) if name != "task_index"]
        try:
            return {int(row["task_index"]): str(row[words[0]]) for row in rows}
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: no tasks with their numbers") from error

    def data_file(self, row: Mapping[str, Any]) -> Path:
        """Return the file of an episode's rows.

        Raises:
            ValueError: the template leads out of the folder.
        """
        return self._inside("data_path", {name: row[f"data/{name}"] for name in _PLACE})

    def video_file(self, row: Mapping[str, Any], camera: str) -> Path:
        """Return the file of an episode's frames.

        Raises:
            ValueError: the template leads out of the folder.
        """
        place = {name: row[f"videos/{camera}/{name}"] for name in _PLACE}
        return self._inside("video_path", {"video_key": camera, **place})

    def values(
        self, row: Mapping[str, Any], needed: Sequence[str], carried: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Return columns of an episode's steps, [t] or [t k]; words and bytes as objects.

        Args:
            row: of the episodes' table.
            needed: columns that must be there.
            carried: columns that are left out if the data set lacks them, or if their rows have
                unequal lengths.

        Raises:
            ValueError: the table is damaged or lacks a column; the message names it.
        """
        path, number = self.data_file(row), row["episode_index"]
        place = f"{path}, episode {number}"
        table = _read(path, ("episode_index", *needed), (*carried, "timestamp"))
        rows = np.flatnonzero(table.column("episode_index").to_numpy() == number)
        if len(rows) != row["length"] or not len(rows):
            raise ValueError(f"{path} is damaged: {len(rows)} steps of {row['length']}")
        table = table.take(rows)
        found: dict[str, Array] = {}
        for name in table.column_names:
            try:
                found[name] = _array(table.column(name))
            except ValueError as error:
                if name not in carried:
                    raise ValueError(f"{place}: column {name!r}: {error}") from error
        if "timestamp" not in found:
            found["timestamp"] = np.arange(len(rows)) / self.rate_hz
        times = found["timestamp"].astype(np.float64)
        if times.ndim != 1 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise ValueError(f"{place}: the times of its steps do not increase")
        return found

    def images(
        self,
        row: Mapping[str, Any],
        camera: str,
        timestamps_s: Array,
        episodes: Iterable[Mapping[str, Any]] = (),
    ) -> NDArray[np.uint8]:
        """Return the image of each step, uint8 [t h w 3].

        Args:
            row: of the episodes' table.
            camera: name of a column of images.
            timestamps_s: times of the steps in the episode.
            episodes: rows of all episodes, as far as they are known; they say how many frames a
                video should have.

        Raises:
            ValueError: a file is damaged, or a step has no image; the message names the episode,
                the step and the gap to the nearest image.
        """
        if camera in self.image_columns:
            return self._images_in_table(row, camera)
        from .video import read_frames_at

        path = self.video_file(row, camera)
        if path not in self._rows_of:
            self._rows_of[path] = sorted(
                (float(one[f"videos/{camera}/from_timestamp"]), one["length"])
                for one in (list(episodes) or [row])
                if self.video_file(one, camera) == path
            )
        start_s, end_s = (
            float(row[f"videos/{camera}/{name}_timestamp"]) for name in ("from", "to")
        )
        wanted_s = start_s + timestamps_s.astype(np.float64)
        try:
            chosen = _match(_times(path), wanted_s, end_s, self.rate_hz)
            _require_in_place(_times(path), chosen, start_s, self._rows_of[path], self.rate_hz)
        except ValueError as error:
            place = f"episode {row['episode_index']} of {self.folder}, camera {camera}"
            raise ValueError(f"{place}: {error} ({path})") from error
        return read_frames_at(path, _times(path)[chosen])

    def _images_in_table(self, row: Mapping[str, Any], camera: str) -> NDArray[np.uint8]:
        """Return images whose files lie in the table, or beside it where the table names them."""
        from .images import decode_image

        found: list[NDArray[np.uint8]] = []
        for step, cell in enumerate(self.values(row, (camera,))[camera]):
            try:
                data = cell["bytes"] or self._inside_path(cell["path"], camera).read_bytes()
                found.append(decode_image(data))
            except (OSError, TypeError, KeyError, ValueError) as error:
                place = f"episode {row['episode_index']} of {self.folder}, camera {camera}"
                raise ValueError(f"{place}, step {step}: {error}") from error
        if len({image.shape for image in found}) > 1:
            raise ValueError(f"{self.folder}: images of {camera} differ in size")
        return np.stack(found)

    def _inside(self, name: str, fields: Mapping[str, Any]) -> Path:
        """Fill in a template of `info.json` and return the file, which must lie in the folder."""
        template = self.info.get(name)
        if not isinstance(template, str):
            raise ValueError(f"{self.folder / INFO}: {name} must be a text, got {template!r}")
        try:
            for _, field, form, conversion in Formatter().parse(template):
                if field is not None and (field not in _TEMPLATE_FIELDS or conversion):
                    raise ValueError(f"unknown field {field!r}")
                if form and not (len(form) <= 3 and (form.rstrip("d") or "0").isdecimal()):
                    raise ValueError(f"unknown format {form!r}")
            filled = template.format(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.folder / INFO}: {name} {template!r}: {error}") from error
        return self._inside_path(filled, name)

    def _inside_path(self, text: str, name: str) -> Path:
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts or "://" in text or "\\" in text:
            raise ValueError(f"{self.folder / INFO}: {name} leads out of the folder: {text!r}")
        return self.folder / path


def read_json(path: Path) -> dict[str, Any]:
    """Read an object of a JSON file.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: it must be an object")
    return data


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return a table's rows as plain data; `columns` None: all.

    Raises:
        ValueError: it cannot be read, or lacks a column; the message names it.
    """
    return _read(path, columns).to_pylist()


def _is_number(value: object, counts: bool) -> bool:
    """Return whether it is a whole number of at least 0, or else any finite one."""
    if counts:
        return isinstance(value, int) and value >= 0
    return isinstance(value, (int, float)) and math.isfinite(value)


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    if not path.is_file():
        raise FileNotFoundError(f"no data set in {folder}: {INFO} is missing")
    info = read_json(path)
    if info.get("codebase_version") != CODEBASE_VERSION:
        raise ValueError(
            f"{folder} is of LeRobot format {info.get('codebase_version')!r}, needed "
            f"{CODEBASE_VERSION!r}; LeRobot has a converter"
        )
    return info


def _read(path: Path, columns: Sequence[str] | None, optional: Sequence[str] = ()) -> Any:
    """Return a table with these columns, and of the optional ones those that it has."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(
            "a LeRobot data set's tables are Parquet: pip install 'toto-robot[lerobot]'"
        ) from error
    try:
        with ParquetFile(path) as file:
            there = file.schema_arrow.names
            names = there if columns is None else [*columns]
            names += [name for name in optional if name in there and name not in names]
            if lacking := [name for name in names if name not in there]:
                raise ValueError(f"{path} lacks the columns {', '.join(lacking)}")
            return file.read(columns=names, use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _array(column: Any) -> Array:
    """Return a column as [t] or [t k]; words and bytes as objects.

    Raises:
        ValueError: a row is empty or as long as no other; the message names it.
    """
    import pyarrow
    from pyarrow import compute

    column, types = column.combine_chunks(), pyarrow.types
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"row {row} is empty")
    if not (
        types.is_list(column.type)
        or types.is_large_list(column.type)
        or types.is_fixed_size_list(column.type)
    ):
        if types.is_primitive(column.type):
            return column.to_numpy(zero_copy_only=False)
        return np.array(column.to_pylist(), dtype=object)
    # pyrefly: ignore  # pyarrow makes its functions when it is imported
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    others = np.bincount(lengths).argmax()
    if len(odd := np.flatnonzero(lengths != others)):
        raise ValueError(f"row {odd[0]} has {lengths[odd[0]]} numbers, others have {others}")
    values = column.flatten()
    if values.null_count:
        row = values.is_null().to_pylist().index(True) // int(lengths[0])
        raise ValueError(f"row {row} lacks a number")
    if types.is_nested(values.type):
        raise ValueError("lists of lists are not read")
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _times(path: Path) -> NDArray[np.float64]:
    """Return the times of a video's frames."""
    if not path.is_file():
        raise ValueError("the video is missing")
    about = path.stat()
    return _times_once(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _times_once(path: Path, size: int, changed_ns: int) -> NDArray[np.float64]:
    del size, changed_ns  # a file that is written anew is another
    from .video import frame_times

    return frame_times(path)


def _match(
    times_s: NDArray[np.float64], wanted_s: NDArray[np.float64], end_s: float, rate_hz: float
) -> NDArray[np.intp]:
    """Return the frame that is nearest to each of the times.

    Raises:
        ValueError: one is farther away than half a frame, is another episode's, or was chosen
            before.
    """
    half_s = 0.5 / rate_hz
    own = times_s[: np.searchsorted(times_s, end_s - half_s)]
    if not len(own):
        raise ValueError(f"the video has no frame before {end_s:.3f} s")
    after = np.searchsorted(own, wanted_s).clip(1, max(1, len(own) - 1))
    before = after - 1
    after = after.clip(max=len(own) - 1)
    chosen = np.where(wanted_s - own[before] <= own[after] - wanted_s, before, after)
    gaps_s = np.abs(own[chosen] - wanted_s)
    # times are kept as float32 and by ticks of the container
    if len(far := np.flatnonzero(gaps_s > half_s + 1e-6)):
        step = far[0]
        raise ValueError(
            f"frame {step}, due at {wanted_s[step]:.3f} s of the video, is missing: the nearest "
            f"is {gaps_s[step]:.3f} s away, half a frame is {half_s:.3f} s"
        )
    if len(twice := np.flatnonzero(np.diff(chosen) <= 0)):
        raise ValueError(f"frames {twice[0]} and {twice[0] + 1} are the same one of the video")
    return chosen


def _require_in_place(
    times_s: NDArray[np.float64],
    chosen: NDArray[np.intp],
    start_s: float,
    episodes: Sequence[tuple[float, int]],
    rate_hz: float,
) -> None:
    """Refuse frames whose times are right, but not their number in a file of many episodes.

    A frame that a camera lost may leave no gap in the times, and a file that begins late shifts
    the frames of one episode to the next.

    Args:
        times_s: of the video's frames.
        chosen: the frames of the episode.
        start_s: begin of the episode.
        episodes: begin and number of steps of each episode in this file.
        rate_hz: frames a second.
    """
    steps = sum(length for _, length in episodes)
    if len(times_s) > steps:
        return
    if len(times_s) == steps:
        first = sum(length for begin_s, length in episodes if begin_s < start_s)
        if len(odd := np.flatnonzero(chosen != first + np.arange(len(chosen)))):
            raise ValueError(
                f"frame {odd[0]} should be number {first + odd[0]} of the video, but number "
                f"{chosen[odd[0]]} has its time; the video begins at {times_s[0]:.3f} s"
            )
        return
    if round(times_s[-1] * rate_hz) + 1 != steps:
        raise ValueError(
            f"the video has {len(times_s)} frames for {steps} steps, the last at "
            f"{times_s[-1]:.3f} s: its times do not tell which are missing"
        )
