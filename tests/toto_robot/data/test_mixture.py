"""Rows of a mixture: a pure function of seed and number, in the proportions asked for."""

import json

import numpy as np
import pytest
import torch

from toto_robot.checkpoint import weights_hash
from toto_robot.data.mixture import (
    HOLD_OUT,
    FrameMixture,
    FrameSequenceMixture,
    SequenceMixture,
    split,
)
from toto_robot.data.shards import Shard
from toto_robot.data.shuffle import BLOCK, apportion, interleave, key_of, permute, uniform
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig

SIZE = 16
LIGHT = LightConfig(
    image_size=SIZE,
    levels=(8, 8, 8, 4, 4),
    widths=(8, 8),
    blocks=(1, 1),
    decoder_widths=(8, 8, 8),
    decoder_blocks=(1, 1, 1),
)
MODEL = TotoConfig(
    codes=8192,
    dim=16,
    layers=1,
    heads=2,
    mlp_hidden=24,
    tie_embeddings=True,
    tokens_per_frame=4,
    frames=3,
    rope_base=10000.0,
    norm_eps=1e-5,
)


def write_shard(folder, kind, lengths, offset, tokenizer):
    """Write a data set whose frames and tokens say which frame they are."""
    folder.mkdir()
    starts = np.cumsum([0, *lengths])
    total = int(starts[-1])
    clips = [
        {"file": f"{i:03}", "start": int(start), "length": length}
        for i, (start, length) in enumerate(zip(starts[:-1], lengths, strict=True))
    ]
    manifest = {"name": folder.name, "kind": kind, "size": SIZE, "clips": clips, "frames": total}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    numbers = offset + np.arange(total)
    frames = np.zeros((total, SIZE, SIZE, 3), np.uint8)
    frames[..., 0], frames[..., 1] = (numbers // 256)[:, None, None], (numbers % 256)[:, None, None]
    frames[..., 2] = np.arange(SIZE)  # so that a crop shows where it was taken
    frames.tofile(folder / "frames.u8")
    np.repeat(numbers[:, None], 4, axis=1).astype(np.uint16).tofile(folder / "tokens.u16")
    note = {"tokenizer": weights_hash(tokenizer), "tokens_per_frame": 4}
    (folder / "tokens.json").write_text(json.dumps(note))
    return Shard.open(folder)


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return LIGHT.build()


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tokenizer):
    """Two video data sets, the first of clips of several lengths, and one of images."""
    folder = tmp_path_factory.mktemp("mixture")
    long = [3, 3, 5, 2, 7] * 5
    return [
        write_shard(folder / "long", "video", long, 0, tokenizer),
        write_shard(folder / "short", "video", [3] * 30, 1000, tokenizer),
        write_shard(folder / "images", "image", [1] * 50, 2000, tokenizer),
    ]


def mixture(shards, tokenizer, weights=(0.5, 0.3, 0.2), seed=0, validation=False):
    return SequenceMixture(shards, weights, tokenizer, MODEL, 3, validation=validation, seed=seed)


