"""Write the help text of a command: summary, example, settings and groups."""

import dataclasses
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from .config_files import RootFile
from .overrides import BY_PATH, hints_at

__all__ = ["discard_output", "field_descriptions", "help_text", "print_any_text", "show"]

WIDTH, COLUMN = 100, 34


def help_text(
    program: str,
    root: RootFile,
    folders: Sequence[Path],
    config_class: type,
    values: Mapping[str, Any],
    out: str,
) -> str:
    """Return the help text of a command.

    Args:
        program: command that the user typed, such as `python -m policies.train`.
        root: the command's root YAML file.
        folders: folders in which YAML files are searched.
        config_class: dataclass of the command's settings.
        values: settings with the defaults and the user's arguments, as plain data.
        out: the folder or the file of the results.
    """
    example = root.example.split(" ", 3)
    arguments = " ".join(example[3:])
    lines = [f"{program}: {root.summary}", "", "example:", f"  {program} {arguments}".rstrip(), ""]
    lines += ["settings, as key=value; the values shown are the defaults:"]
    kind = "file" if Path(out).suffix else "folder"
    text = f"{kind.title()} of the results. The same command with the same {kind} resumes."
    lines += _row(f"out={out}", text)
    by_place = {group.place: group for group in root.groups}
    for key, value, text in _settings(config_class, values):
        if key not in by_place:
            lines += _row(f"{key}={_short(value)}", text)
            continue
        lines += _row(f"{key}={by_place[key].default or 'null'}", text)
        lines += _choices(by_place[key].choices(folders, hints_at(config_class, key)), key)
    for group in root.groups:
        if not group.place:
            names = group.choices(folders, [])
            lines += _row(f"{group.folder}={group.default or 'null'}", "Several settings at once.")
            lines += _choices(names, group.folder)
    lines += ["", "options:"]
    lines += _row("--dry-run", "Check the settings and print all of them; run nothing.")
    lines += _row("-m key=a,b", "One run for each value, in folders below `out`.")
    lines += _row("--config-dir DIR", "Also search choices in DIR/<key>/.")
    return "\n".join(lines)


def show(text: str) -> None:
    """Print a text; do not fail if the program that reads the output ends early, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()


def discard_output() -> None:
    """Discard all further output, because the program that reads it has ended.

    Otherwise Python would report an error when it flushes its output at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_any_text() -> None:
    """Set the output to print escape sequences for characters that the terminal cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def field_descriptions(config_class: type) -> dict[str, str]:
    """Return the descriptions of a dataclass's fields from `Attributes:` in its docstring."""
    found: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        _, _, attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
        found |= {name: re.sub(r"\s+", " ", words).strip() for name, words in entries}
    return found


def _settings(
    config_class: Any, values: Mapping[str, Any], at: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and description of each field, also of dataclasses inside a field."""
    texts = field_descriptions(config_class)
    for field in dataclasses.fields(config_class):
        if not field.init or field.name not in values:
            continue
        key, value = f"{at}{field.name}", values[field.name]
        yield key, value, texts.get(field.name, "")
        if isinstance(value, Mapping):
            for part in hints_at(config_class, field.name):
                if dataclasses.is_dataclass(part) and _is_this(part, value):
                    yield from _settings(part, value, f"{key}.")
                    break


def _is_this(part: Any, value: Mapping[str, Any]) -> bool:
    return part is not NoneType and getattr(part, "kind", None) == value.get("kind")


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    if isinstance(value, list):
        if any(isinstance(entry, (list, Mapping)) for entry in value) or len(str(value)) > 40:
            return f"[{len(value)} entries]"
        return "[" + ",".join(str(entry) for entry in value) + "]"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _choices(names: Sequence[str], key: str) -> list[str]:
    more = ", or the folder of a checkpoint" if key in BY_PATH else ""
    return _wrapped(f"choices: {', '.join(names)}{more}")


def _row(left: str, text: str) -> list[str]:
    wrapped = _wrapped(text[:1].upper() + text[1:])
    if len(left) + 4 > COLUMN or not wrapped:
        return [f"  {left}", *wrapped]
    return [f"  {left:<{COLUMN - 2}}{wrapped[0].strip()}", *wrapped[1:]]


def _wrapped(text: str) -> list[str]:
    indent = " " * COLUMN
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
