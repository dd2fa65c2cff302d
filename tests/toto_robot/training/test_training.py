"""Training end to end on synthetic files, from decoding to an encoder; and exact resume."""

import dataclasses
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from tests.command_lines import run
from tests.toto_robot.tiny import tiny_engine
from toto_robot import load_encoder
from toto_robot.data.decode import DecodeConfig, decode
from toto_robot.data.mixture import HOLD_OUT, FrameMixture, SequenceMixture, split
from toto_robot.data.shards import Shard, Source, tokenize_shard
from toto_robot.encoders.golden import golden_frames
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig
from toto_robot.training.optimizer import OptimizerConfig
from toto_robot.training.pretrain import PretrainConfig, Stage, pretrain
from toto_robot.training.reconstruction import LightRecipe
from toto_robot.training.tokenizer import DataConfig, TokenizerTrainingConfig, train_tokenizer

LIGHT = LightConfig(
    image_size=32,
    levels=(8, 8, 8, 4, 4),
    widths=(8, 8),
    blocks=(1, 1),
    decoder_widths=(8, 8, 8),
    decoder_blocks=(1, 1, 1),
)
OPTIMIZER = OptimizerConfig(
    lr=1e-3,
    betas=(0.9, 0.95),
    weight_decay=0.01,
    warmup_steps=1,
    final_lr_fraction=0.1,
    clip_norm=1.0,
)
MODEL = TotoConfig(
    codes=8192,
    dim=16,
    layers=2,
    heads=2,
    mlp_hidden=24,
    tie_embeddings=True,
    tokens_per_frame=16,
    frames=2,
    rope_base=10000.0,
    norm_eps=1e-5,
)

