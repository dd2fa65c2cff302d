"""Build frozen dataclasses from plain data, convert them back, and compare two configs.

A config is a tree of frozen dataclasses. The config of a command is read from YAML files, and
the config of a checkpoint from its `config.json`. Both are built with `from_dict`. An unknown key
is never ignored. It is an error whose message contains the path of the key, such as
`model.tokenizer.codess`.

A field may have one of these types: `bool`, `int`, `float` (an int is accepted), `str`, `Path`,
`Literal`, `Any`, a dataclass, `tuple[X, ...]`, `tuple[X, Y]`, `list[X]`, `dict[str, X]`, and unions
of these with `None`. In a union of dataclasses, the classes have a class attribute `kind`, and the
key `kind` in the data selects the class:

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Circle:
        kind: ClassVar[str] = "circle"
        radius: float

    shape: Circle | Square        # {"kind": "circle", "radius": 1.0}

One dataclass of the union may lack `kind`: it is selected by data without the key `kind`.

If a field was renamed, the class attribute `OLD_NAMES: ClassVar[dict[str, str]]` of its dataclass
maps the old name to the new name. Data with the old name are still read, with a warning.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, overload

__all__ = ["differences", "from_dict", "to_dict"]

OMITTED = "omitted"  # key in a field's metadata, see `to_dict`

T = TypeVar("T")


@overload
def from_dict(cls: type[T], data: Mapping[str, Any], at: str = "") -> T: ...
@overload
def from_dict(cls: object, data: Mapping[str, Any], at: str = "") -> Any: ...
def from_dict(cls: Any, data: Any, at: str = "") -> Any:
    """Build a config of the dataclass `cls` from plain data.

    Args:
        cls: a dataclass, or a union of dataclasses; then the key `kind` of the data selects one.
        data: data from YAML or JSON, which are not changed.
        at: path of `data` in the whole config, such as `model.tokenizer`; every error message
            begins with it. Empty: `data` is the whole config.

    Raises:
        ValueError: a key is unknown or missing, a value has the wrong type, or the class's
            `__post_init__` rejects a value; the message has the path and the valid values.
    """
    if not dataclasses.is_dataclass(cls):
        return _value(cls, data, at)
    if not isinstance(data, Mapping):
        raise ValueError(f"{at or cls.__name__}: expected a mapping, got {data!r}")
    place = at or cls.__name__
    values = _with_present_names(cls, data, place)
    kind = getattr(cls, "kind", None)
    if isinstance(kind, str) and values.pop("kind", kind) != kind:
        raise ValueError(f"{_join(at, 'kind')}: {data['kind']!r} is not one of [{kind!r}]")
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    if unknown := [name for name in values if name not in fields]:
        raise ValueError(f"{place}: unknown {unknown}; known: {sorted(fields)}")
    if missing := [n for n, field in fields.items() if n not in values and not _has_default(field)]:
        raise ValueError(f"{place}: missing {missing}")
    built = {name: _value(hints[name], value, _join(at, name)) for name, value in values.items()}
    try:
        return cls(**built)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _with_present_names(cls: Any, data: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the data with old names of fields replaced by new names; warn about each old name."""
    values = dict(data)
    for old, new in getattr(cls, "OLD_NAMES", {}).items():
        if old in values and new not in values:
            values[new] = values.pop(old)
            warnings.warn(f"{place}: {old} was renamed to {new}", FutureWarning, stacklevel=3)
    return values


