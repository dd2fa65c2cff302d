"""`toto-robot imagenet`: the command as a user types it, and clear errors for damaged data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.command_lines import run
from toto_robot.data.labelled_images import list_images
from toto_robot.recognition.scores import score_layers, write_scores

COLOURS = {"n03": (20, 20, 230), "n01": (20, 230, 20), "n02": (230, 20, 20)}
MODULE = "toto_robot.recognition.imagenet"
TINY = "probe.epochs=40 probe.batch=8 probe.part=8 probe.optimizer.lr=0.01 engine.log_every=1000"


def write_images(folder, count, names=COLOURS, seed=0):
    """Images with a coloured square on a dark ground; the colour is the class."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = np.full((80, 100, 3), 20, np.uint8)
            y, x = rng.integers(4, 30, 2)
            image[y : y + 40, x + 10 : x + 50] = COLOURS[name]
            cv2.imwrite(str(folder / name / f"{i}.JPEG"), image)


def test_a_replaced_image_of_equal_size_is_another_image(tmp_path):
    write_images(tmp_path, 1)
    before = list_images(tmp_path, None).digest()
    assert list_images(tmp_path, None).digest() == before
    image = tmp_path / "n01" / "0.JPEG"
    changed_ns = image.stat().st_mtime_ns
    image.write_bytes(bytes(len(image.read_bytes())))
    os.utime(image, ns=(changed_ns, changed_ns + 1))
    assert list_images(tmp_path, None).digest() != before


def results(out):
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("encoder", ["nano", "none", "mae_nano"])
def test_imagenet_classifies_given_test_images(tmp_path, encoder):
    write_images(tmp_path / "data" / "train", 8)
    write_images(tmp_path / "data" / "val", 4, seed=1)
    done = run(
        MODULE,
        f"data={tmp_path}/data encoder={encoder} out={tmp_path}/out probe.head=linear {TINY}",
    )
    assert done.code == 0, done.err
    assert "36 images of 3 classes, of which 12 are test images" in done.out
    found = results(tmp_path / "out")
    assert found["layers"][0]["top5"] == 1  # of three classes
    assert max(row["top1"] for row in found["layers"]) > 0.8
    assert np.load(tmp_path / "out/correct.npz")["correct"].shape == (len(found["layers"]), 12)


def test_imagenet_divides_other_data_at_random_and_resumes(tmp_path):
    write_images(tmp_path / "data", 6)
    line = f"data={tmp_path}/data out={tmp_path}/out splits=2 {TINY} probe.epochs=4"
    done = run(MODULE, line)
    assert done.code == 0, done.err
    first = results(tmp_path / "out")
    stored = np.load(tmp_path / "out/correct.npz")
    assert stored["correct"].shape == (9, 2 * 3 * 2)
    assert set(np.bincount(stored["groups"], minlength=18)) <= {0, 1, 2}
    shutil.rmtree(tmp_path / "out/split-1")  # as if it had been stopped there
    again = run(MODULE, line)
    assert again.code == 0, again.err
    assert "encode" not in again.err  # tokens and features are still there
    assert results(tmp_path / "out") == first


@pytest.mark.slow  # two processes with torch
def test_two_ranks_train_the_same_probes(tmp_path):
    write_images(tmp_path / "data" / "train", 8)
    write_images(tmp_path / "data" / "val", 4, seed=1)
    words = [f"data={tmp_path}/data", "probe.head=attention", *TINY.split(), "probe.part=4"]
    one = run(MODULE, [*words, f"out={tmp_path}/one"])
    assert one.code == 0, one.err
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", MODULE, *words, f"out={tmp_path}/two"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("results.json") <= 1  # the first rank alone reports
    ours, theirs = (results(tmp_path / name)["layers"] for name in ("one", "two"))
    for row, other in zip(ours, theirs, strict=True):
        assert other["top1"] == pytest.approx(row["top1"], abs=1 / 12)  # sums in another order


