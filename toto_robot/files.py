"""Write files that are whole or not there, whenever the process or the machine dies.

Everything is written beside its place under a hidden name, synchronised to the disk and renamed.
No torch, so that a robot's computer can record.
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
    """Yield a path to write to; rename that file or folder to `path` when the block succeeds.

    The parent folder is made. What an earlier attempt left aside is written over; if the block
    raises, nothing is left. A folder that is there is replaced; while the two are renamed, there is
    none.
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
    """Write a file; a string as UTF-8, as `plain` makes it."""
    with written_aside(path) as aside:
        aside.write_bytes(plain(data).encode() if isinstance(data, str) else data)


def plain(text: str) -> str:
    """Return text that UTF-8 can write: a lone surrogate, which none can, is spelled out.

    Half a character comes from a terminal, a file name or JSON that is not UTF-8.
    """
    return text.encode(errors="backslashreplace").decode()


def write_json(path: Path, data: object) -> None:
    """Write plain data as JSON, one space of indent, with a newline at the end."""
    write_aside(path, json.dumps(data, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_aside(path, text.getvalue())


def synchronise(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk."""
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
