"""Loss by position: the measure itself, its controls, and what they say of a model that copies."""

import csv
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.toto_robot.visions import toto
from toto_robot import load_encoder
from toto_robot.analyses.clips import frame_tokens, open_clips
from toto_robot.analyses.orders import ORDERS, draw_from_other_files
from toto_robot.analyses.positions import PositionsConfig, positions, token_losses
from toto_robot.analyses.statistics import grouped_means, interval
from toto_robot.checkpoint import weights_hash
from toto_robot.data.mixture import HOLD_OUT
from toto_robot.data.token_shards import FORMAT, ShardWriter, shard_name
from toto_robot.encoders.loading import save_encoder
from toto_robot.files import write_json
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig

LIGHT = LightConfig(
    image_size=32, levels=(4, 4), widths=(8, 8), blocks=(1, 1),
    decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
)  # fmt: skip
MODEL = TotoConfig(
    codes=16, dim=32, layers=1, heads=2, mlp_hidden=32, tie_embeddings=False,
    tokens_per_frame=16, frames=4, rope_base=10000.0, norm_eps=1e-5,
)  # fmt: skip


def still_videos(generator, count, frames):
    """Videos in which nothing moves, of pictures of one code each but for some noise."""
    codes = generator.integers(16, size=(count, 1, 1))
    pictures = np.where(
        generator.random((count, 1, 16)) < 0.5, codes, generator.integers(16, size=(count, 1, 16))
    )
    return np.repeat(pictures, frames, axis=1)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A model trained on still videos, and two data sets of such videos."""
    folder = tmp_path_factory.mktemp("positions")
    torch.manual_seed(0)
    tokenizer, model = LIGHT.build(), MODEL.build()
    generator = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        videos = still_videos(generator, 16, 4)
        ids = np.concatenate([np.full((16, 1), MODEL.start_video), videos.reshape(16, -1)], axis=1)
        optimizer.zero_grad()
        model.loss(torch.from_numpy(ids)).backward()
        optimizer.step()
    save_encoder(folder / "encoder", tokenizer, model, layer=1, pool="mean")
    for number, name in enumerate(("one", "two")):
        tokens = still_videos(np.random.default_rng(number + 1), 3 * HOLD_OUT, 9)
        (folder / name).mkdir()
        tokens.astype(np.uint16).tofile(folder / name / "tokens.u16")
        np.zeros((tokens.shape[0] * 9, 4, 4, 3), np.uint8).tofile(folder / name / "frames.u8")
        clips = [{"file": f"{i:03}.mp4", "start": 9 * i, "length": 9} for i in range(len(tokens))]
        note = {"tokenizer": weights_hash(tokenizer), "tokens_per_frame": 16}
        write_json(folder / name / "tokens.json", note)
        write_json(
            folder / name / "manifest.json",
            {"name": name, "kind": "video", "size": 4, "frames": 9 * len(tokens), "clips": clips},
        )
    return folder


def config_of(setting, **changes):
    settings = {
        "encoder": toto(setting / "encoder"), "data": (setting / "one", setting / "two"),
        "part": "held_out", "frames": 4, "strides": (1, 2), "sequences": 50, "batch": 4,
        "device": "cpu", "resamples": 200, "seed": 0,
    }  # fmt: skip
    return PositionsConfig(**settings | changes)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_losses_are_those_of_training(setting):
    model = load_encoder(setting / "encoder").transformer
    ids = torch.randint(0, 16, (3, 40), generator=torch.Generator().manual_seed(0))
    losses = token_losses(model, ids)
    assert losses.shape == (3, 39)
    assert losses.mean().item() == pytest.approx(model.loss(ids).item(), rel=1e-5)
    expected = -torch.log_softmax(model(ids[:, :-1]), dim=-1)[1, 7, ids[1, 8]]
    assert losses[1, 7].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_controls_tell_what_a_copying_model_gains(setting, tmp_path, capsys):
    positions(config_of(setting), tmp_path)
    rows = {
        (row["order"], row["stride"], row["data"], row["frame"]): row
        for row in read(tmp_path / "frames.csv")
    }
    assert {order for order, *_ in rows} == set(ORDERS)
    later = {order: rows[order, "1", "all", "later"] for order in ORDERS}
    for order in ("video", "shuffled", "repeated"):  # a still video is all three
        assert float(later[order]["against_first_high"]) < -1.0
    assert float(later["unrelated"]["against_first"]) > -0.1
    assert later["video"]["sequences"] == "12"  # 2 sets of 3 held-out files, two windows of 4 each
    assert later["video"]["files"] == "6"
    assert rows["video", "2", "one", "later"]["sequences"] == "3"
    first, rest = (float(rows["video", "1", "all", frame]["nats"]) for frame in ("1", "later"))
    assert float(later["video"]["against_first"]) == pytest.approx(rest - first)
    assert "later - frame 1" in capsys.readouterr().out
    places = read(tmp_path / "tokens.csv")
    assert len(places) == (len(ORDERS) + 1) * 4 * 16
    mine = [
        float(row["nats"]) for row in places if row["order"] == "video" and row["stride"] == "1"
    ]
    assert np.mean(mine[:16]) == pytest.approx(first)
    assert (tmp_path / "positions.png").stat().st_size > 0


def test_device_auto_is_a_device(setting, tmp_path):
    positions(config_of(setting, device="auto", strides=(1,)), tmp_path)
    assert (tmp_path / "positions.png").is_file()


def test_what_was_measured_is_not_measured_again(setting, tmp_path, monkeypatch):
    config = config_of(setting, strides=(1,))
    positions(config, tmp_path)
    before = (tmp_path / "frames.csv").read_text()
    (tmp_path / "frames.csv").unlink()
    measured = Mock(side_effect=token_losses)
    monkeypatch.setattr("toto_robot.analyses.positions.token_losses", measured)
    positions(config, tmp_path)
    assert (tmp_path / "frames.csv").read_text() == before
    assert not measured.called
    positions(config_of(setting, strides=(2,)), tmp_path)  # other sequences are measured
    assert measured.called


def test_too_few_files_for_the_unrelated_control(setting, tmp_path, capsys):
    positions(config_of(setting, data=(setting / "one",), sequences=1), tmp_path)
    assert "unrelated and images are left out" in capsys.readouterr().out
    assert {row["order"] for row in read(tmp_path / "frames.csv")} == {
        "video",
        "shuffled",
        "repeated",
    }


@given(st.lists(st.integers(0, 6), min_size=2, max_size=20), st.integers(2, 16), st.integers(0, 99))
def test_strangers_are_of_other_files_and_every_frame_is_lent_once(files, frames, seed):
    files = np.unique(files, return_inverse=True)[1]
    assume(2 * np.bincount(files).max() <= len(files))
    sources = draw_from_other_files(files, frames, np.random.default_rng(seed))
    assert sources[:, 0].tolist() == list(range(len(files)))
    assert (np.sort(sources, axis=0) == np.arange(len(files))[:, None]).all()
    assert (files[sources[:, 1:]] != files[:, None]).all()


def test_all_source_sequences_differ_where_there_are_enough_files():
    files = np.repeat(np.arange(23), 2)
    sources = draw_from_other_files(files, 16, np.random.default_rng(0))
    assert all(len(set(row)) == 16 for row in files[sources].tolist())


def test_data_sets_of_tokens_alone_are_read_too(setting, tmp_path):
    tokenizer = load_encoder(setting / "encoder").tokenizer
    manifest = {
        "format": FORMAT, "name": "web", "kind": "video", "shards": 2,
        "tokenizer": {"sha256": weights_hash(tokenizer), "tokens_per_frame": 16},
    }  # fmt: skip
    write_json(tmp_path / "manifest.json", manifest)
    tokens = np.arange(20)[:, None].repeat(16, axis=1) % 16
    for number in range(2):  # each: two clips of 4 frames to train on, one of 2 held out
        writer = ShardWriter(tmp_path, shard_name(manifest, number))
        writer.write(tokens[10 * number : 10 * number + 10])
        writer.close([4, 4], [2])
    training, held_out = (
        open_clips(tmp_path, tokenizer, part) for part in ("training", "held_out")
    )
    assert training.clips == ((0, 4), (4, 4), (10, 4), (14, 4))
    assert held_out.clips == ((8, 2), (18, 2))
    assert len(set(training.files.tolist())) == 4
    count, batches = frame_tokens(tmp_path, tokenizer, "held_out", None, 3)
    assert count == 4
    assert np.concatenate(list(batches))[:, 0].tolist() == [8, 9, 2, 3]
    with pytest.raises(ValueError, match="was tokenised with weights"):
        frame_tokens(tmp_path, LIGHT.build(), "all", None, 3)


def test_intervals_keep_groups_whole_and_cover():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(15), 8)
    covered, naive = 0, 0
    for _ in range(200):
        values = np.repeat(generator.normal(size=15), 8) + 0.1 * generator.normal(size=120)
        low, high = interval(grouped_means(values, groups, 300, generator))
        covered += low <= 0 <= high
        low, high = interval(grouped_means(values, np.arange(120), 300, generator))
        naive += low <= 0 <= high
    assert covered > 170
    assert naive < 120


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"frames": 5}, "frames must be at most the model's 4, got 5"),
        ({"strides": (3,)}, "one has no clip of 10 frames: stride 3 is too large"),
        ({"strides": ()}, "must each have an entry"),
        ({"frames": 1}, "frames must be at least 2"),
    ],
)
def test_what_measures_nothing_is_refused(setting, tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        positions(config_of(setting, **changes), tmp_path)
