"""List the files of published video and image collections, in the folders of their publishers.

Each source lists its records. A record is a file, with a name and optional start and end times. If
a manifest names a file that does not exist, the file is reported as missing, and the run continues.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .images import IMAGE_SUFFIXES
from .lerobot import LeRobotFolder, read_json
from .video import VIDEO_SUFFIXES
from .walk import printable, walk

__all__ = [
    "AnySource",
    "Ego4D",
    "HowTo100M",
    "Images",
    "Kinetics",
    "LeRobot",
    "Listing",
    "Record",
    "Videos",
    "read_table",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A video, a segment of a video, or an image.

    Attributes:
        name: name in reports, unique within the source.
        file: path of the file.
        group: name of a group of records, such as all cameras of an episode. The records of a group
            are all held out, or all used for training.
        start_s: start of the segment, seconds. None is the start of the file.
        end_s: end of the segment, seconds. None is the end of the file.
        rate_hz: expected frame rate of the segment. None skips the check of the rate.
    """

    name: str
    file: str
    group: str
    start_s: float | None = None
    end_s: float | None = None
    rate_hz: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The list of the files of a source.

    Attributes:
        records: the existing records, in a fixed order.
        missing: names of records that the manifest lists, but whose files do not exist.
        ignored: numbers of files or episodes that cannot be used; None: they are not counted.
            `Videos` and `Images` count the other files for each suffix. `LeRobot` counts the
            episodes for each column whose images are in tables and not in videos.
    """

    records: tuple[Record, ...]
    missing: tuple[str, ...] = ()
    ignored: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Videos:
    """A folder of videos, searched recursively.

    Attributes:
        path: the folder.
    """

    kind: ClassVar[str] = "videos"
    path: Path

    def listing(self) -> Listing:
        """List the videos.

        Raises:
            ValueError: there is no such folder.
        """
        return _folder(self.path, VIDEO_SUFFIXES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """A folder of images, searched recursively, such as ImageNet with a folder for each class.

    Attributes:
        path: the folder.
    """

    kind: ClassVar[str] = "images"
    path: Path

    def listing(self) -> Listing:
        """List the images.

        Raises:
            ValueError: there is no such folder.
        """
        return _folder(self.path, IMAGE_SUFFIXES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinetics:
    """The data set Kinetics-400, -600 or -700, whose clips were cut when they were downloaded.

    The file of a clip is ``<youtube_id>_<start>_<end>.mp4``. The start and the end are whole
    seconds with six digits. The file may be anywhere below the folder: directly in it, or in a
    folder for each class or split.

    Attributes:
        path: the folder.
        csv: the official table, with columns label, youtube_id, time_start, time_end, split.
        split: rows of the table to read: ``train``, ``validate`` (``val`` in some tables) or
            ``test``.
    """

    kind: ClassVar[str] = "kinetics"
    path: Path
    csv: Path
    split: str

    def listing(self) -> Listing:
        """List the clips of the split.

        Raises:
            ValueError: the table, the folder, a column of the table, or the split does not exist.
        """
        names = {name: row["youtube_id"] for name, row in self._rows().items()}
        return _named(names, self.path)

    def labels(self) -> dict[str, str]:
        """Return the labels of all clips of the split, by the names of their records.

        Raises:
            ValueError: as in `listing`; also if the column label does not exist.
        """
        return {name: row["label"] for name, row in self._rows("label").items()}

    def _rows(self, *more: str) -> dict[str, dict[str, str]]:
        """Return the rows of the split by record name; columns ``more`` are read in addition."""
        columns = ("youtube_id", "time_start", "time_end", "split", *more)
        rows = list(read_table(self.csv, columns))
        if self.split not in (splits := sorted({row["split"] for row in rows})):
            raise ValueError(f"{self.csv}: no row of split {self.split!r}; there are {splits}")
        names = {}
        for row in rows:
            if row["split"] == self.split:
                try:
                    begin_s, end_s = (int(float(row[name])) for name in ("time_start", "time_end"))
                except (ValueError, OverflowError) as error:
                    times = f"{row['time_start']!r} to {row['time_end']!r}"
                    raise ValueError(
                        f"{self.csv}: {row['youtube_id']}: invalid times: {times}"
                    ) from error
                names[f"{row['youtube_id']}_{begin_s:06}_{end_s:06}"] = row
        return names


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4D:
    """The data set Ego4D, with the files that its downloader writes.

    The downloader writes ``ego4d.json``, and a folder with the videos ``<video_uid>.mp4``.

    Attributes:
        path: the folder of the videos, ``v2/full_scale`` or a copy with smaller frames.
        metadata: path of ``ego4d.json``.
    """

    kind: ClassVar[str] = "ego4d"
    path: Path
    metadata: Path

    def listing(self) -> Listing:
        """List the videos.

        Raises:
            ValueError: the metadata or the folder does not exist, or the metadata names no videos.
        """
        videos = _json(self.metadata).get("videos")
        if not isinstance(videos, list) or not all(
            isinstance(video, dict) and isinstance(video.get("video_uid"), str) for video in videos
        ):
            raise ValueError(f"{self.metadata}: expected a list 'videos', each with 'video_uid'")
        return _named({video["video_uid"]: video["video_uid"] for video in videos}, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class HowTo100M:
    """The data set HowTo100M. A video is ``<video_id>`` with any video suffix, below the folder.

    Attributes:
        path: the folder.
        csv: path of ``HowTo100M_v1.csv``, with columns video_id, category_1, category_2, rank,
            task_id.
    """

    kind: ClassVar[str] = "howto100m"
    path: Path
    csv: Path

    def listing(self) -> Listing:
        """List the videos. The table names some videos for several tasks, but each is listed once.

        Raises:
            ValueError: the table, the folder, or the column video_id does not exist.
        """
        rows = read_table(self.csv, ("video_id",))
        return _named({row["video_id"]: row["video_id"] for row in rows}, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeRobot:
    """A LeRobotDataset of format v3.0. A video file holds many episodes, one after the other.

    If an episode is held out, then all its cameras are held out.

    Attributes:
        path: the folder of the data set, with ``meta/info.json``.
        cameras: camera keys to read, such as ``observation.images.front``. If empty, all cameras
            are read.
    """

    kind: ClassVar[str] = "lerobot"
    path: Path
    cameras: tuple[str, ...]

    def listing(self) -> Listing:
        """List each episode of each camera.

        Raises:
            ImportError: pyarrow, which reads the tables, is not installed.
            ValueError: the folder is not a data set of format v3.0, or does not have a camera of
                `cameras`, or its tables name files outside the folder.
        """
        try:
            data = LeRobotFolder(self.path)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
        if unknown := [camera for camera in self.cameras if camera not in data.cameras]:
            in_tables = f"; in tables, not videos: {data.image_columns}" * bool(data.image_columns)
            raise ValueError(
                f"{self.path} has no camera {unknown}; it has {list(data.cameras)}{in_tables}"
            )
        cameras = self.cameras or data.cameras
        episodes = data.episodes(cameras, columns=())
        records, missing = [], []
        for episode in episodes:
            number = episode["episode_index"]
            for camera in cameras:
                file = data.video_file(episode, camera)
                name = f"episode_{number:06}/{camera}"
                if not file.is_file():
                    missing.append(name)
                    continue
                records.append(
                    Record(
                        name=name,
                        file=str(file),
                        group=f"episode_{number:06}",
                        start_s=float(episode[f"videos/{camera}/from_timestamp"]),
                        end_s=float(episode[f"videos/{camera}/to_timestamp"]),
                        rate_hz=data.rate_hz,
                    )
                )
        ignored = {f"{name} (images in tables)": len(episodes) for name in data.image_columns}
        return Listing(records=tuple(records), missing=tuple(missing), ignored=ignored)


AnySource = Videos | Images | Kinetics | Ego4D | HowTo100M | LeRobot


def _folder(path: Path, suffixes: tuple[str, ...]) -> Listing:
    ignored = Counter[str]()
    files = {file.relative_to(path).as_posix(): file for file in walk(path, suffixes, ignored)}
    records = [
        Record(name=printable(name), file=str(files[name]), group=printable(name))
        for name in sorted(files)
    ]
    return Listing(records=tuple(records), ignored=dict(sorted(ignored.items())))


def _named(names: Mapping[str, str], path: Path) -> Listing:
    """List the videos whose name without suffix is a key of ``names``.

    Args:
        names: for each video name, the group of the record.
        path: the folder to search.
    """
    found: dict[str, Path] = {}
    for file in walk(path, VIDEO_SUFFIXES):
        if file.stem in names:
            found.setdefault(file.stem, file)
    records = [
        Record(name=name, file=str(found[name]), group=names[name])
        for name in sorted(names)
        if name in found
    ]
    missing = sorted(set(names) - set(found))
    return Listing(records=tuple(records), missing=tuple(missing))


def read_table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file. Bytes that are not UTF-8 become surrogate escapes.

    Raises:
        ValueError: the file does not exist, is damaged or lacks a column, or a row has no value or
            an unprintable value in one of the columns.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        try:
            if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise ValueError(f"{path} lacks the columns {lacking}; it has {reader.fieldnames}")
            for row in reader:
                for name in columns:
                    if (value := row[name]) is None or not value.isprintable():
                        raise ValueError(f"{path}, line {reader.line_num}: {name} is {value!r}")
                yield row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num + 1}: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    return read_json(path)
