"""Ask the person beside the robot a question at the terminal."""

import sys

from toto_robot.files import plain


class NoPersonError(RuntimeError):
    """Error: a question needs an answer from a person, but there is no terminal."""


def ask_person(question: str) -> str:
    """Ask a question at the terminal and return the answer.

    Raises:
        NoPersonError: standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise NoPersonError(f"a question needs a terminal, run the command in one: {question}")
    return plain(input(question)).strip()
