"""Write files and folders atomically: they are complete or absent, even after a crash.

A file is first written under a hidden name in the same folder, then flushed to the disk, and then
renamed. This module does not import torch, so that a robot's computer without torch can use it.
"""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_aside(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `path` when the block ends without an error.

    The block writes a file or a folder to the temporary path. The parent folder is created, and
    remains of an interrupted attempt are overwritten. If the block raises, the temporary file is
    deleted. If `path` is an existing folder, it is replaced by two renames; between them, `path`
    does not exist for a moment.

    Args:
        path: the file or the folder to write.
        shared: True if several processes may write the same content to `path` at the same time,
            such as a cache. Each has its own temporary path; the last file replaces the others,
            but the first folder stays, because a process may read it already. Remains of an
            interrupted attempt stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}{f'.{uuid4().hex}' if shared else ''}.part")
    old = path.with_name(f".{path.name}.old")
    _remove(aside)
    try:
        yield aside
        for part in sorted(aside.rglob("*")) if aside.is_dir() else []:
            synchronise(part)
        synchronise(aside)
        if path.is_dir() and not shared:
            _remove(old)
            os.replace(path, old)
        try:
            os.replace(aside, path)
        except OSError:
            if not (shared and path.is_dir()):
                raise
            _remove(aside)
    except BaseException:
        _remove(aside)
        raise
    synchronise(path.parent)
    _remove(old)


def write_aside(path: Path, data: bytes | str, *, shared: bool = False) -> None:
    """Write a file atomically, see `written_aside`; text becomes `plain` UTF-8."""
    with written_aside(path, shared=shared) as aside:
        aside.write_bytes(plain(data).encode() if isinstance(data, str) else data)


def plain(text: str) -> str:
    """Replace lone surrogates in a text by escape sequences, so that UTF-8 can encode it.

    Python represents bytes that are not valid UTF-8, such as in a file name, by lone surrogates.
    """
    return text.encode(errors="backslashreplace").decode()


def write_json(path: Path, data: object, *, shared: bool = False) -> None:
    """Write plain data as JSON with an indent of one space and a newline; see `written_aside`."""
    write_aside(path, json.dumps(data, indent=1) + "\n", shared=shared)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV; all rows have the same keys, which become the header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_aside(path, text.getvalue())


def sha256_of(file: Path) -> str:
    """Return the sha256 of the content of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def files_digest(files: Sequence[Path], names: Sequence[str] | None = None) -> str:
    """Return the sha256 of the names, sizes and modification times of files.

    Args:
        files: paths of the files. A file that does not exist has size and time 0.
        names: name of each file; None takes the paths.
    """
    digest = hashlib.sha256()
    for file, name in zip(files, names or map(str, files), strict=True):
        found = file.stat() if file.exists() else None
        size, changed = (found.st_size, found.st_mtime_ns) if found else (0, 0)
        digest.update(f"{name}\0{size}\0{changed}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def synchronise(path: Path) -> None:
    """Flush a file, or the list of names in a folder, from the system's cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