ENGINE = tiny_engine(log_every=2, keep_every=2, keep_most=3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two data sets: 22 pictures, and 22 videos of 6 frames, with a broken file in each."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "videos" / "inner").mkdir(parents=True)
    for i in range(HOLD_OUT + 1):
        picture = np.kron(generator.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(
            np.uint8
        )
        cv2.imwrite(str(folder / "images" / f"{i:02}.png"), picture)
        with av.open(str(folder / "videos" / "inner" / f"{i:02}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
            for shift in range(12):
                frame = np.ascontiguousarray(np.roll(picture, 2 * shift, axis=1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    (folder / "videos" / "empty.mp4").write_bytes(b"")
    sources = (
        Source(name="images", kind="image", path=folder / "images", crops=2, stride=1),
        Source(name="videos", kind="video", path=folder / "videos", crops=1, stride=2),
    )
    decode(DecodeConfig(sources=sources, size=32, seed=0), folder / "shards")
    return folder / "shards"


def test_decoding_keeps_every_nth_frame_and_reports_what_it_skips(shards, capsys):
    videos, images = Shard.open(shards / "videos"), Shard.open(shards / "images")
    assert videos.frames().shape == (22 * 6, 32, 32, 3)
    assert images.frames().shape == (22 * 2, 32, 32, 3)
    assert [item["file"] for item in videos.manifest["skipped"]] == ["empty.mp4"]
    assert [item["file"] for item in images.manifest["skipped"]] == ["broken.png"]
    assert videos.manifest["resizer"].startswith("swscale ")
    assert images.manifest["resizer"].startswith("opencv ")
    assert not list(shards.rglob("*.part"))
    source = Source(name="videos", kind="video", path=shards.parent / "videos", crops=1, stride=2)
    decode(DecodeConfig(sources=(source,), size=32, seed=0), shards)
    assert "already exists, kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match="nothing: no readable video"):
        decode(
            DecodeConfig(
                sources=(dataclasses.replace(source, name="nothing", path=shards),), size=32, seed=0
            ),
            shards / "x",
        )
    with pytest.raises(ValueError, match="holds no data set"):
        Shard.open(shards)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"path": "elsewhere"}, "path: "),
        ({"crops": 3}, "crops: 2 != 3"),
        ({"stride": 2}, "stride: 1 != 2"),
        ({"seed": 1}, "seed: 0 != 1"),
        ({"size": 16}, "size: 32 != 16"),
    ],
)
def test_data_of_other_settings_are_not_kept(shards, settings, difference):
    source = {"name": "images", "kind": "image", "path": str(shards.parent / "images")}
    source |= {"crops": 2, "stride": 1}
    source |= {k: v for k, v in settings.items() if k in source}
    words = {"size": 32, "seed": 0} | {k: v for k, v in settings.items() if k not in source}
    line = [f"{key}={value}" for key, value in words.items()]
    line += [f"out={shards}", "sources=[" + json.dumps(source).replace('"', "") + "]"]
    done = run("toto_robot.data.decode", line)
    assert "holds another data set" in done.err
    assert difference in done.err


def test_a_data_set_of_an_earlier_version_is_kept(shards, tmp_path, capsys):
    kept = tmp_path / "images"
    shutil.copytree(shards / "images", kept)
    (kept / "source.json").unlink()
    source = Source(name="images", kind="image", path=Path("moved"), crops=2, stride=1)
    decode(DecodeConfig(sources=(source,), size=32, seed=0), tmp_path)
    assert "already exists, kept" in capsys.readouterr().out


def at_once(*calls):
    """Call functions in threads that begin together, and raise their first error."""
    barrier = threading.Barrier(len(calls))

    def begin(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(begin, call) for call in calls]:
            future.result()


def test_two_that_write_one_data_set_at_once_wait_for_each_other(shards, tmp_path):
    source = Source(name="videos", kind="video", path=shards.parent / "videos", crops=1, stride=2)
    config = DecodeConfig(sources=(source,), size=32, seed=0)
    at_once(*[lambda: decode(config, tmp_path)] * 3)
    expected = (shards / "videos" / "frames.u8").read_bytes()
    assert (tmp_path / "videos" / "frames.u8").read_bytes() == expected
    tokenizer, shard = LIGHT.build(), Shard.open(tmp_path / "videos")
    at_once(*[lambda: tokenize_shard(shard, tokenizer, batch=1)] * 3)
    tokens = tokenizer.encode(torch.from_numpy(shard.frames().copy())).numpy()
    assert np.array_equal(shard.tokens(tokenizer), tokens)
    assert not list(tmp_path.rglob("*.part"))


def test_a_data_set_that_is_cut_off_is_refused(shards, tmp_path):
    shutil.copytree(shards / "images", tmp_path / "images")
    frames = tmp_path / "images" / "frames.u8"
    os.truncate(frames, frames.stat().st_size - 32 * 32 * 3)
    source = f"{{name: images, kind: image, path: {shards.parent}/images, crops: 2, stride: 1}}"
    line = [f"sources=[{source}]", "size=32", "seed=0", f"out={tmp_path}"]
    done = run("toto_robot.data.decode", line)
    assert "images/frames.u8 has 132096 bytes, but 44 frames need 135168; delete" in done.err


def test_held_out_files_are_not_trained_on(shards):
    shard = Shard.open(shards / "images")
    training, held_out = split(shard, validation=False), split(shard, validation=True)
    assert len(held_out) == 2  # both crops of the one held-out picture
    assert not set(training) & set(held_out)
    assert len(training) + len(held_out) == 44


def test_sequences_follow_the_papers_rules(shards):
    torch.manual_seed(0)
    tokenizer = LIGHT.build()
    images, videos = Shard.open(shards / "images"), Shard.open(shards / "videos")
    with pytest.raises(ValueError, match="is not tokenised, needed"):
        images.tokens(tokenizer)
    for shard in (images, videos):
        tokenize_shard(shard, tokenizer, batch=7)
    direct = tokenizer.encode(torch.from_numpy(videos.frames()[:9].copy()))
    assert np.array_equal(videos.tokens(tokenizer)[:9], direct.numpy())
    for shard, begin in ((images, MODEL.start_image), (videos, MODEL.start_video)):
        mixture = SequenceMixture([shard], [1.0], tokenizer, MODEL, 2, validation=False, seed=0)
        sequences = mixture.rows(0, 5)
        assert sequences.shape == (5, 2 * 16 + 2)
        assert (sequences[:, 0] == begin).all()
        assert (sequences[:, -1] == MODEL.end).all()
        assert (sequences[:, 1:-1] < MODEL.codes).all()
    rows = {tuple(row) for row in videos.tokens(tokenizer).tolist()}
    assert tuple(sequences[0, 1:17].tolist()) in rows
    with pytest.raises(ValueError, match="no clip of 7 frames"):
        SequenceMixture([videos], [1.0], tokenizer, MODEL, 7, validation=False, seed=0)
    other = LIGHT.build()
    with pytest.raises(ValueError, match="was tokenised with weights"):
        images.tokens(other)


def test_the_mixture_keeps_its_weights(shards):
    both = [Shard.open(shards / "images"), Shard.open(shards / "videos")]
    never = FrameMixture(both, [1.0, 0.0], validation=False, seed=0)
    crops = never.rows(0, 8, 16)
    pictures = both[0].frames()
    found = [
        any(
            (pictures[:, i : i + 16, j : j + 16] == crop).all((1, 2, 3)).any()
            for i in range(17)
            for j in range(17)
        )
        for crop in crops
    ]
    assert all(found)


def tokenizer_config(shards, steps):
    return TokenizerTrainingConfig(
        tokenizer=LIGHT,
        data=(DataConfig(path=shards / "images", weight=1.0),),
        optimizer=OPTIMIZER,
        steps=steps,
        batch=4,
        crop=16,
        recipe=LightRecipe(edge_weight=1.0),
        validation_frames=16,
        device="cpu",
        precision="float32",
        read_threads=1,
        log_every=2,
        keep_every=2,
        seed=0,
    )


def pretrain_config(shards, tokenizer):
    data = (
        DataConfig(path=shards / "images", weight=0.5),
        DataConfig(path=shards / "videos", weight=0.5),
    )
    return PretrainConfig(
        model=MODEL,
        tokenizer_from=str(tokenizer),
        image_size=None,
        start_from=None,
        data=data,
        optimizer=OPTIMIZER,
        stages=(
            Stage(steps=3, frames=1, batch=4, part=2),
            Stage(steps=3, frames=2, batch=2, part=2),
        ),
        engine=ENGINE,
        validation_sequences=1,
        frame_interval_s=0.2,
        golden_frames=3,
        seed=0,
        pca_frames=20,
    )


def forget_after(out, step):
    """Leave a run as a kill after the checkpoint of ``step`` would have left it."""
    for folder in (out / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def test_digit_embeddings_resume_to_the_bit_and_are_folded_at_the_end(shards, tmp_path):
    folder = train_tokenizer(tokenizer_config(shards, 1), tmp_path / "tokenizer")
    plain = pretrain_config(shards, folder)
    config = dataclasses.replace(plain, digit_embeddings=True)
    encoder = pretrain(config, tmp_path / "digits")
    weights = (encoder / "weights.safetensors").read_bytes()
    forget_after(tmp_path / "digits", 2)
    pretrain(config, tmp_path / "digits")
    assert (encoder / "weights.safetensors").read_bytes() == weights
    without = pretrain(plain, tmp_path / "plain")
    assert (without / "weights.safetensors").read_bytes() != weights
    found, expected = (load_encoder(one).transformer.state_dict() for one in (encoder, without))
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in expected.items()}
    # the loss of the saved encoder is the last one of the log
    rows = [json.loads(line) for line in (tmp_path / "digits/log.jsonl").read_text().splitlines()]
    tokenizer = load_encoder(encoder).tokenizer
    shard = Shard.open(shards / "videos")
    mixture = SequenceMixture([shard], [1.0], tokenizer, MODEL, 2, validation=True, seed=0)
    loss = load_encoder(encoder).transformer.loss(torch.from_numpy(mixture.rows(0, 1)))
    assert loss.item() == pytest.approx(rows[-1]["validation/videos"], abs=1e-5)


def test_data_sets_that_are_not_trained_on_are_measured_by_frame(shards, tmp_path, capsys):
    folder = train_tokenizer(tokenizer_config(shards, 1), tmp_path / "tokenizer")
    config = dataclasses.replace(
        pretrain_config(shards, folder),
        data=(DataConfig(path=shards / "images", weight=1.0),),
        unseen=(shards / "videos",),
        validation_sequences=3,
    )
    encoder = load_encoder(pretrain(config, tmp_path / "toto"))
    rows = [json.loads(line) for line in (tmp_path / "toto/log.jsonl").read_text().splitlines()]
    assert "unseen/videos/first" not in rows[0]  # the first stage has sequences of one frame
    assert "unseen/videos/all" in rows[0]
    mixture = SequenceMixture(
        [Shard.open(shards / "videos")], [1.0], encoder.tokenizer, MODEL, 2, validation=False,
        seed=0,
    )  # fmt: skip
    ids = torch.from_numpy(mixture.rows(0, 3))[:, :-1]
    with torch.no_grad():
        logits = encoder.transformer(ids[:, :-1])
    losses = torch.nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
    expected = {"all": losses, "first": losses[:, :16], "later": losses[:, 16:]}
    for name, value in expected.items():
        assert rows[-1][f"unseen/videos/{name}"] == pytest.approx(value.mean().item(), abs=1e-4)
    assert f"unseen/videos/later {rows[-1]['unseen/videos/later']:.4f}" in capsys.readouterr().out
    # the mean of the held-out files of the training data does not include them
    assert rows[-1]["validation_loss"] == rows[-1]["validation/images"]


def test_training_resumes_to_the_bit_and_ends_in_an_encoder(shards, tmp_path):
    folder = train_tokenizer(tokenizer_config(shards, 4), tmp_path / "tokenizer")
    whole = torch.load(
        tmp_path / "tokenizer/checkpoints/step-0000004/train_state.pt", weights_only=True
    )
    losses = (tmp_path / "tokenizer" / "log.jsonl").read_text()
    weights = (folder / "weights.safetensors").read_bytes()
    forget_after(tmp_path / "tokenizer", 2)
    train_tokenizer(tokenizer_config(shards, 4), tmp_path / "tokenizer")
    again = torch.load(
        tmp_path / "tokenizer/checkpoints/step-0000004/train_state.pt", weights_only=True
    )
    assert (folder / "weights.safetensors").read_bytes() == weights
    assert all(
        torch.equal(moment["exp_avg"], again["optimizer"]["state"][i]["exp_avg"])
        for i, moment in whole["optimizer"]["state"].items()
    )
    assert (tmp_path / "tokenizer" / "log.jsonl").read_text() == losses
    assert (tmp_path / "tokenizer" / "reconstruction.png").stat().st_size > 0
    assert (tmp_path / "tokenizer" / "curve.png").stat().st_size > 0

    config = pretrain_config(shards, folder)
    encoder = pretrain(config, tmp_path / "toto")
    weights = (encoder / "weights.safetensors").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "toto" / "log.jsonl").read_text().splitlines()]
    tokens = {
        2: 2 * 4 * 16,
        4: 3 * 4 * 16 + 2 * 2 * 16,
        6: 3 * 4 * 16 + 3 * 2 * 2 * 16,
    }  # by step, in both stages
    assert {row["step"]: row["tokens"] for row in rows} == tokens
    forget_after(tmp_path / "toto", 2)
    pretrain(config, tmp_path / "toto")
    assert (encoder / "weights.safetensors").read_bytes() == weights
    again = [
        json.loads(line) for line in (tmp_path / "toto" / "log.jsonl").read_text().splitlines()
    ]
    assert again == rows
    pattern, *golden = golden_frames(encoder)
    assert pattern.shape != (32, 32, 3)
    assert len(golden) == 3  # images, videos, images
    for name, frame in zip(("images", "videos", "images"), golden, strict=True):
        shard = Shard.open(shards / name)
        held_out = np.concatenate(
            [shard.frames()[i : i + n] for i, n in split(shard, validation=True)]
        )
        assert (held_out == frame.numpy()).all((1, 2, 3)).any()
    assert not np.array_equal(golden[0], golden[2])
    model = load_encoder(encoder)
    assert model(Shard.open(shards / "images").frames()[:2].copy()).shape == (2, model.dim)
    pca = load_encoder(encoder, pool="pca4").pca
    assert len(pca.frames) == 16
    data = np.concatenate([Shard.open(shards / name).frames() for name in ("images", "videos")])
    assert all((data == frame.numpy()).all((1, 2, 3)).any() for frame in pca.frames)


