"""Read the arguments `key=value` of a command line and convert them for Hydra.

Hydra interprets commas, quotes, parentheses, dollars and `=` inside a value, so many file names
are syntax errors for Hydra. In this module, the type of the field decides: a text or a path is used
as the user typed it, and Hydra interprets all other values. If a key or a choice is unknown, the
error names the nearest known keys or choices.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .config_files import Group

__all__ = ["Arguments", "hints_at", "quoted", "read_arguments"]

# groups whose choice may be a path: the choice for a folder, the choice for a file, and its field
BY_PATH = {"encoder": ("checkpoint", "vit", "name_or_path")}
WEIGHTS = Path(__file__).parent / "weights"
_CFG = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_TAKE_A_VALUE = {  # with the possible values; empty: any
    "--cfg": _CFG, "-c": _CFG, "--info": _INFO, "-i": _INFO,
    "--package": (), "-p": (), "--config-dir": (), "-cd": (),
}  # fmt: skip
_CONFIG_DIR = ("--config-dir", "-cd")
FLAGS = (
    *("--help", "-h", "--dry-run", "--multirun", "-m", "--resolve", "--hydra-help"),
    *_TAKE_A_VALUE,
)
_KEY = re.compile(
    r"(?P<sign>~|\+\+|\+|)(?P<key>[A-Za-z_][\w.\-@/:]*)(?:=(?P<value>.*))?", re.DOTALL
)
_QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""", re.DOTALL)
_SEVERAL = re.compile(  # values between commas; quoted values may contain commas
    r"""(?:^|(?<=,))(?:'[^']*'(?=,|\Z)|"[^"]*"(?=,|\Z)|[^,]*)""", re.DOTALL
)
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort)\(.*\)", re.DOTALL)  # in Hydra
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """The parsed arguments of a command line.

    Attributes:
        flags: options that are passed to Hydra, such as `-m`, in the order of the command line.
        overrides: settings `key=value` in Hydra's grammar.
        notices: messages for the user about settings that were renamed.
        wants_help: true if `--help` was given.
        dry_run: true if `--dry-run` was given; then the settings are only checked and printed.
        multirun: true if `-m` was given; then the command runs once for each value of a list.
        config_dirs: folders of the user with further choices of groups.
        prints_only: true if an option of Hydra was given that only prints something, such as
            `--cfg`; then the command does not run.
    """

    flags: tuple[str, ...]
    overrides: tuple[str, ...]
    notices: tuple[str, ...]
    wants_help: bool
    dry_run: bool
    multirun: bool
    config_dirs: tuple[Path, ...]
    prints_only: bool


def read_arguments(
    words: Sequence[str],
    config_class: type,
    groups: Sequence[Group],
    folders: Sequence[Path],
    renamed: Mapping[str, str],
) -> Arguments:
    """Read the arguments of a command line, and check them.

    Args:
        words: the words of the command line after the program's name.
        config_class: dataclass of the command's settings.
        groups: groups of the command, from its YAML file.
        folders: folders in which YAML files are searched.
        renamed: maps old names of settings, which are still accepted, to the new names.

    Raises:
        ValueError: an argument is not a setting, or an option, key or choice is unknown; the
            message names the nearest known ones.
    """
    flags, settings = _options(words, config_class)
    config_dirs = [
        Path(value).absolute() for option, value in pairwise(flags) if option in _CONFIG_DIR
    ]
    multirun = bool({"-m", "--multirun"} & set(flags))
    overrides: list[str] = []
    notices: list[str] = []
    for word in settings:
        sign, key, value = _split(word, config_class, groups)
        if key in renamed:
            notices.append(f"{key}= was renamed to {renamed[key]}=")
            key = renamed[key]
        overrides += _override(
            sign, key, value, config_class, groups, [*config_dirs, *folders], multirun
        )
    ours = {"--help", "-h", "--dry-run"}
    return Arguments(
        flags=tuple(flag for flag in flags if flag not in ours),
        overrides=tuple(overrides),
        notices=tuple(notices),
        wants_help=bool({"--help", "-h"} & set(flags)),
        dry_run="--dry-run" in flags,
        multirun=multirun,
        config_dirs=tuple(config_dirs),
        prints_only=bool({"--cfg", "-c", "--info", "-i", "--hydra-help"} & set(flags)),
    )


