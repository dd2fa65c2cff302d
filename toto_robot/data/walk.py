"""The files below a folder: one walk for every command that reads collections."""

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["printable", "require_regular", "walk"]


def walk(
    folder: Path,
    suffixes: Collection[str],
    ignored: Counter[str] | None = None,
    *,
    deep: bool = True,
) -> list[Path]:
    """Return the files in a folder that have one of the suffixes, in the order of their names.

    Links to files and folders are followed, but each file comes once, by its real path and under
    the name that leads to it without a link where there is one. A link to a folder that holds
    `folder` is not followed. Hidden files are left out: `._name` is a companion that macOS writes
    beside each `name` of other file systems, and our own files begin with a dot until they are
    whole.

    Args:
        folder: where to begin.
        suffixes: in lower case, such as `.mp4`; the case of a file's own does not matter.
        ignored: takes how many other files there are, by suffix.
        deep: also in the folders below it.

    Raises:
        ValueError: `folder`, or a folder below it, is none or cannot be read.
    """
    found: dict[str, Path] = {}
    for path, real in _files(folder, deep):
        hidden = path.name.startswith(".")
        if not hidden and path.suffix.lower() in suffixes:
            found.setdefault(real, path)
        elif ignored is not None:
            ignored["hidden" if hidden else path.suffix.lower() or printable(path.name)] += 1
    return sorted(found.values())


def printable(name: str) -> str:
    r"""Return a file's name as text that can be printed: bytes that are no UTF-8 as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def require_regular(path: Path) -> None:
    """Refuse a pipe, a device and a folder: reading one would wait, or never end.

    Raises:
        ValueError: `path` is no regular file, or not there; the message names it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is no regular file")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def _files(folder: Path, deep: bool) -> Iterator[tuple[Path, str]]:
    """Yield each file and its real path: first what no link leads to."""
    root = os.path.realpath(folder)
    seen, todo, links = set[str](), [(folder, root)], list[tuple[Path, str]]()
    linked_files: list[tuple[Path, str]] = []
    while todo or links:
        path, real = todo.pop() if todo else links.pop(0)
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(path):
            place = path / entry.name
            target = os.path.realpath(place) if entry.is_symlink() else f"{real}/{entry.name}"
            if _is_folder(entry):
                if deep and not f"{root}/".startswith(f"{target.rstrip('/')}/"):
                    (links if entry.is_symlink() else todo).append((place, target))
            elif entry.is_symlink():
                linked_files.append((place, target))
            else:
                yield place, target
    yield from linked_files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look: its reader says so
        return False


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (NotADirectoryError, FileNotFoundError) as error:
        raise ValueError(f"{path} is no folder") from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