def test_a_run_resumes_with_other_settings_of_the_computation(shards, tmp_path, capsys):
    folder = train_tokenizer(tokenizer_config(shards, 1), tmp_path / "tokenizer")
    config = pretrain_config(shards, folder)
    whole = load_encoder(pretrain(config, tmp_path / "toto")).transformer.state_dict()
    forget_after(tmp_path / "toto", 2)
    engine = dataclasses.replace(ENGINE, shard_ranks=1, recompute=True)
    stages = tuple(dataclasses.replace(stage, part=1) for stage in config.stages)
    resumed = pretrain(dataclasses.replace(config, engine=engine, stages=stages), tmp_path / "toto")
    assert "continuing: 2 of 6 steps found" in capsys.readouterr().out
    for name, tensor in load_encoder(resumed).transformer.state_dict().items():
        torch.testing.assert_close(tensor, whole[name], atol=1e-4, rtol=1e-3)
    stages = (config.stages[0], dataclasses.replace(config.stages[1], steps=4))
    with pytest.raises(ValueError, match=r"another config .*\n  stages\[1\]\.steps: 3 != 4$"):
        pretrain(dataclasses.replace(config, stages=stages), tmp_path / "toto")


def test_a_transformer_for_another_vocabulary_is_refused(shards, tmp_path):
    folder = train_tokenizer(tokenizer_config(shards, 1), tmp_path / "tokenizer")
    config = dataclasses.replace(
        pretrain_config(shards, folder), model=dataclasses.replace(MODEL, codes=100)
    )
    with pytest.raises(
        ValueError,
        match=r"model.codes and model.tokens_per_frame are 100 and 16, .* 8192 codes and 16 tokens",
    ):
        pretrain(config, tmp_path / "toto")
    with pytest.raises(ValueError, match="golden_frames must not be negative"):
        dataclasses.replace(config, golden_frames=-1)
    with pytest.raises(ValueError, match=r"frames must be 1 to model.frames = 2, got 3"):
        dataclasses.replace(config, stages=(Stage(steps=1, frames=3, batch=1, part=1),))


