import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toto_robot.config import differences, from_dict, to_dict


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    kind: ClassVar[str] = "patch"
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Vq:
    kind: ClassVar[str] = "vq"
    codes: int

    def __post_init__(self) -> None:
        if self.codes < 1:
            raise ValueError(f"codes must be positive, got {self.codes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    dim: int
    depth: int | float
    norm: Literal["rms", "layer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    model: Model
    tokenizer: Patch | Vq
    second: Patch | Vq | None
    rate: float
    eager: bool
    names: tuple[str, ...]
    size: tuple[int, int]
    folder: Path | None
    weights: dict[str, float]
    extra: Any = None


DATA = {
    "model": {"dim": 8, "depth": 2, "norm": "rms"},
    "tokenizer": {"kind": "vq", "codes": 16},
    "second": None,
    "rate": 1e-3,
    "eager": True,
    "names": ["hand", "front"],
    "size": [4, 5],
    "folder": "a/b",
    "weights": {"reach": 1.0},
    "extra": {"anything": [1, "two"]},
}

models = st.builds(
    Model,
    dim=st.integers(),
    depth=st.integers() | st.floats(allow_nan=False),
    norm=st.sampled_from(["rms", "layer"]),
)
tokenizers = st.builds(Patch, size=st.integers()) | st.builds(Vq, codes=st.integers(1))
roots = st.builds(
    Root,
    model=models,
    tokenizer=tokenizers,
    second=st.none() | tokenizers,
    rate=st.floats(allow_nan=False),
    eager=st.booleans(),
    names=st.lists(st.text()).map(tuple),
    size=st.tuples(st.integers(), st.integers()),
    folder=st.none() | st.sampled_from([Path("a"), Path("/b/c")]),
    weights=st.dictionaries(st.text(), st.floats(allow_nan=False)),
)


def changed(path: str, value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(DATA))
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[name]
    place[last] = value
    return data


@given(roots)
def test_any_config_survives_json(config: Root) -> None:
    assert from_dict(Root, json.loads(json.dumps(to_dict(config)))) == config


def test_plain_data_survives_the_round_trip() -> None:
    assert to_dict(from_dict(Root, DATA)) == DATA


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.dim", "abc", "model.dim: expected int, got 'abc'"),
        ("model.dim", True, "model.dim: expected int, got True"),
        ("model.depth", "x", "model.depth: expected int or float, got 'x'"),
        ("model.norm", "batch", "model.norm: 'batch' is not one of ['rms', 'layer']"),
        ("model.width", 3, "model: unknown ['width']; known: ['depth', 'dim', 'norm']"),
        ("model", 3, "model: expected a mapping, got 3"),
        ("tokenizer.kind", "dvae", "tokenizer.kind: 'dvae' is not one of ['patch', 'vq']"),
        (
            "tokenizer",
            {"codes": 1},
            "tokenizer: it is not set which kind this is; set tokenizer=NAME first, then its "
            "values (kinds: ['patch', 'vq'])",
        ),
        ("tokenizer", 3, "tokenizer: expected Patch or Vq, got 3"),
        ("tokenizer.codes", 0, "tokenizer: codes must be positive, got 0"),
        ("names", "hand", "names: expected a list, got 'hand'"),
        ("names", ["hand", 3], "names[1]: expected str, got 3"),
        ("size", [1], "size: expected 2 values, got 1: [1]"),
        ("weights.reach", "far", "weights.reach: expected float, got 'far'"),
        ("weights", 3, "weights: expected a mapping, got 3"),
        ("folder", 3, "folder: expected a path, got 3"),
        ("eager", 1, "eager: expected bool, got 1"),
    ],
)
def test_an_error_names_the_place_and_what_is_possible(path, value, message) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        from_dict(Root, changed(path, value))


def test_missing_keys_are_listed() -> None:
    with pytest.raises(ValueError, match=r"config\.model: missing \['depth', 'norm'\]"):
        from_dict(Root, changed("model", {"dim": 3}), at="config")


def test_an_int_is_a_float_where_one_is_declared() -> None:
    rate = from_dict(Root, changed("rate", 2)).rate
    assert (rate, type(rate)) == (2.0, float)


def test_a_union_can_be_read_by_itself() -> None:
    assert from_dict(Patch | Vq, {"kind": "patch", "size": 2}) == Patch(size=2)


def test_a_kind_must_match_the_class() -> None:
    assert from_dict(Patch, {"size": 2}) == from_dict(Patch, {"kind": "patch", "size": 2})
    with pytest.raises(ValueError, match=r"at\.kind: 'vq' is not one of \['patch'\]"):
        from_dict(Patch, {"kind": "vq", "size": 2}, at="at")


def test_the_data_is_not_changed() -> None:
    data = changed("rate", 1.0)
    before = json.dumps(data)
    from_dict(Root, data)
    assert json.dumps(data) == before


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object cannot be written as plain data"):
        to_dict([object()])


def test_differences_are_named_by_their_place() -> None:
    one = from_dict(Root, DATA)
    other = from_dict(
        Root,
        DATA
        | {"model": {"dim": 16, "depth": 2, "norm": "rms"}}
        | {"tokenizer": {"kind": "patch", "size": 4}, "names": ["hand"]},
    )
    assert differences(one, to_dict(one)) == []
    assert differences(one, other) == [
        "model.dim: 8 != 16",
        "names: ['hand', 'front'] != ['hand']",
        "tokenizer.codes: 16 != not there",
        "tokenizer.kind: 'vq' != 'patch'",
        "tokenizer.size: not there != 4",
    ]
    assert differences({"a": (1, 2), "b": {}}, {"a": [1, 2], "b": {}}) == []
    assert differences({"a": [1, {"b": 2}]}, {"a": None}) == ["a: [1, {'b': 2}] != None"]


def test_the_old_name_of_a_field_is_read_with_a_notice():
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Renamed:
        size: int
        OLD_NAMES: ClassVar[dict[str, str]] = {"extent": "size"}

    with pytest.warns(FutureWarning, match="model: extent was renamed to size"):
        assert from_dict(Renamed, {"extent": 3}, at="model") == Renamed(size=3)
    with pytest.raises(ValueError, match="unknown \\['extent'\\]"):
        from_dict(Renamed, {"extent": 3, "size": 4})
