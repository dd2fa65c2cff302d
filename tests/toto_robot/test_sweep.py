"""The sweep: its closed form, what it finds where the answer is known, and its refusals."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from toto_robot import Encoder, load_encoder, save_encoder
from toto_robot.checkpoint import weights_hash
from toto_robot.models import TotoConfig
from toto_robot.sweep import SweepConfig, _clearness, _rotate, fit_ridge, sweep
from toto_robot.tokenizers import LightConfig

PENALTIES = (1e-5, 1e-1, 1e1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(7)  # not that of the untrained control
    tokenizer = LightConfig(
        image_size=64, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
        decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    transformer = TotoConfig(
        codes=8192, dim=8, layers=2, heads=1, mlp_hidden=8, tie_embeddings=True,
        tokens_per_frame=64, frames=2, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    with torch.no_grad():  # so that the layers differ
        for weight in transformer.layers.parameters():
            weight.mul_(10 if weight.ndim == 2 else 1)
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    save_encoder(folder, tokenizer, transformer, layer=1, pool="mean")
    return folder


def config(checkpoint, data, **changes):
    arguments = {
        "data": data, "target": "action", "array": None, "encoder": str(checkpoint),
        "device": "cpu", "pools": ("mean", "grid2"), "stride": 1, "episodes": None, "folds": 3,
        "width": 64, "penalties": PENALTIES, "resamples": 200, "seed": 0,
    }  # fmt: skip
    return SweepConfig(**{**arguments, **changes})


def record(folder, encoder: Encoder, num_episodes=12, length=9):
    """Write episodes whose action is the mean of the second camera's features after block 2."""
    rng = np.random.default_rng(0)
    (folder / "episodes").mkdir(parents=True)
    for number in range(num_episodes):
        tokens = rng.integers(0, 8192, (length, 2, 64), dtype=np.uint16)
        tokens[:, :, :] = np.where(rng.random((length, 2, 64)) < 0.7, tokens[:, :, :1], tokens)
        ids = torch.from_numpy(tokens[:, 1].astype(np.int64))
        (features,) = encoder.token_features(ids, (2,))
        labels = features.mean(1)[:-1, :3].numpy().copy()
        labels[:, 2] = 0.5  # never changes
        proprio = rng.normal(size=(length, 2)).astype(np.float32)
        facts = {"success": number % 3 > 0, "seed": number, "round": 0}
        save_file(
            {"tokens": tokens, "labels": labels, "proprio": proprio},
            folder / "episodes" / f"{number:06d}.safetensors",
            metadata={"episode": json.dumps(facts)},
        )


@pytest.fixture(scope="module")
def store(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    encoder = load_encoder(checkpoint)
    record(folder, encoder)
    header = {"tokenizer_hash": weights_hash(encoder.tokenizer)}
    (folder / "store.json").write_text(json.dumps(header))
    return folder


@pytest.fixture(scope="module")
def result(checkpoint, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    sweep(config(checkpoint, store), out)
    return out


def cells(out):
    found = json.loads((out / "sweep.json").read_text())["cells"]
    return {(cell["source"], cell["layer"], cell["pool"]): cell for cell in found}


def test_closed_form_is_what_refitting_each_fold_gives():
    rng = np.random.default_rng(1)
    inputs, fold = rng.normal(size=(60, 5)) + 3, np.arange(60) % 4
    target = inputs @ rng.normal(size=(5, 2)) + rng.normal(size=(60, 2)) * (1, 5) + 7
    weigh = np.array([1.0, 0.1])

    def fit(rows, penalty):
        x, y = inputs[rows], target[rows]
        centred = x - x.mean(0)
        gram = centred.T @ centred
        gram += penalty * np.trace(gram) / 5 * np.eye(5)
        slope = np.linalg.solve(gram, centred.T @ (y - y.mean(0)))
        return lambda new: (new - x.mean(0)) @ slope + y.mean(0)

    expected, chosen = np.zeros_like(target), []
    for k in range(4):
        errors = []
        for penalty in PENALTIES:
            error = 0.0
            for other in set(range(4)) - {k}:
                told = fit((fold != k) & (fold != other), penalty)(inputs[fold == other])
                error += np.square(told - target[fold == other]).sum(0) @ weigh
            errors.append(error)
        chosen.append(PENALTIES[int(np.argmin(errors))])
        expected[fold == k] = fit(fold != k, chosen[-1])(inputs[fold == k])
    ridge = fit_ridge(inputs, target, fold, PENALTIES, weigh)
    assert ridge.penalties == chosen
    np.testing.assert_allclose(ridge.predictions, expected, rtol=1e-9)


def test_without_inputs_it_tells_the_mean_of_the_other_folds():
    target, fold = np.array([[1.0], [2.0], [6.0]]), np.arange(3)
    told = fit_ridge(np.zeros((3, 0)), target, fold, PENALTIES, np.ones(1)).predictions
    np.testing.assert_allclose(told, [[4.0], [3.5], [1.5]])


def test_rotation_keeps_what_a_linear_probe_sees():
    rng = np.random.default_rng(2)
    low_rank = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 40))
    rotated, kept = _rotate(low_rank, 10)
    assert rotated.shape == (50, 6)
    assert kept == pytest.approx(1)
    np.testing.assert_allclose(rotated @ rotated.T, low_rank @ low_rank.T, atol=1e-8)
    assert _rotate(low_rank, 3)[1] < 1