def test_a_run_is_only_resumed_with_the_same_config(shards, tmp_path):
    train_tokenizer(tokenizer_config(shards, 2), tmp_path)
    with pytest.raises(ValueError, match=r"another config .*\n  steps: 2 != 3$"):
        train_tokenizer(tokenizer_config(shards, 3), tmp_path)


def replace_data(folder):
    """Leave a data set as another `decode` to the same folder would have left it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"seed": manifest["seed"] + 1}))


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_is_only_resumed_with_the_same_data(shards, tmp_path, finished):
    shutil.copytree(shards, tmp_path / "data")
    tokenizer = tokenizer_config(tmp_path / "data", 2)
    folder = train_tokenizer(tokenizer, tmp_path / "tokenizer")
    config = pretrain_config(tmp_path / "data", folder)
    before = (pretrain(config, tmp_path / "toto") / "config.json").read_bytes()
    if not finished:
        forget_after(tmp_path / "toto", 2)
    replace_data(tmp_path / "data" / "images")
    for train, run_config, out in (
        (train_tokenizer, tokenizer, tmp_path / "tokenizer"),
        (pretrain, config, tmp_path / "toto"),
    ):
        with pytest.raises(ValueError, match=r"the content of .*data/images has changed since"):
            train(run_config, out)
    assert (tmp_path / "toto/encoder/config.json").read_bytes() == before
    (tmp_path / "toto" / "inputs.json").unlink()  # as a run of an earlier version
    pretrain(config, tmp_path / "toto")


def test_a_run_is_only_resumed_with_the_same_tokenizer(shards, tmp_path):
    folder = train_tokenizer(tokenizer_config(shards, 1), tmp_path / "tokenizer")
    config = pretrain_config(shards, folder)
    pretrain(config, tmp_path / "toto")
    other = train_tokenizer(tokenizer_config(shards, 2), tmp_path / "other")
    shutil.copytree(other, folder, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"the content of .*/tokenizer/tokenizer has changed"):
        pretrain(config, tmp_path / "toto")


def test_stages_of_one_length_train_on_different_sequences(shards, tmp_path, monkeypatch):
    config = pretrain_config(shards, train_tokenizer(tokenizer_config(shards, 1), tmp_path / "t"))
    stages = [
        Stage(steps=2, frames=frames, batch=batch, part=2)
        for frames, batch in ((1, 4), (2, 2), (1, 6))
    ]
    config = dataclasses.replace(config, stages=tuple(stages), validation_sequences=0)
    numbers = {1: set(), 2: set()}

    class Recorder(SequenceMixture):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seen = numbers[args[4]]

        def rows(self, first, count):
            self.seen.update(range(first, first + count))
            return super().rows(first, count)

    monkeypatch.setattr("toto_robot.training.pretrain.SequenceMixture", Recorder)
    pretrain(config, tmp_path / "toto")
    assert numbers == {1: set(range(2 * 4 + 2 * 6)), 2: set(range(2 * 2))}


def test_data_sets_of_one_name_are_measured_separately(shards, tmp_path):
    folders = [tmp_path / "one" / "images", tmp_path / "two" / "images"]
    for folder in folders:
        shutil.copytree(shards / "images", folder)
    config = pretrain_config(shards, train_tokenizer(tokenizer_config(shards, 1), tmp_path / "t"))
    both = tuple(DataConfig(path=folder, weight=1.0) for folder in folders)
    more = (DataConfig(path=shards / "videos", weight=1.0),)
    config = dataclasses.replace(config, data=both + more, unseen=tuple(folders))
    pretrain(config, tmp_path / "toto")
    row = json.loads((tmp_path / "toto" / "log.jsonl").read_text().splitlines()[-1])
    expected = {"validation/videos", *(f"validation/{folder}" for folder in folders)}
    assert {key for key in row if key.startswith("validation/")} == expected
    assert all(f"unseen/{folder}/all" in row for folder in folders)


def test_warm_up_and_cosine_meet_their_ends():
    schedule = dataclasses.replace(OPTIMIZER, warmup_steps=10)
    assert schedule.lr_at(0, 100) == pytest.approx(1e-4)
    assert schedule.lr_at(9, 100) == schedule.lr_at(10, 100) == pytest.approx(1e-3)
    assert schedule.lr_at(100, 100) == pytest.approx(1e-4)
    rates = [schedule.lr_at(step, 100) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)
