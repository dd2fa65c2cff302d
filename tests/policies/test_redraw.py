"""Images of a store, drawn again: those that its tokens were made of."""

import dataclasses

import gymnasium
import numpy as np
import pytest

from policies.demonstrations.lerobot.reader import DatasetReader
from policies.demonstrations.store import DemoStore, read_header
from policies.demonstrations.tokenised import tokenise_episode
from policies.redraw import RedrawConfig, _from_tool, redraw
from policies.train import train
from tests.policies.demonstrations.episodes import same
from tests.policies.fake_world import ReusingReach, save_tiny_encoder
from tests.policies.test_evaluate import NAMED, NamedReach
from tests.policies.test_train import config
from toto_robot import load_encoder


class Reusing(ReusingReach, NamedReach):
    pass


def test_images_are_those_that_the_tokens_were_made_of(tmp_path, monkeypatch):
    encoder = save_tiny_encoder(tmp_path / "tiny")
    plain = config(encoder, method="bc", env=NAMED, demonstrations=7, video_episodes=0)
    train(plain, tmp_path / "run")
    folder = tmp_path / "run" / "store"
    monkeypatch.setattr(gymnasium.registry["fake/NamedReach-v0"], "entry_point", Reusing)
    redraw(RedrawConfig(store=folder, env=NAMED, episodes=3, format="npz"), tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.npz"))
    assert [file.stem for file in files] == ["000000", "000003", "000006"]
    store = DemoStore(folder, read_header(folder))
    for file in files:
        episode = store[int(file.stem)]
        with np.load(file, allow_pickle=False) as opened:
            tokens = load_encoder(encoder).tokenize(opened["frames"][:, 0])
            assert np.array_equal(tokens.numpy(), episode.tokens[:, 0])
            assert np.array_equal(opened["labels"], episode.labels)
            assert opened["seed"] == episode.seed
            assert opened["state_names"].tolist() == ["point_x", "point_y", "goal_x", "goal_y"]
            assert opened["state"].shape == (len(episode.tokens), 4)
    with pytest.raises(ValueError, match="other episodes of the store"):
        redraw(RedrawConfig(store=folder, env=NAMED, episodes=4, format="npz"), tmp_path / "out")
    assert sorted((tmp_path / "out").glob("*.npz")) == files
    redraw(RedrawConfig(store=folder, env=NAMED, episodes=3, format="npz"), tmp_path / "out")
    with pytest.raises(ValueError, match=r"recorded in .*NamedReach-v0', not in 'other'"):
        redraw(
            RedrawConfig(
                store=folder, env=dataclasses.replace(NAMED, id="other"), episodes=1, format="npz"
            ),
            tmp_path / "out",
        )


def test_a_store_becomes_a_data_set_and_a_store_again(tmp_path):
    encoder = save_tiny_encoder(tmp_path / "tiny")
    plain = config(encoder, env=NAMED, video_episodes=0, evaluation_episodes=1)
    train(plain, tmp_path / "run")
    folder = tmp_path / "run" / "store"
    redraw(RedrawConfig(store=folder, env=NAMED, episodes=2, format="lerobot"), tmp_path / "two")
    whole = RedrawConfig(store=folder, env=NAMED, episodes=None, format="lerobot")
    with pytest.raises(ValueError, match="other episodes of the store"):
        redraw(whole, tmp_path / "two")
    redraw(whole, tmp_path / "out")
    redraw(whole, tmp_path / "out")  # nothing is done again
    reader, store = DatasetReader(tmp_path / "out"), DemoStore(folder, read_header(folder))
    assert len(reader) == len(store)
    names = [column.names for column in reader.columns if column.name == "state"]
    assert names == [("point_x", "point_y", "goal_x", "goal_y")]
    loaded = load_encoder(encoder)
    for demonstration, episode in zip(reader, store, strict=True):
        again = tokenise_episode(demonstration, loaded, 0)
        assert same(again, episode)


def test_other_options_and_another_store_are_refused(tmp_path, capsys):
    encoder = save_tiny_encoder(tmp_path / "tiny")
    for name, seed in (("a", 0), ("b", 1)):
        plain = config(encoder, method="bc", env=NAMED, video_episodes=0, seed=seed)
        train(plain, tmp_path / name)
    first = RedrawConfig(store=tmp_path / "a/store", env=NAMED, episodes=2, format="npz")
    redraw(first, tmp_path / "out")
    with pytest.raises(ValueError, match=r"another config.*\n.*store: "):
        redraw(dataclasses.replace(first, store=tmp_path / "b/store"), tmp_path / "out")
    options = NAMED.options | {"colours": True}  # an option that proprioception does not show
    other = dataclasses.replace(first, env=dataclasses.replace(NAMED, options=options))
    with pytest.raises(
        ValueError, match=r"a/store was recorded with env\.options=\{.*give the same"
    ):
        redraw(other, tmp_path / "other")
    assert "note: the settings of the recording" not in capsys.readouterr().out
    (tmp_path / "a/store").rename(tmp_path / "moved")
    redraw(dataclasses.replace(first, store=tmp_path / "moved"), tmp_path / "of_moved")
    assert "note: the settings of the recording" in capsys.readouterr().out


def test_objects_are_told_from_the_tool():
    names = ("joint1_position", "cube_position_x", "cube_position_y", "cube_position_z",
             "tool_position_x", "tool_position_y", "tool_position_z")  # fmt: skip
    told, labels = _from_tool(np.array([[9.0, 1, 2, 3, 0.5, 0.5, 0.5]]), names)
    assert labels == ["cube_from_tool_x", "cube_from_tool_y", "cube_from_tool_z"]
    assert told.tolist() == [[0.5, 1.5, 2.5]]
    assert _from_tool(np.zeros((2, 1)), ("point_x",))[0].shape == (2, 0)
