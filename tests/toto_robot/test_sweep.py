"""The sweep: its closed form, what it finds where the answer is known, and its refusals."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.toto_robot.visions import toto
from toto_robot import Encoder, StreamConfig, load_encoder, save_encoder
from toto_robot.checkpoint import weights_hash
from toto_robot.encoders.pca import all_features, fit_components
from toto_robot.models import TotoConfig
from toto_robot.probing.report import clearness
from toto_robot.sweep import SweepConfig, sweep
from toto_robot.tokenizers import LightConfig, LightDVae

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
        "data": data, "target": "action", "array": None, "columns": None,
        "encoder": toto(checkpoint),
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


def test_principal_components_are_pools_and_each_control_has_its_own(checkpoint, store, tmp_path):
    encoder = load_encoder(checkpoint)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    fitted = tmp_path / "fitted"
    save_encoder(
        fitted, encoder.tokenizer, encoder.transformer, layer=1, pool="mean",
        pca=fit_components(all_features(encoder), images),
    )  # fmt: skip
    sweep(config(fitted, store, pools=("pca8", "pca8grid1", "mean")), tmp_path / "out")
    found = cells(tmp_path / "out")
    assert found["trained", 2, "pca8"]["width"] == 2 * 8 * 64
    # all eight components of the mean are the mean in other axes
    rotated, mean = (found["trained", 2, pool]["score"] for pool in ("pca8grid1", "mean"))
    assert rotated == pytest.approx(mean, abs=0.02)
    assert found["untrained", 2, "pca8"]["score"] != found["trained", 2, "pca8"]["score"]


def test_device_auto_is_a_device(checkpoint, store, tmp_path):
    sweep(config(checkpoint, store, device="auto", pools=("mean",)), tmp_path)
    assert ("trained", 1, "mean") in cells(tmp_path)


def test_long_episodes_are_encoded_in_batches(checkpoint, tmp_path, monkeypatch):
    from safetensors.numpy import load_file

    rng, sizes = np.random.default_rng(0), []
    for number in range(3):
        frames = rng.integers(0, 256, (40, 2, 16, 16, 3), np.uint8)
        np.savez(tmp_path / f"{number}.npz", frames=frames, light=rng.random(40))
    encode, features = LightDVae.encode, Encoder.token_features
    monkeypatch.setattr(
        LightDVae, "encode", lambda one, rows: sizes.append(len(rows)) or encode(one, rows)
    )
    monkeypatch.setattr(
        Encoder,
        "token_features",
        lambda one, ids, layers: sizes.append(len(ids)) or features(one, ids, layers),
    )
    found = config(checkpoint, tmp_path, target="state", array="light", pools=("mean",))
    sweep(found, tmp_path / "out")
    assert max(sizes) == 32
    expected = load_encoder(checkpoint, layer=1, pool="mean")(frames.reshape(80, 16, 16, 3))
    stored = [load_file(path)["mean-1"] for path in tmp_path.glob("out/embeddings-*/2-*")]
    expected = expected.reshape(40, -1).numpy()
    assert any(np.allclose(one, expected, atol=2e-3) for one in stored)


def test_few_episodes_support_no_choice(checkpoint, tmp_path, capsys):
    record(tmp_path / "store", load_encoder(checkpoint), num_episodes=5)
    header = {"tokenizer_hash": weights_hash(load_encoder(checkpoint).tokenizer)}
    (tmp_path / "store" / "store.json").write_text(json.dumps(header))
    sweep(config(checkpoint, tmp_path / "store"), tmp_path / "out")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("5 episodes do not support a choice of layer and pool: use at least 10;")
    assert "clearly" not in last
    assert not json.loads((tmp_path / "out" / "sweep.json").read_text())["advice"]["supported"]


def test_it_says_what_vision_adds_to_proprioception(result, checkpoint, store, tmp_path, capsys):
    found = cells(result)
    cell = found["trained", 2, "mean"]
    assert 0.9 < cell["added_score"] < 1.3  # joints alone tell less than the mean does
    assert 0 < cell["added_low"] < cell["added_score"] < cell["added_high"]
    assert found["proprioception", None, None]["added_score"] is None
    sweep(config(checkpoint, store), tmp_path / "out")
    text = capsys.readouterr().out
    assert "adds to proprioception" in text.splitlines()[-1]
    assert "no row with an untrained tokenizer: these episodes hold tokens" in text
    assert "the best layer in 100% of resamples" in text


def test_a_stream_of_one_frame_is_no_stream_and_more_frames_are_another(
    checkpoint, store, result, tmp_path
):
    from safetensors.numpy import load_file

    def nearest(one, others):
        return min(np.abs(one["mean-2"].astype(float) - two["mean-2"]).max() for two in others)

    few = config(checkpoint, store, episodes=3, pools=("mean",), stride=2)
    sweep(few, tmp_path / "plain")
    name = next(p.name for p in sorted((tmp_path / "plain").glob("embeddings-*/*")))
    for context, mode, differ in (
        (1, "rolling", False),
        (2, "rolling", True),
        (2, "staggered", True),
    ):
        out = tmp_path / f"{mode}{context}"
        stream = StreamConfig(context=context, mode=mode)
        sweep(dataclasses.replace(few, encoder=toto(checkpoint, stream=stream)), out)
        plain = [load_file(p) for p in (tmp_path / "plain").glob(f"embeddings-*/{name[:6]}*")]
        streamed = [load_file(p) for p in out.glob(f"embeddings-*/{name[:6]}*")]
        assert len(plain) == len(streamed) == 2
        for one in streamed:
            assert (nearest(one, plain) > 2e-3) == differ
    longer = toto(checkpoint, stream=StreamConfig(context=3))
    with pytest.raises(ValueError, match=r"context must be in \[1, 2\]"):
        sweep(dataclasses.replace(few, encoder=longer), tmp_path)
    both = toto(checkpoint, stream=StreamConfig(context=2), repeat_frame=True)
    with pytest.raises(ValueError, match="no stream"):
        sweep(dataclasses.replace(few, encoder=both), tmp_path)
    repeated = dataclasses.replace(few, encoder=toto(checkpoint, repeat_frame=True))
    sweep(repeated, tmp_path / "repeated")
    seen = [load_file(p) for p in (tmp_path / "repeated").glob(f"embeddings-*/{name[:6]}*")]
    plain = [load_file(p) for p in (tmp_path / "plain").glob(f"embeddings-*/{name[:6]}*")]
    assert all(nearest(one, plain) > 2e-3 for one in seen)


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
    assert word in clearness({"low": low, "high": high})


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
    # tokenizer and transformer without training; not the same as a transformer without
    assert found["random", 1, "mean"]["each"] != found["untrained", 1, "mean"]["each"]
    # the encoder's own call, cut to the stored precision
    from safetensors.numpy import load_file

    encoder = load_encoder(checkpoint, layer=1, pool="mean")
    with np.load(tmp_path / "1.npz") as opened:
        expected = encoder(opened["frames"][1::2, 0]).half()
    stored = [load_file(path)["mean-1"] for path in tmp_path.glob("out/embeddings-*/1-*")]
    assert any(np.array_equal(one, expected.numpy()) for one in stored)


def test_videos_beside_an_episode_are_its_frames_and_columns_have_names(
    checkpoint, tmp_path, capsys
):
    from toto_robot.data.video import write_video

    rng = np.random.default_rng(0)
    for number in range(6):
        brightness = rng.integers(0, 256, 8)
        frames = np.broadcast_to(brightness[:, None, None, None], (8, 16, 16, 3)).astype(np.uint8)
        for camera in ("hand", "front"):
            write_video(tmp_path / f"{number}_{camera}.mp4", list(frames), 10.0, faithful=True)
        state = np.stack([brightness / 255, rng.random(8), rng.random(8)], axis=1)
        names = np.array(["light_level", "noise_x", "noise_y"])
        proprio = rng.random((8, 1))
        np.savez(tmp_path / f"{number}.npz", state=state, state_names=names, proprio=proprio)
    pair = config(checkpoint, tmp_path, target="state", pools=("mean",), columns=("light",))
    sweep(pair, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (saved["array"], saved["view"], saved["columns"]) == ("state", "videos", ["light_level"])
    assert cells(tmp_path / "out")["trained", 0, "mean"]["score"] > 0.3
    assert cells(tmp_path / "out")["trained", 0, "mean"]["width"] == 16  # two cameras
    with pytest.raises(ValueError, match=r"begins with any of \['cube'\]: \['light_level', "):
        sweep(dataclasses.replace(pair, columns=("cube",)), tmp_path / "out")
    (tmp_path / "0_hand.mp4").write_bytes(b"no video")
    capsys.readouterr()
    sweep(pair, tmp_path / "again")
    told = capsys.readouterr().out
    assert "left out: 0.npz: " in told
    assert "0_hand.mp4: not a readable video" in told
    assert json.loads((tmp_path / "again" / "sweep.json").read_text())["num_episodes"] == 5


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
        ({"target": "label", "array": "labels"}, "one integer per frame or episode"),
        ({"target": "label", "array": "round"}, "is 0 everywhere"),
        ({"target": "state", "array": "round"}, "is constant"),
        ({"pools": ("attention",)}, "without parameters"),
        ({"pools": ("attention4",)}, "without parameters"),
        ({"pools": ("grid3",)}, "does not divide"),
        ({"pools": ("pca2",)}, "needs principal components, and this encoder has none"),
        ({"folds": 2}, "at least 3"),
        ({"folds": 13}, "need at least as many episodes"),
        ({"penalties": ()}, "penalties"),
        ({"stride": 0}, "stride"),
    ],
)
def test_what_cannot_be_swept_is_named(checkpoint, store, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        sweep(config(checkpoint, store, **change), tmp_path)


def test_damaged_and_foreign_stores_are_named(checkpoint, store, tmp_path, capsys):
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
    sweep(config(checkpoint, copy, pools=("mean",)), tmp_path / "out")
    assert "left out: 000003.safetensors: " in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["num_episodes"] == 11
    for path in (copy / "episodes").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no episode of .* can be read: .*000000\.safetensors is"):
        sweep(config(checkpoint, copy), tmp_path / "none")
    np.savez(tmp_path / "a.npz", tokens=np.zeros((4, 2, 64), np.uint16), labels=np.ones((2, 1)))
    with pytest.raises(ValueError, match="4 tokens but 2 labels"):
        sweep(config(checkpoint, tmp_path), tmp_path)


def lerobot(folder, lengths=(8,) * 6, cameras=None, **columns):
    pytest.importorskip("pyarrow")
    from tests.toto_robot.data.fake_lerobot import stamps_ms, write_set

    rows = np.arange(sum(lengths))
    state = np.stack([np.sin(rows), np.cos(2 * rows), rows / 9], axis=1)
    actions = np.stack([3 * state[:, 0], 100 * state[:, 1] + state[:, 2]], axis=1)
    every = {"eye": stamps_ms(len(rows)), "observation.wrist": stamps_ms(len(rows))}
    names = {"motors": ["shoulder (deg)", "élan"]}
    return write_set(
        folder,
        lengths,
        every | (cameras or {}),
        columns={"observation.state": state.tolist(), "action": actions.tolist()} | columns,
        info={"features": {"action": {"dtype": "float32", "shape": [2], "names": names}}},
    )


def test_the_command_sweeps_a_lerobot_data_set(tmp_path):
    from tests.toto_robot.data.fake_lerobot import VIDEO_PATH
    from tests.toto_robot.data.fake_videos import write
    from toto_robot.data.video import read_frames

    folder, out = lerobot(tmp_path / "set"), tmp_path / "out"
    place = {"video_key": "observation.images.eye", "chunk_index": 0, "file_index": 0}
    video, colours = folder / VIDEO_PATH.format(**place), np.random.default_rng(0)
    write(video, np.kron(colours.integers(0, 256, (48, 4, 4, 3)), np.ones((8, 8, 1))).astype("u1"))
    command = [
        sys.executable, "-m", "toto_robot.sweep", f"data={folder}", f"out={out}",
        "pools=[mean]", "stride=2", "folds=3", "resamples=200",
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    subprocess.run(command, cwd=root, env=environment, check=True)
    saved = json.loads((out / "sweep.json").read_text())
    assert (saved["array"], saved["view"]) == ("action", "lerobot")
    assert saved["columns"] == ["shoulder (deg)", "élan"]
    assert (saved["num_frames"], saved["num_episodes"]) == (24, 6)
    found = cells(out)
    encoder = load_encoder("toto-nano", layer=1, pool="mean")
    assert found["trained", 0, "mean"]["width"] == 2 * encoder.dim  # two cameras
    assert found["proprioception", None, None]["score"] > 0.9  # the state tells the action
    # episode 1 begins at its second frame: each row's own image was embedded
    from safetensors.numpy import load_file

    expected = encoder(read_frames(video)[9:16:2]).half().numpy()
    stored = [load_file(one)["mean-1"] for one in out.glob("embeddings-*/episode_000001-*")]
    assert any(np.allclose(one[:, : encoder.dim], expected, atol=1e-2) for one in stored)
    assert len(stored) == 3

    subprocess.run(
        [*command, "array=observation.state", "target=state", "columns=['observation.state[2]']"],
        cwd=root,
        env=environment,
        check=True,
    )
    saved = json.loads((out / "sweep.json").read_text())
    assert (saved["array"], saved["columns"]) == ("observation.state", ["observation.state[2]"])


def test_what_cannot_be_read_of_a_lerobot_data_set_is_named_and_left_out(
    checkpoint, tmp_path, capsys
):
    from tests.toto_robot.data.fake_lerobot import VIDEO_PATH, stamps_ms
    from tests.toto_robot.data.fake_videos import numbered, write

    lost = {"observation.wrist": stamps_ms(48, lost={10})}
    # a ragged column that nobody asks for is no matter
    ragged = [[0.0] * (1 + row % 2) for row in range(48)]
    folder = lerobot(tmp_path / "set", cameras=lost, extra=ragged)
    one = config(checkpoint, folder, pools=("mean",), stride=2)
    sweep(one, tmp_path / "out")
    told = capsys.readouterr().out
    assert "left out: episode_000001: " in told
    assert "frame 2, due at" in told
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["num_episodes"] == 5
    with pytest.raises(ValueError, match=r"no column 'cube'; it has .*observation\.state"):
        sweep(dataclasses.replace(one, array="cube"), tmp_path / "out")

    place = {"video_key": "observation.wrist", "chunk_index": 0, "file_index": 0}
    video = folder / VIDEO_PATH.format(**place)
    write(video, numbered(48, 24, 40))  # smaller than the other camera's
    sweep(one, tmp_path / "sizes")
    assert json.loads((tmp_path / "sizes" / "sweep.json").read_text())["num_episodes"] == 6
    assert cells(tmp_path / "sizes")["trained", 0, "mean"]["width"] == 16
    video.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"no episode of .* can be read; left out: episode_000000"):
        sweep(one, tmp_path / "none")


def test_raw_pixels_stand_beside_the_layers_and_are_advised_where_they_are_as_good(
    checkpoint, tmp_path, capsys
):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(12):
        places = rng.uniform(0, 1, (9, 2))
        frames = np.zeros((9, 1, 32, 32, 3), np.uint8)
        for frame, (down, across) in zip(frames, places, strict=True):
            rows, columns = np.mgrid[:32, :32] / 32
            glow = np.exp(-((rows - down) ** 2 + (columns - across) ** 2) / 0.1)
            frame[0] = (255 * glow)[..., None]
        labels = places[:-1].astype(np.float32)
        np.savez(tmp_path / "data" / f"{number}.npz", frames=frames, labels=labels)
    asked = config(checkpoint, tmp_path / "data", pools=("mean",))
    sweep(asked, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "sweep.json").read_text())
    (row,) = [cell for cell in result["cells"] if cell["source"] == "pixels 16 x 16"]
    assert row["width"] == 16 * 16 * 3
    assert row["score"] > 0.8
    printed = capsys.readouterr().out
    assert re.search(rf"^pixels 16 x 16 +{row['score']:.3f} \[", printed, re.MULTILINE)
    assert "no layer is clearly better than raw 16 x 16 pixels; if at all, use layer" in printed
