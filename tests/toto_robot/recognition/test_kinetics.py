"""`toto-robot kinetics`: layouts, views, divisions and damaged data, through the command line."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from tests.command_lines import run
from tests.toto_robot.tiny import tiny_engine
from toto_robot.data.video import read_frames, write_video
from toto_robot.probing.layer_features import PixelLayers
from toto_robot.recognition.kinetics import predict_videos
from toto_robot.recognition.probe import Examples, Probe, ProbeConfig
from toto_robot.recognition.scores import LayerScores, score_layers
from toto_robot.recognition.views import Views, average_views, cache_views, read_views
from toto_robot.training.optimizer import OptimizerConfig
from toto_robot.training.parallel import Ranks

MODULE = "toto_robot.recognition.kinetics"
COLOURS = {"high jump": (230, 20, 20), "archery": (20, 230, 20)}
SMALL = "views={frames:2,stride:2,clips:2,crops:3} encoder=none probe.head=linear"
TINY = f"{SMALL} probe.epochs=12 probe.batch=8 probe.part=8 probe.optimizer.lr=0.01"
KINETICS = "label,youtube_id,time_start,time_end,split\n"


def write_clip(path, colour, seed, frames=12):
    """A video of 64 x 48 pixels with a moving square."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x, step = *rng.integers(0, 5, 2), 1 + rng.integers(2)
    images = np.full((frames, 48, 64, 3), 20, np.uint8)
    for i, image in enumerate(images):
        image[y : y + 24, x + i * step : x + i * step + 24] = colour
    write_video(path, list(images), 30.0)


def write_kinetics(folder, train=4, val=2):
    """Clips and tables in the layout of Kinetics."""
    seed = 0
    for split, count in (("train", train), ("validate", val)):
        rows = []
        for label, colour in COLOURS.items():
            for i in range(count):
                seed += 1
                name = f"{split[0]}{label[0]}{i}_-x"
                file = folder / "clips" / label / f"{name}_{i:06}_{i + 10:06}.mp4"
                write_clip(file, colour, seed)
                rows.append(f"{label},{name},{i},{i + 10},{split}\n")
        (folder / f"{split}.csv").write_text(KINETICS + "".join(rows))


def kinetics_line(folder, more=TINY):
    tables = f"videos.train_csv={folder}/train.csv videos.test_csv={folder}/validate.csv"
    return f"videos.path={folder}/clips {tables} out={folder}/out {more}"


def write_table(folder, labs=3, each=3):
    """Clips of several laboratories and their table; further columns stay unread."""
    rows = ["file,rate,verb,lab,part"]
    for lab in range(labs):
        for label, colour in COLOURS.items():
            for i in range(each):
                name = f"{lab}/{label[0]}{i}.mp4"
                write_clip(folder / name, colour, 10 * lab + i)
                rows.append(f"{name},30,{label},lab{lab},{'test' if lab == 2 else 'train'}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")


def table_line(folder, more=f"leave_out=group {TINY}"):
    table = f"videos=table videos.path={folder} videos.csv={folder}/t.csv"
    return f"{table} videos.label=verb videos.group=lab out={folder}/out {more}"


def results(folder):
    return json.loads((folder / "out/results.json").read_text())


