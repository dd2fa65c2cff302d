"""`toto-robot cater`: localisation of a hidden object, hand-made scores, and damaged data."""

import json

import numpy as np
import pytest

from tests.command_lines import run
from toto_robot.data.video import write_video
from toto_robot.recognition.cater import grid_distance
from toto_robot.recognition.cater_videos import clip_numbers
from toto_robot.recognition.scores import score_layers

MODULE = "toto_robot.recognition.cater"
TINY = "probe.epochs=60 probe.batch=8 probe.part=8 probe.optimizer.lr=0.01 engine.log_every=1000"
CELLS = (0, 5, 30, 35)  # the corners


def write_data(root, train=32, val=8, size=128, frames=8):
    """Videos of a yellow square in the cell of the label; it is at another place before."""
    rng = np.random.default_rng(0)
    (root / "lists/localize").mkdir(parents=True)
    (root / "videos").mkdir()
    for part, count in (("train", train), ("val", val)):
        lines = []
        for i in range(count):
            cell, name = CELLS[i % 4], f"{part}_{i}.mp4"
            video = np.full((frames, size, size, 3), 60, np.uint8)
            edge = size // 6
            for t, where in enumerate([*rng.integers(0, 36, frames - 1), cell]):
                y, x = edge * (where // 6), edge * (where % 6)
                video[t, y : y + edge, x : x + edge] = (250, 220, 20)
            write_video(root / "videos" / name, list(video), 4.0, faithful=True)
            lines.append(f"{name} {cell}\n")
        (root / f"lists/localize/{part}.txt").write_text("".join(lines))
    (root / "lists/localize/hidden.txt").write_text("".join(lines[:3]))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("cater"))


def results(out):
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize(
    ("one", "two", "distance"), [(0, 0, 0), (0, 5, 5), (0, 35, 10), (7, 14, 2), (5, 6, 6)]
)
def test_grid_distance_of_hand_made_cases(one, two, distance):
    assert grid_distance(np.array([one]), np.array([two])) == [distance]


def test_top1_and_top5_of_hand_made_cases():
    shares = np.zeros((1, 3, 36))
    shares[0, 0, 7] = 1  # right
    shares[0, 1, [1, 2, 3, 4, 8]] = [5, 4, 3, 2, 1]  # the fifth is right
    shares[0, 2, [1, 2, 3, 4, 5, 9]] = [6, 5, 4, 3, 2, 1]  # the sixth is right
    scores = score_layers(shares, np.array([7, 8, 9]), np.arange(3), (0,))
    assert scores.correct.tolist() == [[True, False, False]]
    assert scores.correct_5.tolist() == [[True, True, False]]


def test_clips_have_frames_of_the_whole_video_up_to_its_end():
    assert clip_numbers(300, 4, 1).tolist() == [[74, 149, 224, 299]]
    assert clip_numbers(8, 2, 2).tolist() == [[1, 5], [3, 7]]
    assert clip_numbers(3, 3, 2).tolist() == [[0, 1, 2], [0, 1, 2]]
    for length, frames, clips in ((50, 16, 1), (301, 32, 10), (16, 16, 3)):
        numbers = clip_numbers(length, frames, clips)
        assert numbers[-1, -1] == length - 1
        assert (np.diff(numbers, axis=1) > 0).all()
        assert numbers.min() >= 0


@pytest.mark.parametrize("encoder", ["none", "mae_nano", "nano"])
def test_cater_finds_the_object(data, tmp_path, encoder):
    line = f"data={data} out={tmp_path} encoder={encoder} frames=2 cells=4 subset=hidden {TINY}"
    done = run(MODULE, line)
    assert done.code == 0, done.err
    assert "32 training and 8 test videos" in done.out
    found = results(tmp_path)["distances"]
    assert max(row["top1"] for row in found["all"]) >= 0.75
    assert min(row["l1"] for row in found["all"]) <= 1.25
    assert found["all, majority"][0]["top1"] == 0.25
    assert found["all, majority"][0]["l1"] == (0 + 5 + 5 + 10) / 4  # always cell 0
    assert found["hidden"][0]["videos"] == 3
    assert found["not hidden"][0]["videos"] == 5


def test_a_head_without_pooling_finds_the_object_in_the_last_frame_at_chosen_layers(data, tmp_path):
    line = f"data={data} out={tmp_path} encoder=nano frames=3 cells=16 read_frames=1 layers=[0,2]"
    done = run(MODULE, f"{line} probe.head=low_rank {TINY} probe.epochs=20")
    assert done.code == 0, done.err
    found = results(tmp_path)["distances"]["all"]
    assert [row["layer"] for row in found] == [0, 2]
    assert min(row["top1"] for row in found) == 1


