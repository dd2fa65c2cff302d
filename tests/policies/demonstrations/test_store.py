import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.demonstrations.store import DemoStore, StoreHeader, create_store, open_store
from tests.policies.demonstrations.episodes import episodes, make_episode, same
from tests.policies.fake_world import ENV_ID, ReachEnv

HEADER = StoreHeader(
    env=ENV_ID, interface=ReachEnv().interface, tokenizer_hash="a" * 64, tokens_per_frame=16
)


@given(st.lists(episodes(), max_size=4))
def test_what_was_appended_comes_back_to_the_bit(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("store")
    store = create_store(folder, HEADER)
    for episode in written:
        store.append(episode)
    again = open_store(folder, HEADER)
    assert len(again) == len(written)
    assert all(same(one, two) for one, two in zip(again, written, strict=True))


def test_opening_again_appends(tmp_path):
    for index in range(3):
        assert create_store(tmp_path, HEADER).append(make_episode(seed=index)) == index
    assert [episode.seed for episode in create_store(tmp_path, HEADER)] == [0, 1, 2]


def test_a_crash_while_writing_leaves_no_half_episode(tmp_path, monkeypatch):
    store = create_store(tmp_path, HEADER)
    store.append(make_episode(seed=1))

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        store.append(make_episode(seed=2))
    monkeypatch.undo()
    again = create_store(tmp_path, HEADER)
    assert [episode.seed for episode in again] == [1]
    again.append(make_episode(seed=3))
    assert [episode.seed for episode in again] == [1, 3]


def test_a_frame_costs_two_bytes_a_token_and_no_pixels(tmp_path):
    store = create_store(tmp_path, dataclasses.replace(HEADER, tokens_per_frame=256))
    sizes = []
    for steps in (10, 60):
        index = store.append(make_episode(steps=steps, tokens=256))
        sizes.append((tmp_path / "episodes" / f"{index:06d}.safetensors").stat().st_size)
    a_step = (sizes[1] - sizes[0]) / 50
    assert a_step == pytest.approx(512 + 3 * 4 + 2 * 2 * 4 + 1, abs=1)


def test_another_interface_is_refused_by_its_fields(tmp_path):
    create_store(tmp_path, HEADER)
    other = dataclasses.replace(HEADER.interface, rate_hz=20.0)
    with pytest.raises(ValueError, match=r"rate_hz: 20.0 != 10.0"):
        open_store(tmp_path, dataclasses.replace(HEADER, interface=other))


def test_another_tokenizer_is_refused(tmp_path):
    create_store(tmp_path, HEADER)
    with pytest.raises(ValueError, match="another tokenizer"):
        create_store(tmp_path, dataclasses.replace(HEADER, tokenizer_hash="b" * 64))


def test_another_environment_is_refused(tmp_path):
    create_store(tmp_path, HEADER)
    with pytest.raises(ValueError, match="recorded in"):
        open_store(tmp_path, dataclasses.replace(HEADER, env="other"))


def test_a_folder_without_store_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"store\.json is missing"):
        open_store(tmp_path, HEADER)


def test_a_damaged_header_is_named(tmp_path):
    create_store(tmp_path, HEADER)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        open_store(tmp_path, HEADER)


@pytest.mark.parametrize("keep", [0, 4, 200])
def test_a_damaged_episode_is_named(tmp_path, keep):
    store = create_store(tmp_path, HEADER)
    store.append(make_episode())
    path = tmp_path / "episodes" / "000000.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"000000\.safetensors is damaged"):
        store[0]


def test_a_missing_episode_is_named(tmp_path):
    store = create_store(tmp_path, HEADER)
    for _ in range(3):
        store.append(make_episode())
    (tmp_path / "episodes" / "000001.safetensors").unlink()
    with pytest.raises(ValueError, match="missing: 000001"):
        DemoStore(tmp_path, HEADER)


@pytest.mark.parametrize("wrong", [{"proprio": 4}, {"tokens": 8}, {"cameras": 2}, {"action": 3}])
def test_an_episode_of_another_shape_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"per step must have shape"):
        create_store(tmp_path, HEADER).append(make_episode(**wrong))


def test_there_is_no_episode_beyond_the_last(tmp_path):
    store = create_store(tmp_path, HEADER)
    with pytest.raises(IndexError):
        store[0]
    assert np.array_equal(list(store), [])
