"""List the files of a folder recursively, for all commands that read collections of files."""

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
    """Return the files in a folder that have one of the suffixes, sorted by name.

    Links to files and folders are followed, but each real file is listed once. If a file has a path
    without a link, this path is listed. A link to a folder that contains `folder` is not followed.
    Hidden files are left out for two reasons: on some file systems, macOS writes a file `._name`
    beside each `name`, and the temporary files of this package begin with a dot.

    Args:
        folder: the folder to search.
        suffixes: suffixes in lower case, such as `.mp4`. Upper case in file names is accepted too.
        ignored: counter to which the numbers of other files are added, by suffix. None does not
            count them.
        deep: If True, search subfolders too.

    Raises:
        ValueError: `folder` is not a folder, or `folder` or a subfolder cannot be read.
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
    r"""Convert a file name to printable text. Bytes that are not UTF-8 become text like `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def require_regular(path: Path) -> None:
    """Check that a path is a regular file, because reading a pipe or a device could block.

    Raises:
        ValueError: `path` is not a regular file, or does not exist. The message names the path.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is not a regular file")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def _files(folder: Path, deep: bool) -> Iterator[tuple[Path, str]]:
    """Yield each file and its real path. Files without a link in their path come first."""
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
    except OSError:  # a link to itself, or no permission. Reading it later raises the error.
        return False


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (NotADirectoryError, FileNotFoundError) as error:
        raise ValueError(f"{path} is not a folder") from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
