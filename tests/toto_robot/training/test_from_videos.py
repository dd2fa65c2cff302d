"""One command from real video to an encoder; and what a checkpoint says of its own making."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch

from tests.command_lines import run
from tests.toto_robot.data.fake_videos import numbered, write
from tests.toto_robot.test_locks import HOLDER, start
from toto_robot import load_encoder
from toto_robot.checkpoint import save_checkpoint
from toto_robot.cli import compose
from toto_robot.config import from_dict, to_dict
from toto_robot.data.decode import DecodeConfig, decode
from toto_robot.data.shards import HOLD_OUT, Shard, Source
from toto_robot.encoders.loading import load_tokenizer, save_encoder
from toto_robot.training.from_videos import FromVideosConfig, from_videos
from toto_robot.training.pretrain import PretrainConfig, pretrain
from toto_robot.training.rerun import RerunConfig, rerun

HERE = Path(__file__).parents[3]
CLIPS = HERE / "tests" / "clips"
SMALL = [
    f"videos={CLIPS}",
    "model.dim=32",
    "model.layers=2",
    "model.heads=2",
    "model.mlp_hidden=48",
    "optimizer.warmup_steps=5",
    "stages=[{steps: 60, frames: 1, batch: 4, part: 4}, {steps: 1, frames: 8, batch: 1, part: 1}]",
    "engine.log_every=10",
    "engine.keep_every=20",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The command, as a user runs it."""
    out = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "toto_robot.training.from_videos", f"out={out}", *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_a_folder_of_real_video_becomes_an_encoder(trained):
    out, printed = trained
    assert f"results: {out}" in printed
    assert "too few files to hold some out" in printed
    assert printed.rstrip().endswith(f"encoder {out / 'encoder'}")
    shard = Shard.open(out / "frames" / "videos")
    assert shard.frames().shape == (24, 128, 128, 3)  # 96 frames, every fourth
    losses = [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert losses[0] > 8.0 > 7.0 > losses[-2]  # of 9.01 for a uniform guess
    encoder = load_encoder(out / "encoder")  # compared with its golden vectors
    embeddings = encoder(shard.frames()[:3].copy())
    assert embeddings.shape == (3, encoder.dim)
    assert not torch.equal(embeddings[0], embeddings[2])


def test_a_run_repeats_itself_from_what_its_checkpoint_says(trained, tmp_path):
    out, _ = trained
    again = rerun(RerunConfig(of=out / "encoder"), tmp_path / "again")
    weights = (out / "encoder" / "weights.safetensors").read_bytes()
    assert (again / "weights.safetensors").read_bytes() == weights
    told = json.loads((out / "encoder" / "config.json").read_text())
    del told["training"], told["config_sha256"]
    (tmp_path / "untold").mkdir()
    (tmp_path / "untold" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="has no training config"):
        rerun(RerunConfig(of=tmp_path / "untold"), tmp_path / "shipped")
    told["training"] = {"config": json.loads((out / "config.json").read_text()), "data": {}}
    told["training"]["config"]["data"] = [{"path": "data/elsewhere", "weight": 1.0}]
    (tmp_path / "untold" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="no data set in data/elsewhere"):
        rerun(RerunConfig(of=tmp_path / "untold"), tmp_path / "shipped")


def test_a_rerun_with_other_initial_weights_is_refused(trained, tmp_path):
    out, _ = trained
    shutil.copytree(out / "encoder", tmp_path / "of")
    data = json.loads((tmp_path / "of/config.json").read_text())
    data["training"]["config"]["start_from"] = str(out / "encoder")
    data["training"]["start_from"] = "of other weights"
    del data["config_sha256"]
    (tmp_path / "of/config.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"of did not begin with .*/encoder: the weights differ"):
        rerun(RerunConfig(of=tmp_path / "of"), tmp_path / "again")
    data["training"]["config"]["tokenizer_from"] = str(tmp_path / "other")
    (tmp_path / "of/config.json").write_text(json.dumps(data))
    other = load_tokenizer("toto-nano")
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    save_checkpoint(tmp_path / "other", "tokenizer", to_dict(other.config), other.state_dict())
    with pytest.raises(ValueError, match=r"tokenizer .*/other is not that of .*/of"):
        rerun(RerunConfig(of=tmp_path / "of"), tmp_path / "again")


def test_a_rerun_on_other_data_is_refused(trained, tmp_path):
    out, _ = trained
    manifest = out / "frames" / "videos" / "manifest.json"
    before = manifest.read_text()
    manifest.write_text(before.replace('"seed": 0', '"seed": 1'))
    try:
        with pytest.raises(ValueError, match=r"data sets \[.*videos'\] are not those"):
            rerun(RerunConfig(of=out / "encoder"), tmp_path)
    finally:
        manifest.write_text(before)


def test_frames_of_other_videos_are_not_reused(trained, tmp_path):
    out, _ = trained
    for words, difference in (
        ([f"videos={tmp_path}"], f"path: '{CLIPS}' != '{tmp_path}'"),
        (["stride=1"], "stride: 4 != 1"),
        (["crops=3"], "crops: 1 != 3"),
    ):
        done = run("toto_robot.training.from_videos", [*SMALL, f"out={out}", *words])
        assert "holds another data set" in done.err
        assert difference in done.err


def test_a_folder_that_is_in_use_is_refused_before_videos_are_decoded(tmp_path):
    with start(HOLDER, tmp_path / "out") as holder:
        assert holder.stdout.readline() == "held\n"
        done = run("toto_robot.training.from_videos", [*SMALL, f"out={tmp_path}/out"])
        holder.kill()
    assert f"written to by another process (process {holder.pid}" in done.err
    assert not (tmp_path / "out" / "frames").exists()


@pytest.mark.slow  # three processes with torch
def test_of_several_ranks_one_decodes(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "toto_robot.training.from_videos", *SMALL[:6]]
    command += ["stages=[{steps: 2, frames: 1, batch: 2, part: 1}]", f"out={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("24 frames in 1 clips") == 1
    assert load_encoder(tmp_path / "encoder").dim > 0


def test_videos_that_are_too_short_leave_the_folder_free(tmp_path):
    line = [*SMALL, f"out={tmp_path}/out"]
    stages = "stages=[{steps: 1, frames: %d, batch: 1, part: 1}]"
    done = run("toto_robot.training.from_videos", [*line, "model.frames=32", stages % 32])
    assert "no clip of 32 frames or more" in done.err
    assert not list((tmp_path / "out").rglob("tokens.u16"))  # refused before the tokens are made
    done = run("toto_robot.training.from_videos", [*line, stages % 1])
    assert done.code == 0, done.err


def test_a_held_out_video_that_is_too_short_leaves_out_its_validation(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(HOLD_OUT):
        write(tmp_path / f"videos/{number:02}.mp4", numbered(2 if number == HOLD_OUT - 1 else 4))
    stages = ", ".join(f"{{steps: 1, frames: {n}, batch: 1, part: 1}}" for n in (2, 4))
    words = [f"videos={tmp_path}/videos", *SMALL[1:6], "stride=1", "engine.log_every=1"]
    done = run("toto_robot.training.from_videos", [*words, f"stages=[{stages}]", f"out={tmp_path}"])
    assert done.code == 0, done.err
    expected = "videos: no held-out file has 4 frames or more, so it has no validation loss with"
    assert done.out.count("so it has no validation loss") == done.out.count(expected) == 1
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["validation/videos" in row for row in rows] == [True, False]


def test_a_model_goes_on_at_a_higher_resolution(trained, tmp_path):
    """Paper Table 4: 16 x 16 tokens first, then 32 x 32 with a RoPE base of 50,000."""
    out, _ = trained
    config = from_dict(FromVideosConfig, compose("from_videos", SMALL)[0])
    tokenizer = load_tokenizer("toto-nano", image_size=256)
    assert tokenizer.tokens_per_frame == 32 * 32
    small = load_encoder(out / "encoder", verify=False)
    data, _ = compose(
        "pretrain",
        ["resolution=32x32", *SMALL[1:5], f"start_from={out}/encoder", "tokenizer_from=toto-nano"],
    )
    larger = from_dict(PretrainConfig, data)
    assert larger.model.rope_base == 50_000
    assert larger.model.tokens_per_frame == 1024
    larger = dataclasses.replace(
        larger,
        data=tuple(
            dataclasses.replace(entry, path=out / "frames" / "videos", weight=1.0)
            for entry in larger.data[:1]
        ),
        stages=tuple(
            dataclasses.replace(stage, steps=2, frames=1, batch=1, part=1)
            for stage in larger.stages[:1]
        ),
        optimizer=dataclasses.replace(config.optimizer, lr=0.0),
        golden_frames=1,
    )
    encoder = load_encoder(pretrain(larger, tmp_path / "larger"))
    assert encoder.image_size == 256
    assert encoder.tokens_per_frame == 1024
    for name, tensor in small.transformer.state_dict().items():
        assert torch.equal(encoder.transformer.state_dict()[name], tensor), name
    other = dataclasses.replace(larger, model=dataclasses.replace(larger.model, mlp_hidden=64))
    with pytest.raises(ValueError, match=r"has another model .*\n  mlp_hidden: 48 != 64"):
        pretrain(other, tmp_path / "other")
    small.tokenizer.requires_grad_(False)
    next(small.tokenizer.parameters()).add_(1.0)
    save_encoder(tmp_path / "start", small.tokenizer, small.transformer, layer=1, pool="mean")
    other = dataclasses.replace(larger, start_from=str(tmp_path / "start"))
    with pytest.raises(ValueError, match=r"tokens of another tokenizer .* tokenizer_from=.*start$"):
        pretrain(other, tmp_path / "other")


def test_stages_of_the_page_train_and_train_further(tmp_path, monkeypatch):
    """The commands of docs/pretraining.md as typed, with two steps a stage and a small model."""
    page = (HERE / "docs" / "pretraining.md").read_text()
    section = re.split(r"^###.*`stages=`", page, flags=re.MULTILINE)[1].partition("\n## ")[0]
    text = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)).replace("\\\n", " ")
    text = re.sub(r"steps: \d+", "steps: 2", text).replace("FOLDER", str(CLIPS))
    first, second = (shlex.split(line)[2:] for line in text.splitlines() if line.strip())
    monkeypatch.chdir(tmp_path)
    small = [*SMALL[1:6], "engine.log_every=1"]
    for module, *words in (first, second):
        monkeypatch.setattr(sys, "argv", [module, *words, *small])
        importlib.import_module(module).main()
    losses = [
        [
            json.loads(x)
            for x in (tmp_path / "runs" / name / "log.jsonl").read_text().split("\n")
            if x
        ]
        for name in ("longer", "further")
    ]
    assert [line["step"] for line in losses[0]][-1] == 4  # two stages of two steps
    stages = json.loads((tmp_path / "runs" / "longer" / "config.json").read_text())["stages"]
    assert [(stage["frames"], stage["batch"], stage["part"]) for stage in stages] == [
        (4, 2, 2), (16, 1, 1),
    ]  # fmt: skip
    assert losses[1][0]["loss"] < losses[0][0]["loss"]  # it began where the first run ended
    assert load_encoder(tmp_path / "runs" / "further" / "encoder").dim > 0
    monkeypatch.setattr(sys, "argv", ["from_videos", *first[1:], *small, "model.frames=8"])
    with pytest.raises(SystemExit, match=r"frames must be 1 to model\.frames = 8, got 16"):
        importlib.import_module("toto_robot.training.from_videos").main()


def test_what_cannot_be_trained_on_is_refused_at_once(tmp_path):
    config = from_dict(FromVideosConfig, compose("from_videos", SMALL)[0])
    with pytest.raises(ValueError, match="is not a folder"):
        from_videos(dataclasses.replace(config, videos=tmp_path / "none"), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no readable video"):
        from_videos(dataclasses.replace(config, videos=tmp_path / "empty"), tmp_path / "out")


def test_every_file_is_used_or_named_with_a_reason(tmp_path, capsys):
    whole = (CLIPS / "traffic.mp4").read_bytes()
    (tmp_path / "good.mp4").write_bytes(whole)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    with (
        av.open(str(tmp_path / "cut.mkv"), "w") as copy,
        av.open(str(CLIPS / "traffic.mp4")) as clip,
    ):
        stream = copy.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(clip.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    remuxed = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(remuxed[: len(remuxed) * 2 // 3])
    source = Source(name="all", kind="video", path=tmp_path, crops=2, stride=4)
    decode(DecodeConfig(sources=(source,), size=32, seed=0), tmp_path / "frames")
    manifest = Shard.open(tmp_path / "frames" / "all").manifest
    lengths = {clip["file"]: clip["length"] for clip in manifest["clips"]}
    assert lengths["good.mp4"] == 24
    assert 4 < lengths["cut.mkv"] < 24
    assert sorted(item["file"] for item in manifest["skipped"]) == ["empty.mp4", "text.mp4"]
    (part,) = manifest["in_part"]
    assert part["file"] == "cut.mkv"
    assert "ends early" in part["reason"]
    printed = capsys.readouterr().out
    assert all(f"skipped {name}: not readable" in printed for name in ("empty.mp4", "text.mp4"))
    assert "partly used cut.mkv: ends early" in printed
