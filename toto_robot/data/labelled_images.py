"""List the labelled images of a folder with one subfolder per class, the layout of ImageNet.

data/train/<class>/*.jpg  data/val/<class>/*.jpg    given training and test images
data/<class>/*.jpg                                  no given division
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import files_digest
from .images import IMAGE_SUFFIXES
from .walk import walk

__all__ = ["LabelledImages", "find_test_folder", "list_images", "read_class_list"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledImages:
    """Image files with their classes.

    Attributes:
        files: paths of the images.
        labels: int64 [n], the class of each image.
        is_test: bool [n], whether each image is a given test image; None if there is no given
            division.
        classes: names of the classes.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    is_test: NDArray[np.bool_] | None
    classes: tuple[str, ...]

    def summary(self) -> str:
        """Return one line about the data."""
        text = f"{len(self.files)} images of {len(self.classes)} classes"
        if self.is_test is None:
            return f"{text}, without a given test set"
        return f"{text}, of which {int(self.is_test.sum())} are test images"

    def digest(self) -> str:
        """Return a hash of the files' names, sizes and modification times, and of the labels."""
        labels = hashlib.sha256(self.labels.tobytes()).hexdigest()
        return f"{files_digest(self.files)} {labels}"


def find_test_folder(data: Path) -> Path | None:
    """Return the folder of the test set, or None: then all subfolders are classes."""
    return next((data / name for name in ("val", "test") if (data / name).is_dir()), None)


def list_images(
    data: Path,
    classes: Path | None,
    what: str = "image",
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> LabelledImages:
    """Return the images of a folder in one of the layouts of this module.

    Args:
        data: the folder.
        classes: text file in which the first word of each line is the name of a class; None: the
            names of the subfolders.
        what: word for one of the files in messages, such as `video`.
        suffixes: suffixes of the files, in lower case.

    Raises:
        ValueError: the folder or the list of classes is missing, a class has no training or test
            image, or a folder is not in the list of classes; the message names it.
    """
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder with one subfolder of {what}s per class")
    test = find_test_folder(data)
    parts = [data] if test is None else [data / "train", test]
    folders = [_subfolders(part) for part in parts]
    if classes is None:
        names = sorted(folders[0])
    else:
        words = [line.split()[0].rstrip(",") for line in read_class_list(classes)]
        names = list(_checked(words, classes))
    files: list[Path] = []
    labels: list[int] = []
    counts = []
    for part, found in zip(parts, folders, strict=True):
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"{part} has no folder for {len(missing)} classes: {missing[:5]}")
        if extra := sorted(set(found) - set(names)):
            there = parts[0] if classes is None else classes
            raise ValueError(f"{part}: folders that are no class of {there}: {extra[:5]}")
        for label, name in enumerate(names):
            images = walk(part / name, suffixes)
            if not images:
                raise ValueError(f"{part / name} has no {what} ({', '.join(suffixes)})")
            files += images
            labels += [label] * len(images)
        counts.append(len(files))
    return LabelledImages(
        files=tuple(files),
        labels=np.array(labels),
        is_test=None if test is None else np.arange(len(files)) >= counts[0],
        classes=tuple(names),
    )


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing; a test set needs training images beside it")
    names = [path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    if len(names) < 2:
        raise ValueError(f"{folder} has {len(names)} subfolders; at least two classes are needed")
    return names


def read_class_list(path: Path) -> tuple[str, ...]:
    """Return the lines of a list of classes, without empty lines.

    Raises:
        ValueError: the file is not readable, is empty, or has a line twice; the message names it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"classes: {path} is not a readable text file ({error})") from error
    return _checked([line.strip() for line in lines if line.strip()], path)


def _checked(names: list[str], path: Path) -> tuple[str, ...]:
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"classes: {path} is empty or names a class twice")
    return tuple(names)