def quoted(text: str) -> str:
    r"""Return a text in quotes and with escapes, so that Hydra reads it back unchanged.

    Hydra removes a backslash before a quote, and half of the backslashes before the closing quote.
    OmegaConf, the library with which Hydra reads YAML, removes a backslash before `${`.
    """
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)
    text = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)
    return "'" + re.sub(r"(\\+)\Z", lambda found: found[1] * 2, text) + "'"


def hints_at(config_class: type, key: str) -> list[Any]:
    """Return the types that a setting may have; `Any` if a field of type `Any` contains it.

    The setting is given by its key, such as `model.dim`.

    Raises:
        ValueError: there is no such key; the message names the nearest known ones.
    """
    hints: list[Any] = [config_class]
    done: list[str] = []
    for word in key.split("."):
        below: list[Any] = []
        known: set[str] = set()
        for hint in hints:
            if dataclasses.is_dataclass(hint):
                fields = get_type_hints(hint)
                names = {field.name for field in dataclasses.fields(hint) if field.init}
                known |= names
                if word in names:
                    below += _members(fields[word])
                elif word == "kind" and hasattr(hint, "kind"):
                    below.append(str)
            elif get_origin(hint) is dict:
                below += _members(get_args(hint)[1])
            elif hint is Any or (get_origin(hint) in (list, tuple) and word.isdecimal()):
                below.append(Any)
        if not below:
            place = ".".join(done)
            asked = f"{place}.{word}" if place else word
            if not known:
                raise ValueError(f"{place} has no settings of its own, so {asked!r} is unknown")
            raise ValueError(f"unknown setting {asked!r}{_meant(word, known)}")
        hints = below
        done.append(word)
    return hints


def _options(words: Sequence[str], config_class: type) -> tuple[list[str], list[str]]:
    """Return the options of a command line, such as `-m`, and the settings `key=value`.

    The value of an option is a separate word after the option.
    """
    options: list[str] = []
    settings: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            settings.append(word)
            continue
        option, equals, value = word.partition("=")
        if option not in FLAGS:
            bare = option.lstrip("-").replace("-", "_")
            known = {"out", *_field_names(config_class)}
            hint = f"; settings have no dashes: {bare}=..." if bare in known else ""
            raise ValueError(
                f"unknown option {option!r}{hint or _meant(option, FLAGS)}; see --help"
            )
        options.append(option)
        if option not in _TAKE_A_VALUE:
            if equals:
                raise ValueError(f"{option} takes no value, got {word!r}")
            continue
        value = value if equals else next(rest, "")
        possible = _TAKE_A_VALUE[option]
        if not value or value.startswith("-") or (possible and value not in possible):
            expected = f"one of {', '.join(possible)}" if possible else "a value"
            raise ValueError(f"{option}: expected {expected}, got {value!r}")
        if option in _CONFIG_DIR:
            value = os.path.expanduser(value)
            if not os.path.isdir(value):
                raise ValueError(f"{option}: there is no folder {value!r}")
        options.append(value)
    return options, settings


def _split(word: str, config_class: type, groups: Sequence[Group]) -> tuple[str, str, str | None]:
    found = _KEY.fullmatch(word)
    if found is None or (found["value"] is None and found["sign"] != "~"):
        known = {"out", *_field_names(config_class), *(group.folder for group in groups)}
        name = re.split(r"[\s=:]", word)[0]
        hint = f": {name}=..." if name in known else _meant(name, known)
        raise ValueError(f"expected settings as key=value, got {word!r}{hint}; see --help")
    return found["sign"], found["key"], found["value"]


def _override(
    sign: str,
    key: str,
    value: str | None,
    config_class: type,
    groups: Sequence[Group],
    folders: Sequence[Path],
    multirun: bool,
) -> list[str]:
    """Convert one argument `key=value` to one or more settings in Hydra's grammar."""
    if key.partition(".")[0] == "hydra" or value is None:
        return [sign + key + ("" if value is None else f"={value}")]
    by_key = {
        name: group for group in groups for name in (group.hydra_key, group.place or group.folder)
    }
    if not sign and key in by_key:
        return _choice(by_key[key], key, value, config_class, folders, multirun)
    if sign or "@" in key or "/" in key:
        return [f"{sign}{key}={value}"]
    if key == "out":
        if value in ("", "null", "???"):
            raise ValueError(f"out: expected a folder, got {value!r}")
        return [f"out={_literal(value, [Path], multirun=False)}"]
    if key.partition(".")[0] not in _field_names(config_class):
        places = {group.place or group.folder for group in groups}
        known = {"out", *_field_names(config_class), *places}
        raise ValueError(f"unknown setting {key!r}{_meant(key, known)}")
    hints = hints_at(config_class, key)
    parents = [hints_at(config_class, parent) for parent in _parents(key)]
    # if the part is null or lacks this key, the key is added
    sign = "++" if any(NoneType in one or any(_is_open(h) for h in one) for one in parents) else ""
    return [f"{sign}{key}={_literal(value, hints, multirun)}"]


