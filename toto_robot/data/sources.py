"""Collections of videos and images as their users have them on disk.

Each source lists its records: which file, from when to when, under which name. What a manifest
names and the disk lacks is listed too, and reported; it never stops a run.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .images import IMAGE_SUFFIXES
from .video import VIDEO_SUFFIXES

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
    """A video, a part of one, or an image.

    Attributes:
        name: what it is called in reports; no two of a source have the same.
        file: where it is.
        group: what must be held out together, such as the cameras of an episode.
        start_s: where the part begins, seconds; None: with the file.
        end_s: where it ends; None: with the file.
    """

    name: str
    file: str
    group: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What a source has.

    Attributes:
        records: what is there, in a fixed order.
        missing: names of what the source's manifest has and the disk has not.
        ignored: how many other files lie in a folder that has no manifest, by suffix.
    """

    records: tuple[Record, ...]
    missing: tuple[str, ...] = ()
    ignored: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Videos:
    """A folder of videos, with or without folders inside it."""

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
    """A folder of images: ImageNet's, with a folder for each class, or any other."""

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
    """Kinetics-400, -600 or -700: clips that were cut out when they were downloaded.

    A clip's file is ``<youtube_id>_<start>_<end>.mp4`` with six digits each, anywhere below the
    folder (flat, or in a folder for each class or split).

    Attributes:
        path: the folder.
        csv: the official table: label, youtube_id, time_start, time_end, split.
        split: which rows: ``train``, ``validate`` (in some tables ``val``) or ``test``.
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
        names = {
            f"{row['youtube_id']}_{int(float(row['time_start'])):06}_"
            f"{int(float(row['time_end'])):06}": row["youtube_id"]
            for row in rows
            if row["split"] == self.split
        }
        return _named(names, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4D:
    """Ego4D as its downloader lays it out: ``ego4d.json``, and ``<video_uid>.mp4`` in a folder.

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
        if not isinstance(videos, list) or not all("video_uid" in video for video in videos):
            raise ValueError(f"{self.metadata}: expected a list 'videos', each with 'video_uid'")
        return _named({video["video_uid"]: video["video_uid"] for video in videos}, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class HowTo100M:
    """HowTo100M: ``<video_id>`` with any suffix of a video, anywhere below a folder.

    Attributes:
        path: the folder.
        csv: ``HowTo100M_v1.csv``: video_id, category_1, category_2, rank, task_id.
    """

    kind: ClassVar[str] = "howto100m"
    path: Path
    csv: Path

    def listing(self) -> Listing:
        """List the videos; one that is in the table for several tasks comes once.

        Raises:
            ValueError: table or folder is missing, or the table lacks the column.
        """
        rows = _table(self.csv, ("video_id",))
        return _named({row["video_id"]: row["video_id"] for row in rows}, self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeRobot:
    """A LeRobotDataset of format v3.0: many episodes in one file, told apart by their times.

    All cameras of an episode are held out together.

    Attributes:
        path: the folder of the data set, with ``meta/info.json``.
        cameras: keys such as ``observation.images.front``; empty: all.
    """

    kind: ClassVar[str] = "lerobot"
    path: Path
    cameras: tuple[str, ...]

    def listing(self) -> Listing:
        """List each episode of each camera.

        Raises:
            ImportError: pyarrow, which reads the episodes' table, is missing.
            ValueError: not such a data set, of another version, or without such a camera.
        """
        info = _json(self.path / "meta" / "info.json")
        if info.get("codebase_version") != "v3.0":
            raise ValueError(
                f"{self.path} is of LeRobot format {info.get('codebase_version')!r}, "
                "needed 'v3.0'; LeRobot has a converter"
            )
        known = [
            key for key, feature in info.get("features", {}).items() if feature["dtype"] == "video"
        ]
        if unknown := [camera for camera in self.cameras if camera not in known]:
            raise ValueError(f"{self.path} has no camera {unknown}; it has {known}")
        records, missing = [], []
        for episode in self._episodes(self.cameras or tuple(known)):
            number = episode["episode_index"]
            for camera in self.cameras or known:
                place = {
                    "video_key": camera,
                    "chunk_index": episode[f"videos/{camera}/chunk_index"],
                    "file_index": episode[f"videos/{camera}/file_index"],
                }
                file = self.path / info["video_path"].format(**place)
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
                    )
                )
        return Listing(records=tuple(records), missing=tuple(missing))

    def _episodes(self, cameras: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the rows of the episodes' table, in order."""
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ImportError(
                "a LeRobot data set's episodes are a Parquet table: pip install pyarrow"
            ) from error
        fields = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        columns = ["episode_index"] + [f"videos/{c}/{name}" for c in cameras for name in fields]
        files = sorted((self.path / "meta" / "episodes").rglob("*.parquet"))
        if not files:
            raise ValueError(f"{self.path} has no meta/episodes/*/*.parquet")
        rows: list[dict[str, Any]] = []
        for file in files:
            with parquet.ParquetFile(file) as table:
                if lacking := [name for name in columns if name not in table.schema_arrow.names]:
                    raise ValueError(f"{file} lacks the columns {lacking}")
                rows += table.read(columns=columns).to_pylist()
        return sorted(rows, key=lambda row: row["episode_index"])


AnySource = Videos | Images | Kinetics | Ego4D | HowTo100M | LeRobot


def _walk(path: Path) -> Iterator[Path]:
    """Yield all files below a folder; a folder that cannot be read is an error, not empty."""

    def stop(error: OSError) -> None:
        raise ValueError(f"{error.filename}: {error.strerror}")

    if not path.is_dir():
        raise ValueError(f"{path} is no folder")
    for folder, _, names in os.walk(path, onerror=stop, followlinks=True):
        yield from (Path(folder, name) for name in names)


def _folder(path: Path, suffixes: tuple[str, ...]) -> Listing:
    files, ignored = [], Counter[str]()
    for file in _walk(path):
        if file.suffix.lower() in suffixes:
            files.append(file)
        else:
            ignored[file.suffix.lower() or file.name] += 1
    names = sorted(file.relative_to(path).as_posix() for file in files)
    records = [Record(name=name, file=str(path / name), group=name) for name in names]
    return Listing(records=tuple(records), ignored=dict(sorted(ignored.items())))


def _named(names: Mapping[str, str], path: Path) -> Listing:
    """List the videos whose file name without suffix is one of ``names``, name to group."""
    found: dict[str, Path] = {}
    for file in sorted(_walk(path)):
        if file.stem in names and file.suffix.lower() in VIDEO_SUFFIXES:
            found.setdefault(file.stem, file)
    records = [
        Record(name=name, file=str(found[name]), group=names[name])
        for name in sorted(names)
        if name in found
    ]
    missing = sorted(set(names) - set(found))
    return Listing(records=tuple(records), missing=tuple(missing))


def _table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file that has the columns."""
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} lacks the columns {lacking}; it has {reader.fieldnames}")
        yield from reader


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not readable JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object, got {type(data).__name__}")
    return data
