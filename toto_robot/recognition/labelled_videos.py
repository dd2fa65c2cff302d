"""List videos with their classes, in the layout of Kinetics or in other layouts.

kinetics   the official tables of Kinetics-400, -600 or -700, and the clips in a folder
table      a CSV file with one row per video: its file, label, and optional group and split
folders    one subfolder of videos per class, or `train` and `val` with such subfolders
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..data.labelled_images import list_images, read_class_list
from ..data.sources import Kinetics, read_table
from ..data.video import VIDEO_SUFFIXES
from ..files import files_digest, write_csv

__all__ = [
    "AnyVideos",
    "FolderVideos",
    "KineticsVideos",
    "LabelledVideos",
    "Problem",
    "TableVideos",
    "check_classes",
    "is_whole",
    "report_problems",
]

SPLITS = {"train": False, "val": True, "validate": True, "validation": True, "test": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A fault of the data: the file, the field of the table or of the file, and the fault."""

    file: str
    field: str
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledVideos:
    """Video files with their classes.

    Attributes:
        files: paths of the videos.
        labels: int64 [n], the class of each video.
        groups: int64 [n], the group of each video, such as a person or a laboratory.
        is_test: bool [n], whether each video is a given test video; None if there is no given
            division.
        classes: names of the classes.
        group_names: names of the groups.
        problems: faults of the data; the videos concerned are left out.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    is_test: NDArray[np.bool_] | None
    classes: tuple[str, ...]
    group_names: tuple[str, ...]
    problems: tuple[Problem, ...]

    def summary(self) -> str:
        """Return one line about the data."""
        text = f"{len(self.files)} videos of {len(self.classes)} classes"
        if len(self.group_names) < len(self.files):
            text += f" in {len(self.group_names)} groups"
        if self.is_test is not None:
            text += f", of which {int(self.is_test.sum())} are test videos"
        return text + f"; {len(self.problems)} left out" * bool(self.problems)

    def digest(self) -> str:
        """Return a hash of the files' names, sizes and modification times."""
        return files_digest(self.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class KineticsVideos:
    """The videos of Kinetics. A clip is ``<youtube_id>_<start>_<end>.mp4``, anywhere in the folder.

    Clips that are in a table but not in the folder are left out and reported. The groups
    are the YouTube videos.

    Attributes:
        path: the folder of the clips.
        train_csv: the official table of the training clips, with columns label, youtube_id,
            time_start, time_end and split.
        test_csv: the table of the test clips; it may be the same file.
        train_split: value of the column split of the training clips.
        test_split: value of the column split of the test clips: `validate`, or `val` in some
            tables. The paper tests on the validation set.
        classes: text file with one class per line; null: the labels of the training clips.
    """

    kind: ClassVar[str] = "kinetics"
    path: Path
    train_csv: Path
    test_csv: Path
    train_split: str
    test_split: str
    classes: Path | None

    def listing(self) -> LabelledVideos:
        """List the clips.

        Raises:
            ValueError: a table or the folder is missing or damaged, a clip is a training and a test
                clip, or a label is not a class.
        """
        rows: list[_Row] = []
        problems: list[Problem] = []
        for csv, split in ((self.train_csv, self.train_split), (self.test_csv, self.test_split)):
            source = Kinetics(path=self.path, csv=csv, split=split)
            listing, labels = source.listing(), source.labels()
            for record in listing.records:
                label = labels[record.name]
                is_test = csv == self.test_csv and split == self.test_split
                place = f"{csv}: {record.name}"
                rows.append(_Row(Path(record.file), label, record.group, is_test, place))
            problems += [
                Problem(file=name, field=f"youtube_id in {csv.name}", problem="no such video")
                for name in listing.missing
            ]
        seen: set[Path] = set()
        for row in rows:
            if row.file in seen:
                raise ValueError(f"{row.place} is listed twice, or for training and for tests")
            seen.add(row.file)
        given = None if self.classes is None else read_class_list(self.classes)
        classes = given or _labels(row for row in rows if not row.is_test)
        return _listing(rows, classes, self.classes or self.train_csv, problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableVideos:
    """Videos with their labels in a CSV file.

    Rows without a label, and videos that do not exist, are left out and reported.

    Attributes:
        path: the folder that contains the videos.
        csv: the table, with one row per video.
        file: column with the path of the video in the folder.
        label: column with the name of the class.
        group: column with the group of the video, such as a person or a laboratory; null: each
            video is its own group.
        split: column with `train`, or one of `val`, `validate`, `validation` and `test`; null:
            there is no given division.
        classes: text file with one class per line; null: all labels that have enough videos.
        min_videos: smallest number of videos of a class; smaller classes are left out.
        min_groups: smallest number of groups of a class; other classes are left out.
    """

    kind: ClassVar[str] = "table"
    path: Path
    csv: Path
    file: str
    label: str
    group: str | None
    split: str | None
    classes: Path | None
    min_videos: int
    min_groups: int

    def listing(self) -> LabelledVideos:
        """List the videos.

        Raises:
            ValueError: the table is missing or damaged, it names a split that is not known or a
                file twice, or a label is not a class; the message names the file and the column.
        """
        columns = [name for name in (self.file, self.label, self.group, self.split) if name]
        rows: list[_Row] = []
        problems: list[Problem] = []
        seen: set[str] = set()
        for row in read_table(self.csv, columns):
            name, label = row[self.file], row[self.label].strip()
            place, path = f"{self.csv}: {self.file} {name}", self.path / name
            if name in seen:
                raise ValueError(f"{place} is listed twice")
            seen.add(name)
            split = row[self.split] if self.split else "train"
            if split not in SPLITS:
                raise ValueError(f"{place}: {self.split} is {split!r}, not one of {[*SPLITS]}")
            if not label:
                problems.append(Problem(file=name, field=self.label, problem="no label"))
            elif not path.is_file():
                problems.append(Problem(file=name, field=self.file, problem="no such video"))
            else:
                group = row[self.group] if self.group else name
                rows.append(_Row(path, label, group, SPLITS[split], place))
        if self.classes is not None:
            classes = read_class_list(self.classes)
        else:
            classes, small = _large_classes(rows, self.min_videos, self.min_groups)
            text = f"class {{}} has fewer than {self.min_videos} videos or {self.min_groups} groups"
            problems += [
                Problem(file=str(row.file), field=self.label, problem=text.format(row.label))
                for row in rows
                if row.label in small
            ]
            rows = [row for row in rows if row.label not in small]
        return _listing(rows, classes, self.classes or self.csv, problems, self.split is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderVideos:
    """A folder with one subfolder of videos per class, or with `train` and `val` of that layout.

    Attributes:
        path: the folder.
    """

    kind: ClassVar[str] = "folders"
    path: Path

    def listing(self) -> LabelledVideos:
        """List the videos.

        Raises:
            ValueError: a folder is missing, or a class has no training or test video.
        """
        found = list_images(self.path, None, "video", VIDEO_SUFFIXES)
        return LabelledVideos(
            files=found.files,
            labels=found.labels,
            groups=np.arange(len(found.files)),
            is_test=found.is_test,
            classes=found.classes,
            group_names=tuple(str(file) for file in found.files),
            problems=(),
        )


AnyVideos = KineticsVideos | TableVideos | FolderVideos


def is_whole(files: Sequence[Path], problems: Iterable[Problem]) -> NDArray[np.bool_]:
    """Return whether each of n videos can be decoded, bool [n].

    Args:
        files: paths of the videos.
        problems: the faults that were found; a video that cannot be decoded has the field `video`.
    """
    damaged = {one.file for one in problems if one.field == "video"}
    return np.array([str(file) not in damaged for file in files])


def check_classes(labels: NDArray[np.int64], classes: Sequence[str], hint: str = "") -> None:
    """Check that each class has a training video.

    Args:
        labels: int64 [n], the class of each training video.
        classes: names of the classes.
        hint: end of the message.

    Raises:
        ValueError: a class has no training video; the message names it.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        raise ValueError(f"class {classes[int(counts.argmin())]!r} has no training video{hint}")


def report_problems(out: Path, problems: Sequence[Problem]) -> None:
    """Write the faults of the data to `problems.csv`, and print how many there are."""
    if not problems:
        return
    write_csv(out / "problems.csv", [asdict(one) for one in problems])
    fields = sorted({one.field for one in problems})
    counts = {name: sum(one.field == name for one in problems) for name in fields}
    text = ", ".join(f"{count} in {name}" for name, count in counts.items())
    first = problems[0]
    print(
        f"faults of the data: {text}; the first is {first.file}: {first.field}: {first.problem}; "
        f"all are in {out / 'problems.csv'}. Short videos (`frames`) are used, others are left out",
        flush=True,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A video: its file, label, group, whether it is a test video, and its place in the table."""

    file: Path
    label: str
    group: str
    is_test: bool
    place: str


def _labels(rows: Iterable[_Row]) -> tuple[str, ...]:
    return tuple(sorted({row.label for row in rows}))


def _large_classes(
    rows: Sequence[_Row], min_videos: int, min_groups: int
) -> tuple[tuple[str, ...], set[str]]:
    """Return the classes with enough videos and groups, and the other classes."""
    groups: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[row.label].append(row.group)
    small = {
        label
        for label, found in groups.items()
        if len(found) < min_videos or len(set(found)) < min_groups
    }
    return tuple(sorted(set(groups) - small)), small


def _listing(
    rows: Sequence[_Row],
    classes: tuple[str, ...],
    source: Path,
    problems: Sequence[Problem],
    divided: bool = True,
) -> LabelledVideos:
    """Return the videos of a table, with numbers for classes and groups."""
    if len(classes) < 2:
        missing = f"; the first of {len(problems)} faults: {problems[0]}" if problems else ""
        raise ValueError(f"{source}: at least two classes are needed, got {list(classes)}{missing}")
    number = {name: i for i, name in enumerate(classes)}
    for row in rows:
        if row.label not in number:
            raise ValueError(f"{row.place}: label {row.label!r} is not a class of {source}")
    is_test = np.array([row.is_test for row in rows])
    for wanted, kind in ((False, "train"), (True, "test")):
        if divided and not (is_test == wanted).any():
            raise ValueError(f"{source}: there is no {kind} video; splits are {[*SPLITS]}")
    group_names, groups = np.unique([row.group for row in rows], return_inverse=True)
    return LabelledVideos(
        files=tuple(row.file for row in rows),
        labels=np.array([number[row.label] for row in rows]),
        groups=groups,
        is_test=is_test if divided else None,
        classes=classes,
        group_names=tuple(map(str, group_names)),
        problems=tuple(problems),
    )