def to_dict(config: object) -> Any:
    """Convert a config to plain data, which JSON and YAML can store; `from_dict` does the opposite.

    A dataclass becomes a dict, whose first key is `kind` if the class has this attribute. A tuple
    becomes a list, and a `Path` becomes a string. A field with the metadata `{OMITTED: True}` is
    left out if it is None, so that existing files and hashes stay as they are.

    Raises:
        TypeError: a value cannot be converted to plain data.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {
            field.name: to_dict(value)
            for field in dataclasses.fields(config)
            if (value := getattr(config, field.name)) is not None or not field.metadata.get(OMITTED)
        }
        kind = getattr(type(config), "kind", None)
        return {"kind": kind} | fields if isinstance(kind, str) else fields
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise TypeError(f"{config!r} of type {type(config).__name__} cannot be written as plain data")


def differences(one: object, other: object) -> list[str]:
    """Return the differences of two configs or plain data, as lines `path: value != other value`.

    Mappings and dataclasses are compared key by key, in alphabetical order. If only one of the two
    has a key, the value of the other is shown as `not there`. Two lists of mappings of equal length
    are compared entry by entry. Other lists and all other values are compared as a whole. A tuple
    is equal to a list with the same values.
    """
    return _differences(to_dict(one), to_dict(other), "")


class _NotThere:
    """A placeholder for the value of a key that a config does not have."""

    def __repr__(self) -> str:
        return "not there"


_NOT_THERE = _NotThere()


def _differences(one: Any, other: Any, at: str) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = {key: (one.get(key, _NOT_THERE), other.get(key, _NOT_THERE)) for key in one | other}
        return [line for key in sorted(pairs) for line in _differences(*pairs[key], _join(at, key))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        entries = enumerate(zip(one, other, strict=True))
        if all(isinstance(entry, dict) for entry in (*one, *other)):
            return [line for i, pair in entries for line in _differences(*pair, f"{at}[{i}]")]
    return [] if one == other else [f"{at}: {one!r} != {other!r}"]


def _value(hint: Any, value: Any, at: str) -> Any:
    """Convert a value of plain data to the type `hint`; `at` is the path of the value."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _union(args, value, at)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, at)  # pyrefly: ignore  # narrowed to an instance or a class
    if origin is Literal:
        # `True == 1`, so compare types too
        if not any(value == word and type(value) is type(word) for word in args):
            raise ValueError(f"{at}: {value!r} is not one of {list(args)}")
        return value
    if origin in (tuple, list):
        return _sequence(origin, args, value, at)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{at}: expected a mapping, got {value!r}")
        return {
            _value(args[0], k, at): _value(args[1], item, _join(at, str(k)))
            for k, item in value.items()
        }
    if hint is Path and isinstance(value, (str, Path)) and value != "":
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # not isinstance: a bool is not accepted as an int
        expected = "a path" if hint is Path else getattr(hint, "__name__", hint)
        raise ValueError(f"{at}: expected {expected}, got {value!r}")
    return value


def _union(args: tuple[Any, ...], value: Any, at: str) -> Any:
    if value is None and NoneType in args:
        return None
    variants = {arg.kind: arg for arg in args if hasattr(arg, "kind")}
    plain = [arg for arg in args if dataclasses.is_dataclass(arg) and arg not in variants.values()]
    if variants and isinstance(value, Mapping) and not (len(plain) == 1 and "kind" not in value):
        if value.get("kind") not in variants:
            known = sorted(variants)
            if value.get("kind") is None:
                raise ValueError(
                    f"{at}: it is not set which kind this is; set {at}=NAME first, then its values "
                    f"(kinds: {known})"
                )
            raise ValueError(f"{_join(at, 'kind')}: {value.get('kind')!r} is not one of {known}")
        return from_dict(variants[value["kind"]], value, at)
    others = [arg for arg in args if arg is not NoneType and arg not in variants.values()]
    if len(others) == 1:
        return _value(others[0], value, at)
    # the exact type is tried first, so that `int | float` keeps an int
    for arg in sorted(others, key=lambda arg: type(value) is not arg):
        try:
            return _value(arg, value, at)
        except ValueError:
            continue
    names = " or ".join(getattr(arg, "__name__", str(arg)) for arg in args)
    raise ValueError(f"{at}: expected {names}, got {value!r}")


def _sequence(origin: type, args: tuple[Any, ...], value: Any, at: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{at}: expected a list, got {value!r}")
    hints = args
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        hints = (args[0],) * len(value)
    elif len(value) != len(args):
        raise ValueError(f"{at}: expected {len(args)} values, got {len(value)}: {value!r}")
    return origin(
        _value(hint, item, f"{at}[{index}]")
        for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