def test_rows_do_not_depend_on_how_they_are_asked_for(shards, tokenizer):
    whole = mixture(shards, tokenizer).rows(0, 2100)  # over two blocks
    assert whole.dtype == np.int64
    assert whole.shape == (2100, 3 * 4 + 2)
    again = mixture(shards, tokenizer)
    for first, count in ((0, 1), (999, 1), (998, 7), (2099, 1), (37, 64)):
        assert np.array_equal(again.rows(first, count), whole[first : first + count])
    batch, ranks = 8, 4  # step s, rank r reads rows s*B + r*B/W ...
    for step in (0, 130):
        parts = [
            again.rows(step * batch + r * batch // ranks, batch // ranks) for r in range(ranks)
        ]
        assert np.array_equal(np.concatenate(parts), whole[step * batch : (step + 1) * batch])
    assert not np.array_equal(mixture(shards, tokenizer, seed=1).rows(0, 50), whole[:50])


def test_every_window_comes_once_an_epoch_and_epochs_differ(shards, tokenizer):
    only = mixture(shards, tokenizer, (1.0, 0.0, 0.0))
    windows = {
        start + offset
        for start, length in split(shards[0], validation=False)
        for offset in range(length - 2)
    }
    epochs = only.rows(0, 3 * len(windows))[:, 1].reshape(3, -1)
    for epoch in epochs:
        assert sorted(epoch) == sorted(windows)
    assert not np.array_equal(epochs[0], epochs[1])
    rows = only.rows(0, len(windows))
    assert (rows[:, 1::4][:, :3] == rows[:, [1]] + np.arange(3)).all()  # consecutive frames
    assert (rows[:, 0] == MODEL.start_video).all()
    assert (rows[:, -1] == MODEL.end).all()


def test_image_sequences_are_of_unrelated_images_each_once_an_epoch(shards, tokenizer):
    rows = mixture(shards, tokenizer, (0.0, 0.0, 1.0)).rows(0, 16 * 3)
    assert (rows[:, 0] == MODEL.start_image).all()
    images = rows[:, 1::4][:, :3].reshape(-1)
    held_in = 2000 + np.array([start for start, _ in split(shards[2], validation=False)])
    assert len(held_in) == 48
    for epoch in images.reshape(3, 48):
        assert sorted(epoch) == sorted(held_in)
    assert (np.diff(images) != 1).mean() > 0.9


def test_shares_are_exact_in_a_block_and_near_in_a_batch(shards, tokenizer):
    rows = mixture(shards, tokenizer).rows(5 * BLOCK, BLOCK)
    source = rows[:, 1] // 1000
    assert np.bincount(source).tolist() == [500, 300, 200]
    running = np.cumsum(source[:, None] == np.arange(3), axis=0)
    expected = np.arange(1, BLOCK + 1)[:, None] * np.array([0.5, 0.3, 0.2])
    assert np.abs(running - expected).max() < 2.5
    every_tenth = np.bincount(source[::10], minlength=3)  # a log line every ten steps sees them all
    assert (every_tenth > 8).all()


def test_held_out_files_are_in_no_training_row(shards, tokenizer):
    seen = mixture(shards, tokenizer).rows(0, 3000)[:, 1:-1]
    held = mixture(shards, tokenizer, validation=True).rows(0, 300)[:, 1:-1]
    assert not set(seen.reshape(-1).tolist()) & set(held.reshape(-1).tolist())


def test_frame_sequences_show_the_frames_of_the_token_sequences(shards, tokenizer):
    frames = FrameSequenceMixture(shards, (0.5, 0.3, 0.2), 3, validation=False, seed=0).rows(90, 40)
    assert frames.shape == (40, 3, SIZE, SIZE, 3)
    numbers = frames[:, :, 0, 0, 0].astype(int) * 256 + frames[:, :, 0, 0, 1]
    assert np.array_equal(numbers, mixture(shards, tokenizer).rows(90, 40)[:, 1:-1:4])


def test_frame_rows_are_random_crops_of_every_frame(shards):
    crops = FrameMixture(shards, (0.5, 0.3, 0.2), validation=False, seed=0)
    rows = crops.rows(0, 200, 8)
    assert rows.shape == (200, 8, 8, 3)
    assert np.array_equal(crops.rows(11, 5, 8), rows[11:16])
    assert set(rows[:, 0, 0, 2].tolist()) == set(range(SIZE - 8 + 1))  # every place of the crop
    alone = FrameMixture(shards[2:], [1.0], validation=False, seed=0).rows(0, 48, SIZE)
    numbers = alone[:, 0, 0, 0].astype(int) * 256 + alone[:, 0, 0, 1]
    assert sorted(numbers) == [2000 + start for start, _ in split(shards[2], validation=False)]


def test_what_cannot_be_mixed_is_refused(shards, tokenizer, tmp_path):
    rows = mixture(shards, tokenizer)
    for first, count in ((-1, 1), (0, 0)):
        with pytest.raises(ValueError, match="first must be at least 0 and count at least 1"):
            rows.rows(first, count)
    with pytest.raises(ValueError, match=r"weights must be at least 0.*\[-1.0, 1.0, 1.0\]"):
        mixture(shards, tokenizer, (-1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="weights must be at least 0"):
        mixture(shards, tokenizer, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="3 data sets need as many weights, got 2"):
        mixture(shards, tokenizer, (1.0, 1.0))
    few = write_shard(tmp_path / "few", "video", [4] * (HOLD_OUT - 1), 0, tokenizer)
    with pytest.raises(ValueError, match=r"none of \['few'\] has files held out"):
        FrameMixture([few], [1.0], validation=True, seed=0)
    with pytest.raises(ValueError, match="crops must be of 1 to 16 pixels, got 17"):
        FrameMixture([few], [1.0], validation=False, seed=0).rows(0, 1, 17)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_a_permutation_is_one_to_one_and_mixes(size):
    places = np.arange(size)
    one = permute(places, size, key_of(1), np.zeros_like(places))
    assert sorted(one) == list(range(size))
    if size >= 64:
        two = permute(places, size, key_of(1), np.ones_like(places))
        assert (one == two).mean() < 0.1
        assert (one == places).mean() < 0.1
        assert abs(np.corrcoef(one, places)[0, 1]) < 0.3


def test_every_item_comes_first_equally_often():
    epochs = np.arange(7000)
    first = np.bincount(permute(np.zeros_like(epochs), 7, key_of(5), epochs), minlength=7)
    assert np.abs(first - 1000).max() < 150  # five standard deviations


def test_the_stream_is_the_same_in_every_version():
    """A stored run resumes only if these numbers never change."""
    assert key_of(0, 1) == 627405149472732430
    assert permute(np.arange(6), 6, key_of(3), np.zeros(6, int)).tolist() == [4, 1, 0, 5, 3, 2]
    assert interleave((600, 400), key_of(0), 3)[0][:8].tolist() == [0, 1, 0, 1, 0, 1, 0, 0]
    assert uniform(7, np.arange(2)).tolist() == [0.3935452525211064, 0.46519245062848724]


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ((0.2, 0.1, 0.1, 0.6), (200, 100, 100, 600)),
        ((1.0, 1.0, 1.0), (334, 333, 333)),
        ((1.0, 0.0), (1000, 0)),
        ((1e-6, 1.0), (1, 999)),
    ],
)
def test_shares_are_whole_rows_of_a_block(weights, counts):
    assert apportion(weights) == counts


def test_the_papers_mixture_is_a_template_of_the_pretrain_command():
    from toto_robot.cli import compose

    data, _ = compose("pretrain", ["mixture=toto"])
    names = [item["path"].rsplit("/", 1)[1] for item in data["data"]]
    shares = apportion([item["weight"] for item in data["data"]])
    assert dict(zip(names, shares, strict=True)) == {
        "imagenet21k": 200,
        "ego4d": 100,
        "kinetics": 100,
        "howto100m": 600,
    }
