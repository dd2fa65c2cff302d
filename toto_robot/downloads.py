"""Files that are not what their names say: Git LFS pointers, web pages, empty files."""

import re
from pathlib import Path

__all__ = ["check_downloaded", "disguise", "with_disguise"]

_HEAD_BYTES = 1024


def disguise(file: Path) -> str | None:
    """Return what a file is instead of weights, images or tables, and the remedy; None: unknown."""
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    if not head:
        return "is empty: the download was cut off; fetch it again"
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"^size (\d+)", head, re.MULTILINE)
        told = f" of {int(size[1]):,} bytes" if size else ""
        return f"is a Git LFS pointer, not the file{told} itself; fetch that with: git lfs pull"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return (
            "is a web page: the server answered with a page (a log-in, a licence to accept, or "
            "the view of the file instead of the file); open the address in a browser and take the "
            "download's own link"
        )
    if file.suffix != ".json" and text.startswith((b'{"error', b'{"message', b"entry not found")):
        return f"is a server's answer, not the file: {head[:200].decode(errors='replace').strip()}"
    return None


def with_disguise(file: Path, reason: object) -> str:
    """Return why a file cannot be read, and what it is instead where that is known."""
    told = disguise(file)
    return f"{reason}; the file {told}" if told else str(reason)


def check_downloaded(file: Path) -> Path:
    """Return a file that is there and is not plainly something else.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is empty, a Git LFS pointer, or a web page; with the remedy.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, or no file")
    if told := disguise(file):
        raise ValueError(f"{file} {told}")
    return file