def test_it_finds_the_layer_that_made_the_target(result):
    found = cells(result)
    right = found["trained", 2, "mean"]
    assert right["score"] > 0.99
    assert right["width"] == 16  # two cameras side by side
    assert right["low"] <= right["score"] <= right["high"]
    assert right["best_share"] == 1
    assert found["trained", 0, "mean"]["score"] < right["score"] - 0.01
    assert found["untrained", 2, "mean"]["score"] < right["score"]
    assert found["proprioception", None, None]["score"] < 0.1
    assert found["constant", None, None]["score"] <= 0
    assert len(found) == 2 + 2 * 3 * 2
    shares = [found["trained", layer, "grid2"]["best_share"] for layer in range(3)]
    assert sum(shares) == pytest.approx(1)
    saved = json.loads((result / "sweep.json").read_text())
    assert (saved["advice"]["layer"], saved["advice"]["best_layer"]) == (2, 2)
    assert saved["constant_columns"] == ["labels[2]"]
    assert (saved["num_frames"], saved["num_episodes"]) == (96, 12)
    assert saved["advice"]["differences_of_the_best"]["layer 0"]["low"] > 0
    with (result / "sweep.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(found)
    assert (result / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_where_it_stopped(checkpoint, store, result, tmp_path, monkeypatch, capsys):
    shutil.copytree(result, tmp_path / "again")
    files = sorted(tmp_path.glob("again/embeddings-*/*"))
    assert len(files) == 2 * 12
    files[0].unlink()
    calls, before = [], Encoder.token_features

    def counted(self, ids, layers):
        if isinstance(layers, range):  # not the check of an encoder that is opened
            calls.append(len(ids))
        return before(self, ids, layers)

    monkeypatch.setattr(Encoder, "token_features", counted)
    sweep(config(checkpoint, store), tmp_path / "again")
    assert len(calls) == 1
    assert cells(tmp_path / "again") == cells(result)
    assert capsys.readouterr().out.splitlines()[-1].startswith("use layer 2")
    # another target needs no encoder
    sweep(config(checkpoint, store, target="state"), tmp_path / "again")
    assert len(calls) == 1
    assert ("proprioception", None, None) not in cells(tmp_path / "again")


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "no clear")]
)
def test_words_say_which_way_a_difference_goes(low, high, word):
    assert word in _clearness({"low": low, "high": high})


def test_labels_are_told_by_accuracy(checkpoint, store, tmp_path):
    out = tmp_path / "out"
    sweep(config(checkpoint, store, target="label", pools=("mean",)), out)
    found = cells(out)
    assert found["constant", None, None]["score"] == pytest.approx(8 / 12)
    assert json.loads((out / "sweep.json").read_text())["columns"] == [
        "success=False", "success=True",
    ]  # fmt: skip


def test_frames_of_npz_files_are_encoded_with_the_encoders_own_tokenizer(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        brightness = rng.random(8)
        noise = rng.random((8, 1, 16, 16, 3))
        frames = (255 * brightness[:, None, None, None, None] * noise).astype(np.uint8)
        kind = (brightness > 0.5).astype(np.int64)
        np.savez(tmp_path / f"{number}.npz", frames=frames, light=brightness, label=kind)
    sweep(
        config(checkpoint, tmp_path, target="state", array="light", pools=("mean",), stride=2),
        tmp_path / "out",
    )
    found = cells(tmp_path / "out")
    assert found["trained", 0, "mean"]["score"] > 0.3
    # the encoder's own call, cut to the stored precision
    from safetensors.numpy import load_file

    encoder = load_encoder(checkpoint, layer=1, pool="mean")
    with np.load(tmp_path / "1.npz") as opened:
        expected = encoder(opened["frames"][1::2, 0]).half()
    stored = [load_file(path)["mean-1"] for path in tmp_path.glob("out/embeddings-*/1-*")]
    assert any(np.array_equal(one, expected.numpy()) for one in stored)


def test_episodes_of_one_seed_are_never_split(checkpoint, store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    for number in range(12):
        source = copy / "episodes" / f"{number:06d}.safetensors"
        shutil.copy(source, copy / "episodes" / f"{number + 12:06d}.safetensors")
    sweep(config(checkpoint, copy, pools=("mean",)), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["num_episodes"] == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array": "cube"}, r"has no 'cube'.*'labels', 'proprio'"),
        ({"target": "label", "array": "labels"}, "whole number"),
        ({"target": "label", "array": "round"}, "is 0 everywhere"),
        ({"target": "state", "array": "round"}, "never changes"),
        ({"pools": ("attention",)}, "without parameters"),
        ({"pools": ("grid3",)}, "does not divide"),
        ({"folds": 2}, "at least 3"),
        ({"folds": 13}, "need as many episodes"),
        ({"penalties": ()}, "penalties"),
        ({"stride": 0}, "stride"),
    ],
)
def test_what_cannot_be_swept_is_named(checkpoint, store, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        sweep(config(checkpoint, store, **change), tmp_path)


def test_damaged_and_foreign_stores_are_named(checkpoint, store, tmp_path):
    with pytest.raises(FileNotFoundError, match="no episodes"):
        sweep(config(checkpoint, tmp_path / "nowhere"), tmp_path)
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    (copy / "store.json").write_text(json.dumps({"tokenizer_hash": "0" * 64}))
    with pytest.raises(ValueError, match="another tokenizer"):
        sweep(config(checkpoint, copy), tmp_path)
    (copy / "store.json").unlink()
    damaged = copy / "episodes" / "000003.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"000003\.safetensors is damaged"):
        sweep(config(checkpoint, copy), tmp_path)
    np.savez(tmp_path / "a.npz", tokens=np.zeros((4, 2, 64), np.uint16), labels=np.ones((2, 1)))
    with pytest.raises(ValueError, match="4 tokens but 2 labels"):
        sweep(config(checkpoint, tmp_path), tmp_path)
