"""Tokens in flat shards: what is written is what is read, and half a data set is none."""

import json

import numpy as np
import pytest
import torch

from tests.command_lines import run
from toto_robot.checkpoint import weights_hash
from toto_robot.data.mixture import SequenceMixture
from toto_robot.data.shards import Shard
from toto_robot.data.token_shards import (
    FORMAT,
    ShardedTokens,
    ShardWriter,
    TokenShards,
    open_data,
    shard_name,
)
from toto_robot.files import write_json
from toto_robot.models import SequenceLayout
from toto_robot.tokenizers import LightConfig

LIGHT = LightConfig(
    image_size=16,
    levels=(8, 8, 8, 4, 4),
    widths=(8, 8),
    blocks=(1, 1),
    decoder_widths=(8, 8, 8),
    decoder_blocks=(1, 1, 1),
)
CLIPS = [([3, 3, 4], [3]), ([], []), ([5], []), ([3] * 4, [2, 3])]  # of each shard


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return LIGHT.build()


@pytest.fixture
def folder(tmp_path, tokenizer):
    """Four shards, one of them empty, whose tokens are the numbers of their frames."""
    manifest = {
        "format": FORMAT,
        "name": "clips",
        "kind": "video",
        "shards": len(CLIPS),
        "tokenizer": {"sha256": weights_hash(tokenizer), "tokens_per_frame": 4},
    }
    write_json(tmp_path / "manifest.json", manifest)
    first = 0
    for number, (training, held_out) in enumerate(CLIPS):
        writer = ShardWriter(tmp_path, shard_name(manifest, number))
        frames = sum(training) + sum(held_out)
        tokens = np.repeat(np.arange(first, first + frames)[:, None], 4, axis=1)
        for part in np.array_split(tokens, 2):
            writer.write(part.astype(np.uint16))
        writer.close(training, held_out, problems=[])
        first += frames
    return tmp_path


def test_what_was_written_is_read_from_any_place(folder, tokenizer):
    data = open_data(folder)
    assert isinstance(data, TokenShards)
    assert (data.name, data.kind) == ("clips", "video")
    assert data.runs(validation=False).tolist() == [[0, 3, 2], [6, 4, 1], [13, 5, 1], [18, 3, 4]]
    assert data.runs(validation=True).tolist() == [[10, 3, 1], [30, 2, 1], [32, 3, 1]]
    tokens = data.tokens(tokenizer)
    assert tokens.shape == (35, 4)
    places = np.array([34, 0, 12, 13, 17, 18])
    assert np.array_equal(tokens[places], np.repeat(places[:, None], 4, axis=1))
    assert tokens[places].dtype == np.uint16
    assert (folder / "clips-00000-of-00004.u16").stat().st_size == 13 * 4 * 2  # no header
    assert json.loads((folder / "clips-00003-of-00004.json").read_text())["training"] == [[3, 4]]
    assert not list(folder.glob(".*"))


def test_windows_never_cross_from_clip_to_clip(folder, tokenizer):
    layout = SequenceLayout(codes=8192, tokens_per_frame=4, frames=3)
    mixture = SequenceMixture(
        [TokenShards.open(folder)], [1.0], tokenizer, layout, 3, validation=False, seed=0
    )
    windows = 2 + 2 + 3 + 4
    firsts = mixture.rows(0, windows)[:, 1].tolist()
    assert sorted(firsts) == [0, 3, 6, 7, 13, 14, 15, 18, 21, 24, 27]
    held_out = SequenceMixture(
        [TokenShards.open(folder)], [1.0], tokenizer, layout, 3, validation=True, seed=0
    )
    assert sorted(held_out.rows(0, 2)[:, 1].tolist()) == [10, 32]


def test_an_image_sequence_takes_from_all_shards(folder, tokenizer):
    write_json(
        folder / "manifest.json",
        json.loads((folder / "manifest.json").read_text()) | {"kind": "image"},
    )
    layout = SequenceLayout(codes=8192, tokens_per_frame=4, frames=3)
    mixture = SequenceMixture(
        [TokenShards.open(folder)], [1.0], tokenizer, layout, 3, validation=False, seed=0
    )
    rows = mixture.rows(0, 9)
    assert (rows[:, 0] == layout.start_image).all()
    assert len(set(rows[:, 1:-1:4].reshape(-1).tolist())) == 27  # of 27 that are not held out


def test_half_a_data_set_is_none(folder, tokenizer):
    torch.manual_seed(1)
    with pytest.raises(ValueError, match=r"was tokenised with weights .*; tokenise the frames"):
        TokenShards.open(folder).tokens(LIGHT.build())
    shard = folder / "clips-00002-of-00004.u16"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"1 of 4 shards are missing .* clips-00002-of-00004\.u16"):
        TokenShards.open(folder)
    shard.write_bytes(data)
    (folder / "clips-00000-of-00004.json").write_text("{")
    with pytest.raises(ValueError, match=r"1 of 4 shards .* clips-00000-of-00004\.u16"):
        TokenShards.open(folder)
    with pytest.raises(ValueError, match="holds no data set"):
        open_data(folder / "nothing")
    with pytest.raises(ValueError, match="holds no tokens of format 'tokens 1'"):
        TokenShards.open(folder / "nothing")


def test_damage_of_the_same_size_is_found_by_reading_all(folder):
    data = TokenShards.open(folder)
    assert data.damaged() == []
    shard = folder / "clips-00003-of-00004.u16"
    content = bytearray(shard.read_bytes())
    content[7] ^= 1
    shard.write_bytes(content)
    assert data.damaged() == ["clips-00003-of-00004.u16"]


def test_frames_with_tokens_are_opened_as_such(tmp_path):
    manifest = {"name": "frames", "kind": "image", "size": 8, "clips": []}
    write_json(tmp_path / "manifest.json", manifest)
    assert isinstance(open_data(tmp_path), Shard)


def test_a_writer_that_gives_up_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path, "a-00000-of-00001")
    writer.write(np.zeros((2, 4), np.uint16))
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_thousands_of_shards_need_no_file_descriptors(tmp_path):
    files = [tmp_path / f"{number}.u16" for number in range(2000)]  # more than a process may open
    for number, file in enumerate(files):
        file.write_bytes(np.full((1, 4), number, np.uint16).tobytes())
    tokens = ShardedTokens(files, [1] * len(files), 4)
    assert np.array_equal(tokens[np.arange(2000)][:, 0], np.arange(2000))


@pytest.mark.parametrize(
    "module",
    [
        "toto_robot.training.tokenizer",
        "toto_robot.training.mae",
        "toto_robot.training.patches",
        "toto_robot.fit_pca",
        "toto_robot.analyses.reconstruction",
    ],
)
def test_a_command_that_needs_frames_refuses_tokens_alone(folder, tmp_path, module):
    part = "part: all, " if "analyses" in module else ""
    data = f"data=[{{path: {folder}, {part}weight: 1.0}}]"
    done = run(module, [data, f"out={tmp_path}/run"])
    assert f"{folder} holds tokens without frames; this command needs frames" in done.err
    assert "toto_robot.data.decode" in done.err
