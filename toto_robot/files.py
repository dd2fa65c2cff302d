"""Write files and folders atomically: they are complete or absent, even after a crash.

Everything is written under a hidden name in the same folder, synchronised to the disk and renamed.
This module does not use torch, so that the computer of a robot can record.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path; rename that file or folder to `path` when the block succeeds.

    The parent folder is created. Leftovers of an earlier attempt are overwritten; if the block
    raises, nothing is left. An existing folder is replaced; during the two renames, `path` is
    briefly absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    old = path.with_name(f".{path.name}.old")
    _remove(aside)
    try:
        yield aside
        for part in sorted(aside.rglob("*")) if aside.is_dir() else []:
            synchronise(part)
        synchronise(aside)
        if path.is_dir():
            _remove(old)
            os.replace(path, old)
        os.replace(aside, path)
    except BaseException:
        _remove(aside)
        raise
    synchronise(path.parent)
    _remove(old)


def write_aside(path: Path, data: bytes | str) -> None:
    """Write a file atomically; text is written as UTF-8 after `plain`."""
    with written_aside(path) as aside:
        aside.write_bytes(plain(data).encode() if isinstance(data, str) else data)


def plain(text: str) -> str:
    """Return text that UTF-8 can encode: lone surrogates are replaced by escape sequences.

    A lone surrogate comes from a terminal, a file name or JSON that is not valid UTF-8.
    """
    return text.encode(errors="backslashreplace").decode()


def write_json(path: Path, data: object) -> None:
    """Write plain data as JSON with an indent of one space and a newline at the end."""
    write_aside(path, json.dumps(data, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with equal keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_aside(path, text.getvalue())


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
