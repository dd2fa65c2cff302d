"""Lock folders, so that only one process at a time writes into them."""

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
REPORT = ".report.lock"  # of the processes that write a report of what several processes made
HOLD = ".run.lock"  # of `hold`: a command may hold a folder and also write a data set into it

_IN_USE = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

# The functions that unlock the folders of this process, by device and inode.
_claimed: dict[tuple[int, int], Callable[[], object]] = {}


def lock(folder: Path, *, wait: bool = False, name: str = LOCK) -> IO[str]:
    """Create a lock file in a folder, lock it and return it; closing the file unlocks the folder.

    The system also unlocks the folder when the process ends. A lock file that remains after that
    does not lock the folder. On a file system without locks, the folder is not locked, and a note
    is printed.

    Args:
        folder: the folder.
        wait: If True, wait until another process has unlocked the folder.
        name: name of the lock file.

    Raises:
        ValueError: another process holds the lock and `wait` is False; the message names the
            process.
    """
    file = (folder / name).open("a+")
    try:
        _lock(file, folder, wait)
    except BaseException:
        file.close()
        raise
    file.truncate(0)
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    words = " ".join(sys.argv)[:200]
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}: {words}\n")
    file.flush()
    return file


def _lock(file: IO[str], folder: Path, wait: bool) -> None:
    """Lock the lock file of a folder, as `lock` describes."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            print(
                f"{folder}: this file system cannot lock files ({error.strerror}); make sure that "
                "only one process writes to the folder",
                file=sys.stderr,
                flush=True,
            )
            return
        if error.errno not in _IN_USE:
            raise
        file.seek(0)
        holder = file.read().strip()
        if not wait:
            raise _in_use(folder, holder) from error
        print(f"{folder}: waiting until {holder or 'another process'} has written it", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def hold(out: Path) -> None:
    """Lock a folder until this process ends; repeated calls are allowed.

    A lock file is written only on file systems that cannot lock folders, such as network file
    systems. A missing folder is created.

    Raises:
        ValueError: another process holds the lock; the message names the process if it is known.
    """
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
        if error.errno in _IN_USE:
            raise _in_use(out, ", ".join(_holders(out))) from error
        _claimed[key] = lock(out, name=HOLD).close  # network file systems lock only files
    else:
        _claimed[key] = lambda: os.close(descriptor)


def _in_use(folder: Path, holder: str) -> ValueError:
    return ValueError(
        f"{folder} is being written to by another process ({holder or 'unknown'}): wait until it "
        "ends, or choose another folder"
    )


def _holders(folder: Path) -> Iterator[str]:
    """Yield the processes that hold a lock and have this folder open, on Linux."""
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
    """Close all locks of this process.

    A forked worker also calls this function. Otherwise the worker would keep the folder locked if
    it runs longer than its parent process.
    """
    for close in _claimed.values():
        close()
    _claimed.clear()


os.register_at_fork(after_in_child=_unlock)
atexit.register(_unlock)
