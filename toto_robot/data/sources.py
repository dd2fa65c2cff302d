"""Collections of videos and images in the folder structures of their publishers.

Each source lists its records: file, start and end time, and name. Files that a manifest names but
that do not exist are listed and reported; they never stop a run.
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
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A video, a segment of a video, or an image.

    Attributes:
        name: name in reports, unique within the source.
        file: path of the file.
        group: records of one group are held out together, such as the cameras of an episode.
        start_s: start of the segment, seconds; None: start of the file.
        end_s: end of the segment, seconds; None: end of the file.
        rate_hz: expected frame rate of the segment; None: not checked.
    """

    name: str
    file: str
    group: str
    start_s: float | None = None
    end_s: float | None = None
    rate_hz: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The content of a source.

    Attributes:
        records: the existing records, in a fixed order.
        missing: names that the source's manifest lists but that do not exist on disk.
        ignored: number of other files, by suffix, in a folder without a manifest; or number of
            episodes with images in the tables of a data set, by column.
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
    """Kinetics-400, -600 or -700: clips that were cut when they were downloaded.

    A clip's file is ``<youtube_id>_<start>_<end>.mp4``, times with six digits, anywhere below the
    folder (flat, or in a folder for each class or split).

    Attributes:
        path: the folder.
        csv: the official table: label, youtube_id, time_start, time_end, split.
        split: which rows are read: ``train``, ``validate`` (in some tables ``val``) or ``test``.
    """

    kind: ClassVar[str] = "kinetics"
    path: Path
    csv: Path
    split: str

    def listing(self) -> Listing:
        """List the clips of the split.

        Raises:
            ValueError: table or folder is missing, or the table lacks a column or the split.
        """
        rows = list(_table(self.csv, ("youtube_id", "time_start", "time_end", "split")))
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
                names[f"{row['youtube_id']}_{begin_s:06}_{end_s:06}"] = row["youtube_id"]
        return _named(names, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4D:
    """Ego4D as written by its downloader: ``ego4d.json``, and ``<video_uid>.mp4`` in a folder.

    Attributes:
        path: the folder of the videos, ``v2/full_scale`` or a copy of it in a smaller size.
        metadata: ``ego4d.json``.
    """

    kind: ClassVar[str] = "ego4d"
    path: Path
    metadata: Path

    def listing(self) -> Listing:
        """List the videos.

        Raises:
            ValueError: metadata or folder is missing, or the metadata names no videos.
        """
        videos = _json(self.metadata).get("videos")
        if not isinstance(videos, list) or not all(
            isinstance(video, dict) and isinstance(video.get("video_uid"), str) for video in videos
        ):
            raise ValueError(f"{self.metadata}: expected a list 'videos', each with 'video_uid'")
        return _named({video["video_uid"]: video["video_uid"] for video in videos}, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class HowTo100M:
    """HowTo100M: ``<video_id>`` with any video suffix, anywhere below a folder.

    Attributes:
        path: the folder.
        csv: ``HowTo100M_v1.csv``: video_id, category_1, category_2, rank, task_id.
    """

    kind: ClassVar[str] = "howto100m"
    path: Path
    csv: Path

    def listing(self) -> Listing:
        """List the videos; each occurs once, even if the table names it for several tasks.

        Raises:
            ValueError: table or folder is missing, or the table lacks the column.
        """
        rows = _table(self.csv, ("video_id",))
        return _named({row["video_id"]: row["video_id"] for row in rows}, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeRobot:
    """A LeRobotDataset of format v3.0: one file holds many episodes, separated by their times.

    All cameras of an episode are held out together.

    Attributes:
        path: the folder of the data set, with ``meta/info.json``.
        cameras: camera keys such as ``observation.images.front``; empty: all cameras.
    """

    kind: ClassVar[str] = "lerobot"
    path: Path
    cameras: tuple[str, ...]

    def listing(self) -> Listing:
        """List each episode of each camera.

        Raises:
            ImportError: pyarrow, which reads the tables, is not installed.
            ValueError: the folder is not a data set of this version, lacks a camera, or names
                files outside the folder.
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
    """List the videos whose name without suffix is a key of ``names`` (name to group)."""
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


def _table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file; bytes that are not UTF-8 become surrogate escapes.

    Raises:
        ValueError: the file lacks a column, a row lacks a value, or the file is damaged; the
            message names the line.
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
