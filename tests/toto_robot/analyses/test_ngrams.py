"""N-grams: counts against a plain dictionary, in memory and on disk, and the facts told of them."""

import collections
import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto_robot.analyses.counting import GramCounter, Spectrum, grams
from toto_robot.analyses.ngrams import NgramsConfig, TokenSource, ngrams
from toto_robot.checkpoint import save_checkpoint
from toto_robot.config import to_dict
from toto_robot.data.shards import Shard, tokenize_shard
from toto_robot.files import write_json
from toto_robot.tokenizers import LightConfig

LIGHT = LightConfig(
    image_size=32, levels=(4, 4), widths=(8, 8), blocks=(1, 1),
    decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
)  # fmt: skip
SIDE = 4  # tokens of a row at 32 pixels


def plain_counts(tokens, length):
    counts = collections.Counter()
    for row in tokens.reshape(-1, tokens.shape[2]).tolist():
        for place in range(len(row) - length + 1):
            counts[tuple(row[place : place + length])] += 1
    return counts


def spectrum_of(batches, length, codes, memory):
    counter = GramCounter(codes**length, memory)
    try:
        for batch in batches:
            counter.add(grams(batch, length, codes))
        return counter.spectrum()
    finally:
        counter.close()


@given(
    st.integers(0, 999), st.integers(1, 3), st.sampled_from([3, 40]), st.sampled_from([5, 10**6])
)
def test_counts_are_exact_in_memory_and_on_disk(seed, length, codes, memory):
    tokens = np.random.default_rng(seed).integers(0, codes, (9, 4, 5))
    found = spectrum_of(np.array_split(tokens, 4), length, codes, memory)
    plain = collections.Counter(plain_counts(tokens, length).values())
    assert dict(zip(found.times.tolist(), found.grams.tolist(), strict=True)) == plain
    assert found.total == 9 * 4 * (5 - length + 1)
    assert (np.diff(found.times) < 0).all()


def test_a_gram_ends_with_its_row():
    tokens = np.arange(4).reshape(1, 2, 2)
    assert grams(tokens, 2, 10).tolist() == [1, 23]  # not 12, which is in raster order only


def test_the_largest_vocabulary_of_the_paper_has_room():
    tokens = np.full((1, 1, 3), 16383)
    assert grams(tokens, 3, 16384).tolist() == [16384**3 - 1]
    with pytest.raises(ValueError, match="possible must be"):
        GramCounter(16384**5, 10)


def test_facts_of_a_small_distribution():
    spectrum = Spectrum(times=np.array([4, 2, 1]), grams=np.array([1, 1, 2]), possible=10)
    assert (spectrum.total, spectrum.distinct, spectrum.coverage) == (8, 4, 0.4)
    assert spectrum.entropy_bits == pytest.approx(0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3)
    assert spectrum.unseen == 2 / 8
    assert spectrum.half == 1
    ranks, shares = spectrum.curve()
    assert ranks.tolist() == [1, 1, 2, 2, 3, 4]
    assert shares.tolist() == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_half_is_the_fewest_that_make_half(counts):
    times, number = np.unique(counts, return_counts=True)
    spectrum = Spectrum(times=times[::-1], grams=number[::-1], possible=100)
    sums = np.cumsum(sorted(counts, reverse=True))
    assert spectrum.half == int(np.searchsorted(sums, sums[-1] / 2)) + 1


def test_what_was_unseen_comes_as_often_as_estimated():
    shares = np.random.default_rng(0).dirichlet(np.full(3000, 0.5))
    draws = np.random.default_rng(1).choice(3000, 20000, p=shares)
    counter = GramCounter(3000, 10**6)
    counter.add(draws[:1000].astype(np.uint64))
    new = 1 - np.isin(draws[1000:], draws[:1000]).mean()
    assert counter.spectrum().unseen == pytest.approx(new, abs=0.05)


@pytest.fixture
def source(tmp_path):
    """A tokenizer, and a data set of frames whose tokens repeat along a row."""
    torch.manual_seed(0)
    tokenizer = LIGHT.build().requires_grad_(False)
    for parameter in tokenizer.encoder.parameters():
        parameter.mul_(3.0)  # so that it has use for all its codes
    save_checkpoint(tmp_path / "tokenizer", "tokenizer", to_dict(LIGHT), tokenizer.state_dict())
    folder = tmp_path / "set"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (60, 32, 1, 3), dtype=np.uint8)
    np.broadcast_to(rows, (60, 32, 32, 3)).tofile(folder / "frames.u8")
    clips = [{"file": f"{i}.png", "start": i, "length": 1} for i in range(60)]
    manifest = {"name": "set", "kind": "image", "size": 32, "stride": 1, "seed": 0, "frames": 60}
    write_json(folder / "manifest.json", manifest | {"clips": clips, "skipped": []})
    return tokenizer, TokenSource(
        name="stripes", tokenizer=str(tmp_path / "tokenizer"), data=folder, part="all", frames=None
    )


def run(source, out, **changes):
    settings = {"lengths": (1, 2), "batch": 25, "memory_grams": 1000, "seed": 0} | changes
    ngrams(NgramsConfig(sources=(source,), **settings), out)
    with (out / "ngrams.csv").open() as file:
        return {(row["length"], row["neighbours"]): row for row in csv.DictReader(file)}


def test_the_command_counts_any_tokenizer_on_any_frames(source, tmp_path, capsys):
    tokenizer, stripes = source
    rows = run(stripes, tmp_path / "out")
    assert not (stripes.data / "tokens.u16").exists()  # it wrote nothing beside the frames
    tokens = tokenizer.encode(torch.from_numpy(Shard.open(stripes.data).frames().copy()))
    counts = plain_counts(tokens.numpy().reshape(60, SIDE, SIDE), 2)
    assert int(rows["2", "pictures"]["distinct"]) == len(counts)
    assert int(rows["2", "pictures"]["counted"]) == 60 * SIDE * (SIDE - 1)
    # in stripes a neighbour is known; from another frame it is not
    picture, stranger = (
        float(rows["2", kind]["entropy_bits"]) for kind in ("pictures", "strangers")
    )
    assert picture < stranger - 0.5
    assert (tmp_path / "out" / "ngrams.png").stat().st_size > 0
    assert "stripes" in capsys.readouterr().out
    # tokens that are there give the same
    tokenize_shard(Shard.open(stripes.data), tokenizer, batch=7)
    assert run(stripes, tmp_path / "again") == rows


def test_what_was_counted_is_read_again_only_with_the_same_settings(source, tmp_path):
    _, stripes = source
    before = run(stripes, tmp_path)
    path = tmp_path / "spectra" / "stripes.json"
    kept = json.loads(path.read_text())
    kept["spectra"][0]["times"][0] += 1
    path.write_text(json.dumps(kept))
    assert run(stripes, tmp_path) != before
    assert run(stripes, tmp_path, seed=1)["1", "pictures"] == before["1", "pictures"]


def test_what_cannot_be_counted_is_refused(source, tmp_path):
    _, stripes = source
    with pytest.raises(ValueError, match="lengths must be at most the 4 tokens of a row, got 5"):
        run(stripes, tmp_path, lengths=(5,))
    with pytest.raises(ValueError, match="distinct names"):
        NgramsConfig(sources=(stripes, stripes), lengths=(1,), batch=2, memory_grams=9, seed=0)