def test_clips_are_averaged_and_the_run_resumes(data, tmp_path):
    line = f"data={data} out={tmp_path} encoder=none frames=2 num_clips=2 {TINY} probe.epochs=2"
    done = run(MODULE, line)
    assert done.code == 0, done.err
    first = results(tmp_path)
    assert np.load(tmp_path / "correct.npz")["correct"].shape == (1, 8)
    inputs = np.load(tmp_path / "cache/inputs.npy")
    assert inputs.shape[:3] == (40, 2, 2)  # videos, clips, frames
    assert (inputs[:, 0, 1] != inputs[:, 1, 1]).any()
    again = run(MODULE, line)
    assert again.code == 0, again.err
    assert "read videos" not in again.err
    assert results(tmp_path) == first


def test_features_of_separate_frames_do_not_depend_on_earlier_frames(data):
    from toto_robot.encoders.loading import load_encoder
    from toto_robot.probing.layer_features import open_layers
    from toto_robot.recognition.cater import CellLayers

    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 255, (2, 1, 2, 128, 128, 3), dtype=np.uint8)
    two[:, 1] = one[:, 1]
    layers = open_layers(load_encoder("toto-nano"))
    kinds = [
        CellLayers(layers, frames=2, read_frames=2, cells=4, separate=value)
        for value in (True, False)
    ]
    for kind, equal in zip(kinds, (True, False), strict=True):
        a, b = (kind.features(kind.compress(clip)) for clip in (one, two))
        assert a.shape == (1, 9, 2 * 16, 128 + 2 + 4 + 4)
        last = slice(16, None)
        assert np.allclose(a[:, 1:, last], b[:, 1:, last], atol=1e-4) == equal
        assert not np.allclose(a[:, :, :16], b[:, :, :16])
        ended = CellLayers(layers, frames=2, read_frames=1, cells=4, separate=equal)
        read = ended.features(ended.compress(one))
        np.testing.assert_allclose(read[..., :128], a[:, :, last, :128], atol=1e-5)
        assert read.shape == (1, 9, 16, 128 + 1 + 4 + 4)
    # the parts are averages of their tokens, row by row, after which their positions come
    tokens = layers.features(layers.compress(one[:, :1])).unflatten(2, (16, 16))
    first = kinds[0].features(kinds[0].compress(one))[0, :, 1]
    np.testing.assert_allclose(first[:, :128], tokens[0, :, :4, 4:8].mean((1, 2)), atol=1e-5)
    assert first[0, 128:].tolist() == [1, 0, 1, 0, 0, 0, 0, 1, 0, 0]


def edit(data, part, text):
    path = data / f"lists/localize/{part}.txt"
    path.write_text(text if isinstance(text, str) else text(path.read_text()))


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (lambda d: (d / "videos/val_1.mp4").unlink(), "", "val_1.mp4"),
        (lambda d: edit(d, "val", "val_0.mp4 36\n"), "", "val.txt, line 1: 'val_0.mp4 36' is not"),
        (lambda d: edit(d, "val", "val_0.mp4 -1\n"), "", "cell in 0..35"),
        (lambda d: edit(d, "val", "val_0.mp4\n"), "", "is not `video cell`"),
        (lambda d: edit(d, "val", lambda text: text * 2), "", "val_0.mp4 is listed twice"),
        (lambda d: edit(d, "val", "train_0.mp4 0\n"), "", "in train.txt and in val.txt"),
        (lambda d: edit(d, "val", ""), "", "val.txt has no video"),
        (lambda d: (d / "lists/localize/train.txt").unlink(), "", "train.txt is not a readable"),
        (lambda d: edit(d, "hidden", "train_0.mp4 0\n"), "subset=hidden", "not in val.txt"),
        (lambda d: None, "frames=9", "train_0.mp4 has 8 frames, fewer than frames=9"),
        (lambda d: None, "frames=17 encoder=nano", "at most 16 frames"),
        (lambda d: None, "layers=[]", "layers must name at least one layer"),
        (lambda d: None, "read_frames=3", "read_frames must be in [1, frames=2], got 3"),
        (lambda d: None, "encoder=nano layers=[1,9]", "layers: [9] do not exist; this encoder has"),
        (lambda d: (d / "videos/val_1.mp4").write_bytes(b"x" * 99), "", "val_1.mp4: not a"),
    ],
)  # fmt: skip
def test_damaged_data_is_named(tmp_path, damage, words, message):
    data = write_data(tmp_path / "data", train=2, val=2, size=32)
    damage(data)
    line = f"data={data} out={tmp_path}/out encoder=none frames=2 {words} {TINY}"
    done = run(MODULE, line)
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err