def test_a_list_of_classes_sets_their_order(tmp_path):
    from toto_robot.recognition.imagenet import list_images

    write_images(tmp_path / "data" / "train", 2)
    write_images(tmp_path / "data" / "val", 1)
    (tmp_path / "names.txt").write_text("n02 tench, Tinca tinca\nn03 goldfish\nn01 shark\n")
    images = list_images(tmp_path / "data", Path(tmp_path / "names.txt"))
    assert images.classes == ("n02", "n03", "n01")
    folders = [images.classes[label] for label in images.labels]
    assert folders == [file.parent.name for file in images.files]
    assert images.is_test.sum() == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: shutil.rmtree(data / "val" / "n02"), "no folder for 1 classes: ['n02']"),
        (lambda data: (data / "val" / "n99").mkdir(), "folders that are no class of"),
        (lambda data: shutil.rmtree(data / "train"), "train is missing"),
        (lambda data: [p.unlink() for p in (data / "val/n01").iterdir()], "n01 has no image"),
        (lambda data: (data / "val/n01/0.JPEG").write_bytes(b"x" * 99), "0.JPEG: not a readable"),
    ],
)  # fmt: skip
def test_damaged_data_is_named(tmp_path, damage, message):
    data = tmp_path / "data"
    write_images(data / "train", 2)
    write_images(data / "val", 1)
    damage(data)
    done = run(MODULE, f"data={data} out={tmp_path}/out encoder=none {TINY}")
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_class_too_small_to_divide_is_named(tmp_path):
    write_images(tmp_path / "data", 1)
    done = run(MODULE, f"data={tmp_path}/data out={tmp_path}/out encoder=none {TINY}")
    assert done.code == 1
    assert "class 'n01' has 1 examples, too few to train and to test" in done.err


LISTS = [
    (b"\xef\xbb\xbfn01 a\n   \n\nn02 b\nn03\n", None),  # a mark of the byte order, empty lines
    (b"n01\nn02\n", "folders that are no class of"),
    (b"n01\nn02\nn03\nn04\n", "no folder for 1 classes: ['n04']"),
    (b"n01\nn02\nn03\nn03 again\n", "is empty or names a class twice"),
    (b"  \n", "is empty or names a class twice"),
    (b"\xff\n", "is not a readable text file"),
]


@pytest.mark.parametrize("command", ["imagenet", "finetune"])
@pytest.mark.parametrize(("text", "message"), LISTS)
def test_faults_of_a_list_of_classes_are_named(tmp_path, command, text, message):
    write_images(tmp_path / "data", 4)
    (tmp_path / "c.txt").write_bytes(text)
    if command == "imagenet":
        words = f"classes={tmp_path}/c.txt encoder=none probe.head=linear {TINY} splits=1"
        done = run(MODULE, f"data={tmp_path}/data out={tmp_path}/out {words}")
    else:
        words = f"supervision=small labels.classes={tmp_path}/c.txt labels.crops=1 batch=1 part=1"
        words += " steps=1 validation_rows=1 labels.layers=[0] labels.head=linear"
        done = run(
            "toto_robot.finetune",
            f"data={tmp_path}/data out={tmp_path}/out {words} optimizer.warmup_steps=1",
        )
    assert "Traceback" not in done.err
    assert done.code == (message is not None), done.err
    assert (message or "") in done.err


def test_a_file_name_that_is_not_utf8_is_read(tmp_path):
    write_images(tmp_path / "data", 4)
    renamed = os.fsdecode(os.fsencode(tmp_path / "data/n01") + b"/\xff.JPEG")
    (tmp_path / "data/n01/0.JPEG").rename(renamed)
    words = f"encoder=none probe.head=linear {TINY} splits=1"
    done = run(MODULE, f"data={tmp_path}/data out={tmp_path}/out {words}")
    assert done.code == 0, done.err


def test_answers_that_were_not_written_completely_are_no_result(tmp_path, monkeypatch):
    def killed(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", killed)
    scores = score_layers(np.eye(3)[None], np.arange(3), np.arange(3), (0,))
    with pytest.raises(KeyboardInterrupt):
        write_scores(tmp_path, scores, {}, "title")
    assert not (tmp_path / "correct.npz").exists()  # `retest` takes this file as a finished probe