def problems(folder):
    with (folder / "out/problems.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("head", ["attention", "cross_attention"])
def test_kinetics_classifies_the_validation_set(tmp_path, head):
    write_kinetics(tmp_path)
    more = TINY.replace("probe.head=linear", f"probe.head={head}").replace("crops:3", "crops:2")
    done = run(MODULE, kinetics_line(tmp_path, more))
    assert done.code == 0, done.err
    assert "12 videos of 2 classes, of which 4 are test videos\n2 x 2 views" in done.out
    found = results(tmp_path)
    assert found["classes"] == ["archery", "high jump"]
    assert found["layers"][0]["top1"] == found["layers"][0]["balanced"] == 1
    assert found["majority"]["top1"] == found["majority"]["balanced"] == 0.5
    stored = np.load(tmp_path / "out/correct.npz")
    assert stored["correct"].shape == (1, 4)  # one answer per video, not per view
    assert not (tmp_path / "out/problems.csv").exists()


def test_a_toto_classifies_videos_and_resumes_without_decoding(tmp_path):
    write_kinetics(tmp_path)
    line = kinetics_line(tmp_path, TINY.replace("encoder=none", "encoder=nano"))
    line = line.replace("clips:2,crops:3", "clips:1,crops:1")
    done = run(MODULE, line)
    assert done.code == 0, done.err
    first = results(tmp_path)
    assert len(first["layers"]) == 9
    assert max(row["top1"] for row in first["layers"]) == 1
    shutil.rmtree(tmp_path / "out/division-0")
    again = run(MODULE, line)
    assert again.code == 0, again.err
    assert "read videos" not in again.err
    assert "encode" not in again.err
    assert results(tmp_path) == first


def test_each_group_is_tested_once_by_probes_of_the_other_groups(tmp_path):
    write_table(tmp_path)
    done = run(MODULE, table_line(tmp_path))
    assert done.code == 0, done.err
    assert "18 videos of 2 classes in 3 groups" in done.out
    found = results(tmp_path)
    assert found["layers"][0]["top1"] == 1
    stored = np.load(tmp_path / "out/correct.npz")
    assert np.bincount(stored["groups"]).tolist() == [6, 6, 6]
    with (tmp_path / "out/groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["videos"]) for row in rows] == [(f"lab{i}", "6") for i in range(3)]


def test_a_colour_that_only_one_laboratory_has_is_not_learned_from_it(tmp_path):
    """In the laboratory left out, the colours of the classes are exchanged."""
    write_table(tmp_path, labs=2)
    for label, colour in zip(COLOURS, reversed(COLOURS.values()), strict=True):
        for i in range(3):
            write_clip(tmp_path / f"1/{label[0]}{i}.mp4", colour, i)
    done = run(MODULE, table_line(tmp_path))
    assert done.code == 0, done.err
    assert results(tmp_path)["layers"][0]["top1"] == 0


def test_a_column_gives_the_test_videos(tmp_path):
    write_table(tmp_path)
    done = run(MODULE, table_line(tmp_path, f"videos.split=part {TINY}"))
    assert done.code == 0, done.err
    assert "of which 6 are test videos" in done.out
    assert np.load(tmp_path / "out/correct.npz")["labels"].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("given", [True, False])
def test_folders_of_classes_are_read(tmp_path, given):
    for label, colour in COLOURS.items():
        for i in range(4):
            part = "" if not given else ("train", "val")[i % 2]
            write_clip(tmp_path / "data" / part / label / f"{i}.mp4", colour, i)
    line = f"videos=folders videos.path={tmp_path}/data splits=2 out={tmp_path}/out {TINY}"
    done = run(MODULE, line)
    assert done.code == 0, done.err
    assert results(tmp_path)["layers"][0]["top1"] == 1
    assert np.load(tmp_path / "out/correct.npz")["correct"].shape == (1, 4)


def slow_views(path, size, frames, stride, clips, crops):
    """The views of a video whose shortest side is ``size``, one after the other."""
    images = read_frames(path)
    width = images.shape[2]
    room = max(0, len(images) - frames * stride)
    result = []
    for clip in range(clips):
        start = room // 2 if clips == 1 else int(room * clip / (clips - 1))
        for crop in range(crops):
            left = (width - size) // 2 if crops == 1 else (width - size) * crop // (crops - 1)
            chosen = []
            for i in range(frames):
                number = start + i * stride
                if number >= len(images):
                    number = len(images) - 1
                chosen.append(images[number, :, left : left + size])
            result.append(chosen)
    return np.array(result)


@pytest.mark.parametrize("views", [(3, 2, 3, 3), (2, 4, 1, 1), (4, 1, 10, 3), (16, 4, 2, 3)])
def test_views_equal_a_slow_version(tmp_path, views):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (20, 6, 9, 3), np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    write_video(tmp_path / "a.mp4", list(images), 30.0, faithful=True)
    frames, stride, clips, crops = views
    given = Views(frames=frames, stride=stride, clips=clips, crops=crops)
    found, length = read_views(tmp_path / "a.mp4", given, 48)
    assert length == 20
    expected = slow_views(tmp_path / "a.mp4", 48, *views)
    assert found.shape == (clips * crops, frames, 48, 48, 3)
    assert np.abs(found.astype(int) - expected).max() <= 2  # two converters of colours


def test_predictions_are_the_mean_of_the_softmax_scores_of_views(tmp_path, monkeypatch):
    monkeypatch.setattr("toto_robot.recognition.kinetics.PART", 2)
    ranks = Ranks(rank=0, world=1, device=torch.device("cpu"), mesh=None)
    rng = np.random.default_rng(0)
    source, views = PixelLayers(), 3
    inputs = source.compress(rng.integers(0, 255, (5 * views, 2, 16, 16, 3), np.uint8))
    examples = Examples(
        inputs=inputs, labels=np.arange(5).repeat(views) % 2, groups=np.arange(5).repeat(views),
        classes=("a", "b", "c"), fingerprint="noise",
    )  # fmt: skip
    optimizer = OptimizerConfig(
        lr=3e-4, betas=(0.9, 0.95), weight_decay=0.0, warmup_steps=0, final_lr_fraction=1.0,
        clip_norm=9.0,
    )  # fmt: skip
    config = ProbeConfig(
        head="attention", epochs=9, batch=4, part=4, optimizer=optimizer, standardise=True,
        cache_gb=1.0, seed=0,
    )  # fmt: skip
    probe = Probe(source, examples, config, tmp_path / "cache", ranks)
    heads = probe.train(np.arange(9), tiny_engine(), tmp_path / "run", ranks)
    videos = np.array([4, 0, 3])
    found = predict_videos(probe, heads, videos, views)
    for number, video in enumerate(videos):
        total = np.zeros(3)
        for view in range(views):
            with torch.no_grad():
                logits = heads(probe.features(np.array([views * video + view])))[0, 0]
            total += np.exp(logits.numpy()) / np.exp(logits.numpy()).sum()
        np.testing.assert_allclose(found[0, number], total / views, rtol=1e-5)
    assert not np.allclose(found, 1 / 3, atol=0.05)
    assert average_views(torch.zeros(2, 6, 5), 3).shape == (2, 2, 5)


def test_balanced_accuracy_is_the_mean_recall_and_has_an_interval_over_groups():
    labels = np.array([0] * 90 + [1] * 10)
    logits = np.zeros((1, 100, 2))
    logits[0, :, 0] = 1  # always class 0
    groups = np.arange(100) // 5
    (row,) = score_layers(logits, labels, groups, (3,)).rows()
    assert row["top1"] == 0.9
    assert row["balanced"] == 0.5
    # resamples without class 1 have a balanced accuracy of 1
    assert (row["balanced_low"], row["balanced_high"]) == (0.5, 1)
    mixed = np.random.default_rng(0).random((2, 100)) < 0.7
    scores = LayerScores(
        layers=(0, 1), correct=mixed, correct_5=mixed, labels=labels, groups=groups
    )
    for i, row in enumerate(scores.rows()):
        recalls = [mixed[i, labels == label].mean() for label in (0, 1)]
        assert row["balanced"] == pytest.approx(np.mean(recalls))
        assert row["balanced_low"] < row["balanced"] < row["balanced_high"]


def test_intervals_of_one_group_are_over_its_examples():
    """Otherwise they would have no width, as for a test set of one laboratory."""
    labels = np.arange(40) % 2
    logits = np.zeros((1, 40, 2))
    logits[0, np.arange(40), np.where(np.arange(40) < 28, labels, 1 - labels)] = 1
    one, each = (
        score_layers(logits, labels, groups, (0,)).rows()
        for groups in (np.full(40, 3), np.arange(40))
    )
    assert one == each
    assert one[0]["top1_low"] < one[0]["top1"] == 0.7 < one[0]["top1_high"]


def test_damaged_missing_and_short_videos_are_reported_and_the_rest_is_used(tmp_path):
    write_table(tmp_path)
    (tmp_path / "0/h0.mp4").write_bytes(b"x" * 99)
    whole = (tmp_path / "1/a0.mp4").read_bytes()
    (tmp_path / "1/a0.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "1/a1.mp4").unlink()
    write_clip(tmp_path / "2/a2.mp4", COLOURS["archery"], 0, frames=2)
    with (tmp_path / "t.csv").open("a") as table:
        table.write("x.mp4,30,,lab0,train\n0/h9.mp4,30,cartwheel,lab0,train\n")
    write_clip(tmp_path / "0/h9.mp4", (9, 9, 9), 0)
    more = f"leave_out=group videos.min_videos=2 {TINY}"
    done = run(MODULE, table_line(tmp_path, more))
    assert done.code == 0, done.err
    assert "2 in video" in done.out
    found = {(one["file"].removeprefix(f"{tmp_path}/"), one["field"]) for one in problems(tmp_path)}
    assert found == {
        ("0/h0.mp4", "video"), ("1/a0.mp4", "video"), ("1/a1.mp4", "file"), ("2/a2.mp4", "frames"),
        ("x.mp4", "verb"), ("0/h9.mp4", "verb"),
    }  # fmt: skip
    (short,) = (one for one in problems(tmp_path) if one["field"] == "frames")
    assert short["problem"] == "2 frames, a clip needs 3: the last frame is repeated"
    assert np.load(tmp_path / "out/correct.npz")["correct"].shape == (1, 15)


def test_an_interrupted_pass_over_the_videos_resumes_with_its_problems(tmp_path):
    files = [tmp_path / f"{i}.mp4" for i in range(4)]
    for i, file in enumerate(files):
        write_clip(file, (9, 9, 200), i)
    files[0].write_bytes(b"no video")
    files[3].write_bytes(b"no video")

    class Stopping(PixelLayers):
        calls = 0

        def compress(self, clips):
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().compress(clips)

    views = Views(frames=300, stride=1, clips=2, crops=1)  # one video per block

    def cache(source):
        return cache_views(
            files, lambda _, file: read_views(file, views, 16), (2, 300, 16, 16, 3), views.span,
            source.compress, tmp_path / "cache/views.npy", {},
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        cache(Stopping())
    found = cache(PixelLayers())
    assert found.shape == (4, 2, 300, 768)
    assert [bool(row.any()) for row in found] == [False, True, True, False]
    stored = json.loads((tmp_path / "cache/views-problems.json").read_text())
    assert [(one["file"][-5], one["field"]) for one in stored] == [
        ("0", "video"), ("1", "frames"), ("2", "frames"), ("3", "video"),
    ]  # fmt: skip


def test_clips_of_kinetics_that_the_folder_lacks_are_reported(tmp_path):
    write_kinetics(tmp_path)
    for file in (tmp_path / "clips").rglob("ta0*"):
        file.unlink()
    done = run(MODULE, kinetics_line(tmp_path))
    assert done.code == 0, done.err
    assert [(one["file"], one["field"]) for one in problems(tmp_path)] == [
        ("ta0_-x_000000_000010", "youtube_id in train.csv")
    ]


def damage(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("hurt", "message"),
    [
        (lambda d: damage(d, "validate.csv", "archery", "archry"),
         "va0_-x_000000_000010: label 'archry' is not a class of"),
        (lambda d: damage(d, "train.csv", "label,", "name,"), "train.csv lacks the columns"),
        (lambda d: damage(d, "validate.csv", "validate\n", "val\n"), None),
        (lambda d: (d / "train.csv").unlink(), "train.csv is not a file"),
        (lambda d: shutil.rmtree(d / "clips/archery"), "at least two classes"),
    ],
)  # fmt: skip
def test_damaged_tables_of_kinetics_are_named(tmp_path, hurt, message):
    write_kinetics(tmp_path, train=2, val=1)
    hurt(tmp_path)
    done = run(MODULE, kinetics_line(tmp_path))
    assert "Traceback" not in done.err
    assert done.code == (message is not None)
    assert (message or "") in done.err


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (None, f"videos.split=part leave_out=group {TINY}", "the videos have test videos"),
        (None, f"videos.group=null leave_out=group videos.min_groups=99 {TINY}", "got []"),
        (None, f"leave_out=group videos.label=name {TINY}", "lacks the columns ['name']"),
        (None, f"splits=0 {TINY}", "splits must be at least 1"),
        (None, TINY.replace("clips:2", "clips:0"), "clips must be at least 1, got 0"),
        (None, TINY.replace("frames:2", "frames:17").replace("=none", "=nano"),
         "trained on clips of at most 16 frames"),
        (("lab0,train", "lab0,dev"), f"videos.split=part {TINY}", "0/h0.mp4: part is 'dev'"),
        (("0/h1", "0/h0"), TINY, "file 0/h0.mp4 is listed twice"),
        (("high jump", "chess"), f"leave_out=group {TINY}",
         "class 'chess' has no training video when group {'lab0'} is left out"),
        (("high jump", "chess"), "videos.classes={}/classes.txt " + TINY,
         "0/h0.mp4: label 'chess' is not a class of"),
    ],
)  # fmt: skip
def test_wrong_settings_and_tables_are_named(tmp_path, change, words, message):
    write_table(tmp_path, each=2)
    (tmp_path / "classes.txt").write_text("archery\nhigh jump\n")
    if change:
        damage(tmp_path, "t.csv", *change)
    done = run(MODULE, table_line(tmp_path, words.replace("{}", str(tmp_path))))
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_clip_of_both_tables_is_named(tmp_path):
    write_kinetics(tmp_path)
    row = (tmp_path / "train.csv").read_text().splitlines()[1]
    with (tmp_path / "validate.csv").open("a") as file:
        file.write(row.replace(",train", ",validate") + "\n")
    done = run(MODULE, kinetics_line(tmp_path))
    assert done.code == 1
    assert "validate.csv: th0_-x_000000_000010 is listed twice" in done.err
