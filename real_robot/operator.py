"""Ask the person beside the robot."""

import sys

from toto_robot.files import plain


class NoPersonError(RuntimeError):
    """A person must answer, and nobody sits at the terminal."""


def ask_person(question: str) -> str:
    """Ask at the terminal.

    Raises:
        NoPersonError: there is none.
    """
    if not sys.stdin.isatty():
        raise NoPersonError(f"nobody can be asked here (no terminal): {question}")
    return plain(input(question)).strip()
