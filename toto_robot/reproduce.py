"""`python -m toto_robot.reproduce`: list the paper's tables and figures, with their commands.

    python -m toto_robot.reproduce --list                     # all, a few lines each
    python -m toto_robot.reproduce table5 figure4             # in full, with the paper's numbers
    python -m toto_robot.reproduce --list 4.1 status=run      # section 4.1: those that were run
    python -m toto_robot.reproduce --list command=imagenet    # those that a command makes
    python -m toto_robot.reproduce --markdown                 # the table of docs/paper.md

A name is `table5`, `figure4`, `tables`, `figures`, or a section of the Toto paper (arXiv
2501.05453) such as `4.1` or `A.5`. The command prints only; it runs nothing. The data are in
`paper_results.toml`.
"""

import argparse
import difflib
import re
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import from_dict
from .usage import print_any_text, show

__all__ = ["STATUSES", "Result", "main", "read_results"]

DATA = Path(__file__).with_name("paper_results.toml")
STATUSES = {
    "run": "has a command, which was run here on other data or with smaller models",
    "not_run": "has a command, which was not run here for this purpose",
    "no_command": "has no command",
}
NUMBER = re.compile(r"^(table|figure)(\d+)$")
WIDTH, COLUMN = 100, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A table or a figure of the paper, or a section with results in its text.

    Attributes:
        name: `table5`, `figure4`, or the section without the point, such as `a2`.
        section: section of the paper.
        shows: what the table or figure shows.
        first: names of the results whose commands must run before.
        commands: command lines, in their order; empty if there is no command.
        missing: the part for which there is no command; empty if nothing is missing.
        needs: data and devices that this project does not provide.
        run: what was run here, and on which data; empty if nothing was run.
        docs: page and section of the documentation.
        finding: what the paper concludes; may be empty.
        paper: the paper's numbers as rows of a table, the names of the columns first; may be empty.
    """

    name: str
    section: str
    shows: str
    first: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    missing: str = ""
    needs: str
    run: str = ""
    docs: str
    finding: str = ""
    paper: tuple[tuple[str, ...], ...] = ()

    @property
    def title(self) -> str:
        """Return the name as the paper writes it, such as `Table 5`."""
        if found := NUMBER.match(self.name):
            return f"{found[1].title()} {found[2]}"
        return f"Appendix {self.section}"

    @property
    def status(self) -> str:
        """Return a key of `STATUSES`."""
        return "no_command" if not self.commands else "run" if self.run else "not_run"

    @property
    def programs(self) -> tuple[str, ...]:
        """Return the names of the commands, each once, such as `imagenet` or `pretrain`."""
        return tuple(dict.fromkeys(_program(line) for line in self.commands))


def read_results(path: Path = DATA) -> dict[str, Result]:
    """Return the paper's results by name, tables first."""
    data: Mapping[str, Any] = tomllib.loads(path.read_text())
    return {name: from_dict(Result, {"name": name, **one}, name) for name, one in data.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the results that the arguments select, and return the exit status.

    Args:
        argv: names, `key=value` and options; None: the arguments of the command line.
    """
    print_any_text()
    parser = argparse.ArgumentParser(
        prog="toto-robot reproduce",
        description=__doc__,
        epilog="status:\n" + "\n".join(f"  {key:<12}{text}" for key, text in STATUSES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="NAME", help="names, status=..., command=...")
    parser.add_argument("--list", action="store_true", help="a few lines each")
    parser.add_argument("--markdown", action="store_true", help="one row each, as Markdown")
    asked = parser.parse_args(argv)
    everything = read_results()
    names = [word for word in asked.words if "=" not in word]
    found = _select(everything, names, [word for word in asked.words if "=" in word])
    if asked.markdown:
        show(_markdown(found))
    elif names and not asked.list:
        show("\n\n".join(_full(one) for one in found) or "nothing has this name and these filters")
    else:
        show("\n\n".join([*(_short(one) for one in found), _counts(found, len(everything))]))
    return 0


def _select(results: Mapping[str, Result], names: list[str], filters: list[str]) -> list[Result]:
    """Return the results with one of the names and with all filters; exit if a word is unknown."""
    chosen: dict[str, Result] = {} if names else dict(results)
    for name in names:
        key = _plain(name)
        kind = key.removesuffix("s")
        matches = {
            n: r
            for n, r in results.items()
            if key in (n, _plain(r.section), n.rstrip("0123456789"))
        } or {n: r for n, r in results.items() if kind == n.rstrip("0123456789")}
        if not matches:
            close = difflib.get_close_matches(key, results, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "all names: --list"
            sys.exit(f"reproduce: the paper has no {name!r}; {hint}")
        chosen |= matches
    for word in filters:
        key, _, value = word.partition("=")
        programs = sorted({name for one in results.values() for name in one.programs})
        valid = {"status": list(STATUSES), "command": programs}
        if key not in valid:
            sys.exit(f"reproduce: unknown setting {word!r}; known: status=..., command=...")
        if value not in valid[key]:
            sys.exit(f"reproduce: {key}: unknown {value!r}; possible: {', '.join(valid[key])}")
        chosen = {
            n: r
            for n, r in chosen.items()
            if value in ((r.status,) if key == "status" else r.programs)
        }
    return list(chosen.values())


def _plain(name: str) -> str:
    """Return a name in lower case without separators, with `fig` written out."""
    return re.sub(r"^fig(?=\d)", "figure", re.sub(r"[\s._-]", "", name.lower()))


def _program(line: str) -> str:
    """Return the name of the command that a command line runs."""
    words = shlex.split(line)
    if words[0] == "toto-robot":
        return words[1]
    return words[words.index("-m") + 1].rpartition(".")[2] if "-m" in words else words[0]


def _short(result: Result) -> str:
    lines = [_head(result)]
    if result.commands:
        lines += [f"  {'command':<{COLUMN}}{result.commands[-1]}"]
        own = len(result.commands) - 1
        before = [*result.first, *([f"{own} more command{'s'[: own > 1]}"] if own else [])]
        if before:
            text = f"after {', '.join(before)}; all: toto-robot reproduce {result.name}"
            lines += _row("", text)
    return "\n".join([*lines, *_facts(result)])


def _full(result: Result) -> str:
    lines = [_head(result), *_facts(result)]
    if result.commands:
        lines += ["", f"first the commands of {', '.join(result.first)}, then:"][
            : 1 + bool(result.first)
        ]
        lines += [f"  {line}" for line in result.commands]
    if result.finding:
        lines += ["", f"the paper's result: {result.finding}"]
    if result.paper:
        widths = [max(map(len, column)) for column in zip(*result.paper, strict=True)]
        lines += ["", "the paper's numbers (other data and models than what was run here):"]
        for row in result.paper:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines += [f"  {'  '.join(cells)}".rstrip()]
    return "\n".join(lines)


def _head(result: Result) -> str:
    section = f", section {result.section}" if NUMBER.match(result.name) else ""
    return f"{result.title}{section}: {result.shows}"


def _facts(result: Result) -> Iterator[str]:
    """Yield the lines about missing parts, needed data, what was run, and the documentation."""
    if not result.commands:
        yield from _row("command", _no_command(result))
    if result.missing:
        yield from _row("missing", result.missing)
    yield from _row("needs", result.needs)
    yield from _row("run here", result.run or "no")
    yield from _row("docs", result.docs)


def _no_command(result: Result) -> str:
    return "no command yet" if result.missing else "none: there is nothing to compute"


def _row(label: str, text: str) -> list[str]:
    """Return the lines of a text beside its label."""
    indents = {"initial_indent": f"  {label:<{COLUMN}}", "subsequent_indent": " " * (COLUMN + 2)}
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False, break_long_words=False, **indents)


def _counts(found: Sequence[Result], total: int) -> str:
    counts = {key: sum(one.status == key for one in found) for key in STATUSES}
    lines = [f"{len(found)} of {total} tables, figures and sections:"]
    lines += [f"  {counts[key]:>2} {key:<12}{text}" for key, text in STATUSES.items()]
    return "\n".join([*lines, "in full, with the paper's numbers: toto-robot reproduce table5"])


def _markdown(found: Sequence[Result]) -> str:
    lines = ["| paper | what it shows | commands | what was run here |", "|---|---|---|---|"]
    for one in found:
        commands = ", ".join(f"`{name}`" for name in one.programs) or _no_command(one)
        missing = f"; missing: {one.missing}" if one.missing else ""
        page, _, anchor = one.docs.partition("#")
        inside = page.removeprefix("docs/") if page.startswith("docs/") else f"../{page}"
        link = f"[docs]({inside}{'#' if anchor else ''}{anchor})"
        lines += [
            f"| {one.title} | {one.shows} | {commands}{missing} | {one.run or 'nothing'} ({link}) |"
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
