"""Probes of all layers, from images to scores: caches, resumption, and equal results without."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.toto_robot.tiny import tiny_engine, tiny_toto
from toto_robot import load_encoder
from toto_robot.probing import layer_features
from toto_robot.probing.layer_features import PixelLayers, cache_array, open_layers
from toto_robot.recognition.probe import Examples, Probe, ProbeConfig
from toto_robot.recognition.scores import (
    best_layer,
    compare,
    difference,
    score_layers,
    write_scores,
)
from toto_robot.training.optimizer import OptimizerConfig
from toto_robot.training.parallel import Ranks

RANKS = Ranks(rank=0, world=1, device=torch.device("cpu"), mesh=None)
OPTIMIZER = OptimizerConfig(
    lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, warmup_steps=0, final_lr_fraction=1.0,
    clip_norm=math.inf,
)  # fmt: skip
CONFIG = ProbeConfig(
    head="attention", epochs=20, batch=16, part=16, optimizer=OPTIMIZER, standardise=True,
    cache_gb=1.0, seed=0,
)  # fmt: skip


COLOURS = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230], [230, 230, 230]], np.uint8)


def squares(count, frames=1, side=16):
    """Dark clips with a square at a random place, whose colour is the class, 0 to 3."""
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 4, (count, frames, side, side, 3), np.uint8)
    labels = np.arange(count) % 4
    for clip, label in zip(clips, labels, strict=True):
        y, x = 8 * rng.integers(0, side // 8, 2)  # a whole token
        clip[:, y : y + 8, x : x + 8] = COLOURS[label]
    return clips, labels


def examples_of(source, clips, labels):
    return Examples(
        inputs=source.compress(clips), labels=labels, groups=np.arange(len(labels)),
        classes=("a", "b", "c", "d"), fingerprint="squares",
    )  # fmt: skip


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("kind", ["toto", "pixels"])
def test_probes_learn_the_colour_of_a_square(tmp_path, kind, frames):
    source = PixelLayers() if kind == "pixels" else open_layers(load_encoder("toto-nano"))
    number = 120 if kind == "pixels" else 32  # more for pixels, which have no invariance
    clips, labels = squares(number + 16, frames)
    examples = examples_of(source, clips, labels)
    probe = Probe(source, examples, CONFIG, tmp_path / "cache", RANKS)
    heads = probe.train(
        np.arange(32), tiny_engine(log_every=20, keep_every=20), tmp_path / "run", RANKS
    )
    test = np.arange(number, number + 16)
    logits = probe.predict(heads, test).numpy()
    scores = score_layers(logits, labels[test], examples.groups[test], source.layers)
    assert scores.correct.shape == (len(source.layers), 16)
    assert scores.correct.mean(1).max() > 0.7  # chance: 0.25
    write_scores(tmp_path, scores, {"encoder": kind}, "squares")
    assert (tmp_path / "layers.png").stat().st_size > 5000
    assert best_layer(scores)[1].sum() == pytest.approx(1)


@pytest.mark.parametrize("head", ["linear", "attention"])
def test_cached_and_recomputed_features_give_the_same_heads(tmp_path, head, capsys):
    source = open_layers(tiny_toto(16))
    clips, labels = squares(24)
    examples = examples_of(source, clips, labels)
    logits = []
    for name, size in (("cached", 1.0), ("computed", 0.0)):
        config = dataclasses.replace(CONFIG, head=head, epochs=3, cache_gb=size)
        probe = Probe(source, examples, config, tmp_path / name, RANKS)
        heads = probe.train(np.arange(16), tiny_engine(), tmp_path / f"{name}-run", RANKS)
        logits.append(probe.predict(heads, np.arange(16, 24)))
    assert "computed anew in each of 3 epochs" in capsys.readouterr().out
    torch.testing.assert_close(*logits, rtol=0.02, atol=0.02)  # float16 in the cache


def test_probes_of_all_layers_cost_one_pass_of_the_encoder(tmp_path):
    source = open_layers(tiny_toto(16))
    clips, labels = squares(24)
    examples, encoded = examples_of(source, clips, labels), []
    compute = source.features
    source.features = lambda inputs: encoded.append(len(inputs)) or compute(inputs)
    config = dataclasses.replace(CONFIG, epochs=5)
    probe = Probe(source, examples, config, tmp_path / "cache", RANKS)
    heads = probe.train(np.arange(16), tiny_engine(), tmp_path / "run", RANKS)
    probe.predict(heads, np.arange(16, 24))
    assert sum(encoded) == 24 + 1  # one example more, for the size of the features
    again = Probe(source, examples, config, tmp_path / "cache", RANKS)
    again.train(np.arange(16), tiny_engine(), tmp_path / "again", RANKS)
    assert sum(encoded) == 24 + 2  # the cache is used again


def test_a_cache_resumes_after_an_interruption_and_is_renewed_for_other_facts(tmp_path):
    calls = []

    def compute(rows, stop=None):
        if stop is not None and rows.start >= stop:
            raise KeyboardInterrupt
        calls.append(rows.start)
        return np.array([[row, row * row] for row in rows], np.int64)

    path = tmp_path / "a.npy"
    with pytest.raises(KeyboardInterrupt):
        cache_array(path, 10, lambda rows: compute(rows, 8), {"a": 1}, "rows", examples=4)
    expected = [[row, row * row] for row in range(10)]
    assert cache_array(path, 10, compute, {"a": 1}, "rows", examples=4).tolist() == expected
    assert calls == [0, 4, 8]
    assert cache_array(path, 10, compute, {"a": 1}, "rows", examples=4).tolist() == expected
    assert calls == [0, 4, 8]
    cache_array(path, 10, compute, {"a": 2}, "rows", examples=4)
    assert calls == [0, 4, 8, 0, 4, 8]


def test_a_cache_that_was_not_renewed_completely_is_not_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    cache_array(path, 8, lambda rows: np.ones((len(rows), 2)), {"a": 1}, "rows", examples=4)
    with monkeypatch.context() as patch:
        patch.setattr(layer_features, "write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache_array(path, 8, lambda rows: np.zeros((len(rows), 2)), {"a": 2}, "rows", 4)
    ones = cache_array(path, 8, lambda rows: np.ones((len(rows), 2)), {"a": 1}, "rows", examples=4)
    assert (ones == 1).all()


def interrupt(*_):
    raise KeyboardInterrupt


def test_accuracies_equal_a_count_by_hand():
    logits = np.array([[[3.0, 1, 2, 0, 0, 0], [0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 0]]])
    scores = score_layers(logits, np.array([0, 4, 5]), np.array([0, 1, 2]), [7])
    assert scores.correct.tolist() == [[True, False, False]]
    assert scores.correct_5.tolist() == [[True, True, False]]  # ties: the smaller number first
    (row,) = scores.rows()
    assert row["layer"] == 7
    assert row["top1"] == pytest.approx(1 / 3)
    assert row["top5"] == pytest.approx(2 / 3)


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    two = rng.random(400) < 0.5
    one = two.copy()
    one[np.flatnonzero(~two)[:20]] = True  # right wherever `two` is, and 20 times more
    found = difference(one, two, np.arange(400))
    assert found["difference"] == pytest.approx(0.05)
    assert 0.02 < found["low"] < found["high"] < 0.08


def test_two_runs_are_compared_at_their_best_layers(tmp_path):
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 300), np.arange(300)
    scores = {}
    for name, signal in (("good", 2.0), ("bad", 0.5)):
        logits = rng.standard_normal((2, 300, 3))
        logits[1, np.arange(300), labels] += signal
        scores[name] = score_layers(logits, labels, groups, (0, 1))
        write_scores(tmp_path / name, scores[name], {}, "title")
    found = compare(tmp_path / "good", tmp_path / "bad")
    plain = difference(scores["good"].correct[1], scores["bad"].correct[1], groups)
    assert {name: found[name] for name in plain} == plain
    assert 0.2 < found["low"] < found["difference"] < found["high"]
    rows = [scores[name].rows()[1]["balanced"] for name in ("good", "bad")]
    assert found["balanced"] == pytest.approx(rows[0] - rows[1])
    assert found["balanced_low"] < found["balanced"] < found["balanced_high"]
    other = score_layers(rng.standard_normal((1, 300, 3)), labels[::-1], groups, (0,))
    write_scores(tmp_path / "other", other, {}, "title")
    with pytest.raises(ValueError, match="other test examples: labels differ"):
        compare(tmp_path / "good", tmp_path / "other")
    with pytest.raises(ValueError, match=r"none has no results: correct\.npz is missing"):
        compare(tmp_path / "none", tmp_path / "bad")
