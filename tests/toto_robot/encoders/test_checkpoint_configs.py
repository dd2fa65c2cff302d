"""A checkpoint's config.json: covered by a hash, and compared with the weights before building."""

import json
import time

import pytest

from tests.toto_robot.tiny import tiny_toto
from toto_robot import load_encoder
from toto_robot.encoders.loading import load_tokenizer, save_encoder


@pytest.fixture
def folder(tmp_path):
    encoder = tiny_toto(16)
    save_encoder(tmp_path / "toto", encoder.tokenizer, encoder.transformer, 1, "mean")
    return tmp_path / "toto"


def change(folder, **values):
    """Change what config.json says, as a file of version 0.1, which has no hash."""
    path = folder / "config.json"
    data = json.loads(path.read_text())
    data.pop("config_sha256", None)
    for place, value in values.items():
        *parents, name = place.split("__")
        part = data["config"]
        for parent in parents:
            part = part[parent]
        part[name] = value
    path.write_text(json.dumps(data))


def test_a_config_that_was_changed_is_told(folder):
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    for change in ({"config": saved["config"] | {"layer": 0}}, {"versions": {}}, {"new": 1}):
        path.write_text(json.dumps(saved | change))
        with pytest.raises(ValueError, match=r"config\.json was changed after it was saved"):
            load_encoder(folder)
    path.write_text(json.dumps(saved, indent=None, sort_keys=True))  # the same in another layout
    load_encoder(folder)
    del saved["config_sha256"]  # as version 0.1 wrote it
    path.write_text(json.dumps(saved))
    load_encoder(folder)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("transformer__layers", 100_000, "a model of more than"),
        ("transformer__layers", 10**9, "a model of more than"),
        ("transformer__layers", 3, "missing layers.2"),
        ("transformer__dim", 2**20, r"config\.json says"),
        ("transformer__mlp_hidden", 2**34, r"config\.json says"),
        ("tokenizer__widths", [2**14, 2**14], r"config\.json says"),
        ("tokenizer__widths", [99999999999, 8], "config.json describes no model"),
        ("tokenizer__blocks", [100_000, 1], "a model of more than"),
        ("tokenizer__decoder_blocks", [1, 100_000, 1], "a model of more than"),
    ],
)
def test_a_config_of_another_model_costs_neither_time_nor_memory(folder, place, value, told):
    change(folder, **{place: value})
    start = time.perf_counter()
    with pytest.raises(ValueError, match=told):
        load_encoder(folder, verify=False)
    if place.startswith("tokenizer"):
        with pytest.raises(ValueError, match=told):
            load_tokenizer(folder)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_config_that_is_none_is_damaged(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"the checkpoint is damaged"):
        load_encoder(folder)


@pytest.mark.parametrize("key", ["config", "sha256"])
@pytest.mark.parametrize("value", [None, 3, []])
def test_a_config_without_what_is_needed_is_damaged(folder, key, value):
    path = folder / "config.json"
    data = json.loads(path.read_text())
    for changed in (data | {key: value}, {name: one for name, one in data.items() if name != key}):
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"has no valid '{key}'; the checkpoint is damaged"):
            load_encoder(folder)
