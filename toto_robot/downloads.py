"""Detect downloads that failed: files that are empty, Git LFS pointers or web pages."""

import re
from pathlib import Path

__all__ = ["check_downloaded", "disguise", "with_disguise"]

_HEAD_BYTES = 1024


def disguise(file: Path) -> str | None:
    """Return a text that says what a failed download contains, and what to do.

    Returns None if the file is none of the failed downloads that this module knows.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    if not head:
        return "is empty: the download was cut off; fetch it again"
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"^size (\d+)", head, re.MULTILINE)
        size_text = f" of {int(size[1]):,} bytes" if size else ""
        return f"is a Git LFS pointer, not the file{size_text} itself; get the file: git lfs pull"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return (
            "is a web page: the server answered with a page (a log-in, a licence to accept, or "
            "the page about the file); open the address in a browser and use the download link "
            "itself"
        )
    if file.suffix != ".json" and text.startswith((b'{"error', b'{"message', b"entry not found")):
        return (
            "is a server's error message, not the file: "
            f"{head[:200].decode(errors='replace').strip()}"
        )
    return None


def with_disguise(file: Path, reason: object) -> str:
    """Return the reason why a file cannot be read, extended by the text of `disguise` if any."""
    instead = disguise(file)
    return f"{reason}; the file {instead}" if instead else str(reason)


def check_downloaded(file: Path) -> Path:
    """Check that a file exists and is not a failed download, and return its path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, a Git LFS pointer, a web page or an error message of a
            server; the message says what to do.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, or is not a file")
    if instead := disguise(file):
        raise ValueError(f"{file} {instead}")
    return file