def _choice(
    group: Group,
    key: str,
    value: str,
    config_class: type,
    folders: Sequence[Path],
    multirun: bool,
) -> list[str]:
    files = group.files(folders)
    values = _SEVERAL.findall(value) if multirun else [value]
    if value == "null" and group.default is None:
        return []
    if all(one in files for one in values):
        return [f"{group.hydra_key}={value}"]
    known = group.choices(folders, hints_at(config_class, group.place) if group.place else [])
    if group.folder in BY_PATH and all(map(_is_checkpoint, values)):
        for_folder, for_file, field = BY_PATH[group.folder]
        are_files = all(os.path.isfile(os.path.expanduser(one)) for one in values)
        if not are_files or for_file in known:
            choice = for_file if are_files else for_folder
            path = _literal(value, [Path], multirun)
            return [f"{group.hydra_key}={choice}", f"{group.place}.{field}={path}"]
    more = ", or the folder of a checkpoint" if group.folder in BY_PATH else ""
    raise ValueError(
        f"{key}: unknown choice {value!r}{_near(value, known)}; possible: {', '.join(known)}{more}"
    )


def _is_checkpoint(value: str) -> bool:
    if not value.strip():
        return False
    places = (os.path.expanduser(value), WEIGHTS / value)
    return "/" in value or bool(Path(value).suffix) or any(map(os.path.exists, places))


def _literal(value: str, hints: Sequence[Any], multirun: bool) -> str:
    """Convert a value to Hydra's grammar; texts and paths are quoted so that Hydra keeps them."""
    kinds = {get_origin(hint) or hint for hint in hints}
    if multirun and _is_several_texts(value, hints):
        return ",".join(_literal(one, hints, multirun=False) for one in _SEVERAL.findall(value))
    if kinds & {list, tuple} and not value.startswith("["):
        entries = [entry for hint in hints for arg in get_args(hint) for entry in _members(arg)]
        if {str, Path} & set(entries) and value != "null":
            return f"[{_literal(value, [Path if Path in entries else str], multirun)}]"
    if not kinds & {str, Path, Literal}:
        return value
    if (value == "null" and NoneType in kinds) or (multirun and _SWEEP.fullmatch(value)):
        return value
    if kinds - {str, Path, Literal, NoneType} and (
        value[:1] in "[{" or _NUMBER.fullmatch(value) or value.lower() in ("true", "false")
    ):
        return value
    if _QUOTED.fullmatch(value) and not os.path.lexists(value):
        return quoted(value[1:-1])
    if value.startswith("~" if Path in kinds else "~/") and not os.path.lexists(value):
        value = os.path.expanduser(value)
    return quoted(value)


def _is_several_texts(value: str, hints: Sequence[Any]) -> bool:
    """Return whether a value in a multirun lists several texts, paths, or lists of them."""
    entries = {one for hint in hints for arg in (hint, *get_args(hint)) for one in _members(arg)}
    is_text = any(entry in (str, Path) or get_origin(entry) is Literal for entry in entries)
    return is_text and "," in value and value[:1] not in "[{" and not _SWEEP.fullmatch(value)


def _members(hint: Any) -> list[Any]:
    """Return the types of which a union consists; for any other type, a list of this type."""
    if get_origin(hint) in (Union, UnionType):
        return [one for arg in get_args(hint) for one in _members(arg)]
    return [hint]


def _is_open(hint: Any) -> bool:
    return hint is Any or get_origin(hint) is dict


def _parents(key: str) -> list[str]:
    words = key.split(".")
    return [".".join(words[:end]) for end in range(1, len(words))]


def _field_names(config_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(config_class) if field.init]


def _near(word: str, known: Sequence[str] | set[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _meant(word: str, known: Sequence[str] | set[str]) -> str:
    if near := _near(word, known):
        return near
    return f"; known: {', '.join(sorted(known))}" if len(known) <= 40 else ""
