"""Folders into which one process at a time writes; another one is told which."""

import atexit
import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

LOCK = ".lock"

# What unlocks the folders that this process has claimed, when it ends: by device and inode.
_claimed: dict[tuple[int, int], Callable[[], object]] = {}


def lock(folder: Path) -> IO[str]:
    """Lock a folder by a file in it, and return what unlocks it when it is closed.

    The system unlocks it when the process ends, so a file that is left is no lock.

    Raises:
        ValueError: another process has it; the message says which.
    """
    file = (folder / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        who = file.read().strip()
        file.close()
        raise _in_use(folder, who) from error
    file.truncate(0)
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    words = " ".join(sys.argv)[:200]
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}: {words}\n")
    file.flush()
    return file


def hold(out: Path) -> None:
    """Lock a folder until this process ends, without a file in it; again is fine."""
    out.mkdir(parents=True, exist_ok=True)
    found = out.stat()
    key = (found.st_dev, found.st_ino)
    if key in _claimed:
        return
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _in_use(out, ", ".join(_holders(out))) from error
        _claimed[key] = lock(out).close  # a network's file system locks files only
    else:
        _claimed[key] = lambda: os.close(descriptor)


def _in_use(folder: Path, who: str) -> ValueError:
    return ValueError(
        f"{folder} is being written to by another process ({who or 'which one, is not known'}): "
        "wait for its end, or choose another folder"
    )


def _holders(folder: Path) -> Iterator[str]:
    """Yield which processes of this machine have a lock and this folder open, where Linux says."""
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return
    for pid in sorted({words[4] for words in locks if len(words) > 4 and words[1] == "FLOCK"}):
        process = Path("/proc") / pid
        with contextlib.suppress(OSError):
            if any(link.samefile(folder) for link in (process / "fd").iterdir()):
                command = (process / "cmdline").read_text(errors="replace").replace("\0", " ")
                yield f"process {pid}: {command.strip()[:200]}"


def _unlock() -> None:
    """Close this process's locks: at its end, and in a forked worker, which may outlive it."""
    for close in _claimed.values():
        close()
    _claimed.clear()


os.register_at_fork(after_in_child=_unlock)
atexit.register(_unlock)
