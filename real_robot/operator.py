"""Ask the person beside the robot a question at the terminal."""

import sys
from collections.abc import Callable

from toto_robot.files import plain

Ask = Callable[[str], str]


class NoPersonError(RuntimeError):
    """Error: a question needs an answer from a person, but there is no terminal."""


def ask_person(question: str) -> str:
    """Ask a question at the terminal and return the answer.

    Keys that were pressed before the question are discarded: they were not meant as its answer.

    Raises:
        NoPersonError: standard input is not a terminal, or it was closed.
    """
    if not sys.stdin.isatty():
        raise NoPersonError(f"a question needs a terminal, run the command in one: {question}")
    import termios  # not on Windows

    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    try:
        return plain(input(question)).strip()
    except EOFError as error:
        raise NoPersonError(f"the terminal was closed at the question: {question}") from error


def ask_yes_no(question: str, ask: Ask = ask_person) -> bool:
    """Ask a question until the answer is yes or no (or y or n), and return whether it is yes.

    Raises:
        NoPersonError: standard input is not a terminal, or it was closed.
    """
    while True:
        answer = ask(f"{question} yes or no: ").strip().lower()
        if answer in ("y", "yes", "n", "no"):
            return answer in ("y", "yes")
        print(f"{answer!r} is not yes or no")
