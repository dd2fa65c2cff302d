"""Read LeRobot data sets of format v3.0. The folder of a data set holds these files.

    meta/info.json                              columns ("features"), frame rate, path templates
    meta/tasks.parquet                          task descriptions, by task_index
    meta/episodes/chunk-000/file-000.parquet    which files hold the rows and frames of an episode
    data/chunk-000/file-000.parquet             rows of one or many episodes
    videos/<key>/chunk-000/file-000.mp4         frames of one or many episodes

The image of a step is the image whose time is nearest to the time of the step. If the nearest image
is more than half a frame period away, an error is raised. The files are not trusted. Therefore
paths must stay inside the folder, and every table is checked. The module does not import torch.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tables import column_array, read_rows, read_table
from .walk import walk

__all__ = ["CODEBASE_VERSION", "LeRobotFolder", "read_json"]

Array = NDArray[Any]

CODEBASE_VERSION = "v3.0"
INFO, TASKS = "meta/info.json", "meta/tasks.parquet"
_PLACE = ("chunk_index", "file_index")
_DATA_PLACE = ("data/chunk_index", "data/file_index")
_TEMPLATE_FIELDS = ("video_key", *_PLACE)


class LeRobotFolder:
    """An opened LeRobot data set.

    Attributes:
        folder: folder of the data set.
        info: content of `meta/info.json`.
        rate_hz: frame rate of the videos, equal to the number of steps per second.
        features: description of each column (`dtype`, `shape`, ...), by the name of the column.
        cameras: names of the image columns that are stored as videos.
        image_columns: names of the image columns that are stored in the tables.
    """

    def __init__(self, folder: Path) -> None:
        """Open the data set by reading `meta/info.json`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is damaged, or of another format version.
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
        self._files_of: dict[str, dict[tuple[int, ...], list[tuple[float, float, int]]]] = {}

    def episodes(
        self,
        cameras: Iterable[str],
        columns: Iterable[str] = _DATA_PLACE,
        files: Sequence[Path] = (),
    ) -> list[dict[str, Any]]:
        """Return the rows of the episode table, sorted by episode number.

        Args:
            cameras: cameras whose columns are read. These columns state the video file, and
                the start and the end of the episode in it.
            columns: other columns to read. By default, they state the table file that holds the
                steps.
            files: files of the episode table to read. If empty, all files are read.

        Raises:
            ValueError: there is no episode table, or it is damaged or lacks a column.
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
                is_count = not name.endswith("_timestamp")
                if not _is_number(row[name], is_count):
                    raise ValueError(f"{self.folder}/meta/episodes: {name} is {row[name]!r}")
        return sorted(rows, key=lambda row: row["episode_index"])

    def element_names(self, column: str) -> tuple[str, ...]:
        """Return a distinct name for each element of a numeric column.

        If the data set names all elements, its names are used. Otherwise the names are
        `<column>[0]`, `<column>[1]`, and so on.

        Raises:
            ValueError: the column does not exist, or does not hold one list of numbers per step.
        """
        feature = self.features.get(column)
        if feature is None:
            raise ValueError(
                f"{self.folder} has no column {column!r}; it has {', '.join(self.features)}"
            )
        shape = feature.get("shape", [1])
        is_number = str(feature["dtype"]).startswith(("float", "int", "uint", "bool"))
        if not is_number or not isinstance(shape, list) or len(shape) > 1:
            raise ValueError(
                f"{self.folder}: column {column!r} must hold a list of numbers per step, it has "
                f"{feature['dtype']} {shape}"
            )
        width, names = (shape or [1])[0], feature.get("names")
        if isinstance(names, dict):  # {"motors": [...]}, or {"x": 0, "y": 1}
            lists = [one for one in names.values() if isinstance(one, list)]
            names = [name for one in lists for name in one] if lists else [*names]
        texts = [str(name) for name in names] if isinstance(names, list) else []
        if len(texts) == width == len(set(texts)):
            return tuple(texts)
        return tuple(f"{column}[{index}]" for index in range(width))

    def tasks(self) -> dict[int, str]:
        """Return the task descriptions by `task_index`.

        Raises:
            ValueError: the table is damaged.
        """
        path = self.folder / TASKS
        rows, found = read_rows(path), dict[int, str]()
        # LeRobot stores the descriptions as the index of a pandas table. Other writers store them
        # as a column.
        columns = [name for name in (rows[0] if rows else {}) if name != "task_index"]
        usual = [name for name in ("task", "__index_level_0__") if name in columns]
        text_column = (*usual, *columns)[:1]
        for row in rows:
            number, text = row.get("task_index"), row[text_column[0]] if text_column else None
            if isinstance(number, float) and number.is_integer():
                number = int(number)  # pandas stores integers as float if a row is empty
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise ValueError(f"{path} is damaged: task_index {number!r} is not an integer")
            if not isinstance(text, str):
                raise ValueError(f"{path} is damaged: task {number} has no text, but {text!r}")
            if number in found:
                raise ValueError(f"{path} is damaged: task_index {number} occurs twice")
            found[number] = text
        return found

    def data_file(self, row: Mapping[str, Any]) -> Path:
        """Return the path of the table file that holds the steps of an episode.

        Raises:
            ValueError: the path is outside the folder.
        """
        return self._inside("data_path", {name: row[f"data/{name}"] for name in _PLACE})

    def video_file(self, row: Mapping[str, Any], camera: str) -> Path:
        """Return the path of the video file that holds the frames of an episode.

        Raises:
            ValueError: the path is outside the folder.
        """
        place = {name: row[f"videos/{camera}/{name}"] for name in _PLACE}
        return self._inside("video_path", {"video_key": camera, **place})

    def values(
        self, row: Mapping[str, Any], needed: Sequence[str], carried: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Return columns of the steps of an episode, by name.

        A column is an array of numbers for t steps: [t], or [t k] with k numbers per step. Columns
        of dtype `string` or `image` are arrays of objects. The columns `episode_index` and
        `timestamp` are always returned.

        Args:
            row: row of the episode in the episode table.
            needed: names of required columns.
            carried: names of optional columns. A column is left out if the data set does not have
                it, or if it cannot be converted to such an array.

        Raises:
            ValueError: the table is damaged, or a required column is missing. The message names it.
        """
        path, number = self.data_file(row), row["episode_index"]
        place = f"{path}, episode {number}"
        table = read_table(path, ("episode_index", *needed), (*carried, "timestamp"))
        rows = np.flatnonzero(table.column("episode_index").to_numpy() == number)
        if len(rows) != row["length"] or not len(rows):
            raise ValueError(f"{path} is damaged: {len(rows)} steps of {row['length']}")
        table = table.take(rows)
        found: dict[str, Array] = {}
        for name in table.column_names:
            try:
                found[name] = column_array(table.column(name))
                self._require_numbers(name, found[name], table.column(name).type)
            except ValueError as error:
                if name in needed or name not in carried:
                    raise ValueError(f"{place}: column {name!r}: {error}") from error
        if "timestamp" not in found:
            found["timestamp"] = np.arange(len(rows)) / self.rate_hz
        times = found["timestamp"].astype(np.float64)
        if times.ndim != 1 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise ValueError(f"{place}: the times of its steps do not increase")
        return found

    def _require_numbers(self, name: str, values: Array, dtype: object) -> None:
        """Raise ValueError unless a column holds numbers, or is of dtype `string` or `image`."""
        dtype_stated = self.features.get(name, {}).get("dtype")
        is_number = values.dtype.kind in "iufb" and 0 not in values.shape
        if not is_number and dtype_stated not in ("string", "image"):
            raise ValueError(f"must hold a number or a list of numbers per step, not {dtype}")

    def images(
        self,
        row: Mapping[str, Any],
        camera: str,
        timestamps_s: Array,
        episodes: Collection[Mapping[str, Any]] = (),
    ) -> NDArray[np.uint8]:
        """Return the image of each of the t steps of an episode, uint8 [t h w 3].

        Args:
            row: row of the episode in the episode table.
            camera: name of a column of images, which are stored in a video or in the table.
            timestamps_s: time of each step since the start of the episode, seconds.
            episodes: rows of all episodes in the episode table. They are needed if a video file
                holds several episodes, to check its number of frames. If empty, the video file must
                hold only this episode.

        Raises:
            ValueError: a file is damaged, or a step has no image. The message names the episode,
                the step and the time to the nearest image.
        """
        if camera in self.image_columns:
            return self._images_in_table(row, camera)
        from .frame_matching import frames_of_steps
        from .video import read_frames_at

        path = self.video_file(row, camera)
        start_s, end_s = (
            float(row[f"videos/{camera}/{name}_timestamp"]) for name in ("from", "to")
        )
        wanted_s = start_s + timestamps_s.astype(np.float64)
        beside = self._beside(row, camera, episodes)
        try:
            times_s = frames_of_steps(path, wanted_s, end_s, beside, self.rate_hz)
        except ValueError as error:
            place = f"episode {row['episode_index']} of {self.folder}, camera {camera}"
            raise ValueError(f"{place}: {error} ({path})") from error
        return read_frames_at(path, times_s)

    def _beside(
        self, row: Mapping[str, Any], camera: str, episodes: Collection[Mapping[str, Any]]
    ) -> list[tuple[float, float, int]]:
        """Return start (s), end (s) and number of steps of all episodes in the same video file."""
        if camera not in self._files_of or not episodes:
            self._files_of[camera] = {}
            for one in episodes or (row,):
                place = tuple(one[f"videos/{camera}/{name}"] for name in _PLACE)
                begin_s, end_s = (
                    float(one[f"videos/{camera}/{name}_timestamp"]) for name in ("from", "to")
                )
                segment = (begin_s, end_s, one["length"])
                self._files_of[camera].setdefault(place, []).append(segment)
        return self._files_of[camera][tuple(row[f"videos/{camera}/{name}"] for name in _PLACE)]

    def _images_in_table(self, row: Mapping[str, Any], camera: str) -> NDArray[np.uint8]:
        """Return the images of a column that is stored in the table.

        Each cell holds the bytes of an image, or the path of an image file.
        """
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
        """Fill a path template of `info.json`, check that the path is in the folder, return it."""
        template = self.info.get(name)
        if not isinstance(template, str):
            raise ValueError(f"{self.folder / INFO}: {name} must be a string, got {template!r}")
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
            raise ValueError(f"{self.folder / INFO}: {name} leads outside the folder: {text!r}")
        return self.folder / path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ValueError: the file is damaged. The message names the file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: it must hold an object")
    return data


def _is_number(value: object, is_count: bool) -> bool:
    """Return True if the value is an integer of at least 0 (for a count), or a finite number."""
    if is_count:
        return isinstance(value, int) and value >= 0
    return isinstance(value, (int, float)) and math.isfinite(value)


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    if not path.is_file():
        raise FileNotFoundError(f"no data set in {folder}: {INFO} is missing")
    info = read_json(path)
    if info.get("codebase_version") != CODEBASE_VERSION:
        raise ValueError(
            f"{folder} has LeRobot format {info.get('codebase_version')!r}, needed "
            f"{CODEBASE_VERSION!r}; LeRobot has a converter"
        )
    return info
