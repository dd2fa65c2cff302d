"""`toto-robot davis`: the command as a user types it, its propagation, and errors for bad data."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from tests.command_lines import run
from tests.toto_robot.tiny import tiny_toto
from toto_robot import Encoder
from toto_robot.data.video import read_frames
from toto_robot.recognition.davis_report import TrackingScores
from toto_robot.recognition.davis_resolution import compare_sizes
from toto_robot.recognition.label_propagation import LabelMemory, PropagationConfig, largest
from toto_robot.recognition.masks import object_colours, read_mask, write_mask

MODULE = "toto_robot.recognition.davis"
HEIGHT, WIDTH = 64, 96


def write_davis(root, names=("cars", "dots"), frames=5, objects=2):
    """Squares in different colours that move to the right, in the layout of DAVIS-2017."""
    ground = np.random.default_rng(0).integers(90, 130, (HEIGHT, WIDTH, 3), np.uint8)
    for name in names:
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / name).mkdir(parents=True)
        for t in range(frames):
            image, mask = ground.copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
            for k in range(objects):
                box = slice(4 + 30 * k, 28 + 30 * k), slice(8 + 4 * t, 40 + 4 * t)
                image[box], mask[box] = ((250, 20, 20), (20, 20, 250))[k], k + 1
            file = root / "JPEGImages" / "480p" / name / f"{t:05d}.jpg"
            cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            write_mask(root / "Annotations" / "480p" / name / f"{t:05d}.png", mask)
    for year in ("2016", "2017"):
        (root / "ImageSets" / year).mkdir(parents=True)
        (root / "ImageSets" / year / "val.txt").write_text("\n".join(names) + "\n")
    return root


def results(out):
    return json.loads((out / "results.json").read_text())


def test_davis_tracks_several_objects_and_resumes(tmp_path):
    data, out = write_davis(tmp_path / "data"), tmp_path / "out"
    line = f"data={data} out={out} encoder=none image_size=128 device=cpu"
    done = run(MODULE, line)
    assert done.code == 0, done.err
    assert "2 sequences with 10 frames, 16 x 16 patches, 2 layers" in done.out
    assert "Toto-large (512/8)" in done.out
    found = results(out)
    best, kept = found["layers"][1], found["layers"][-1]
    assert kept["layer"] == "first mask kept"
    assert best["J&F"] > 0.8 > kept["J&F"]
    assert best["gain"] == pytest.approx(best["J&F"] - kept["J&F"])
    assert kept["gain_low"] == kept["gain_high"] == 0
    with (out / "sequences.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2  # two layers and the kept mask, sequences, objects
    assert {row["frames"] for row in rows} == {"3"}  # without the first and the last frame
    mask = read_mask(out / "masks/layer-1/cars/00003.png")
    assert mask.shape == (HEIGHT, WIDTH)
    assert set(np.unique(mask)) == {0, 1, 2}
    video = read_frames(out / "videos/cars.mp4")
    assert video.shape == (5, HEIGHT, WIDTH, 3)
    (out / "scores/dots.json").unlink()  # as if it had been stopped there
    again = run(MODULE, line)
    assert again.code == 0, again.err
    assert "continuing: 1 of 2 sequences found" in again.out
    assert results(out) == found


@pytest.mark.parametrize("encoder", ["nano", "random", "mae_nano"])
def test_davis_runs_encoders_at_another_image_size(tmp_path, encoder):
    data = write_davis(tmp_path / "data", names=("cars",), frames=3)
    done = run(
        MODULE,
        f"data={data} out={tmp_path}/out year=2016 encoder={encoder} layers=[0,2] image_size=256 "
        "propagation.memory_frames=1 device=cpu video_rate_hz=null",
    )
    assert done.code == 0, done.err
    assert "32 x 32 patches, 2 layers" in done.out
    assert [row["layer"] for row in results(tmp_path / "out")["layers"]] == [
        0, 2, "first mask kept",
    ]  # fmt: skip
    with (tmp_path / "out/sequences.csv").open() as file:
        assert {row["object"] for row in csv.DictReader(file)} == {"1"}  # all objects are one
    assert not (tmp_path / "out/videos").exists()


def test_image_sizes_are_compared_at_the_layer_that_is_best_at_the_first(tmp_path):
    data, out = write_davis(tmp_path / "data", frames=6), tmp_path / "out"
    line = f"data={data} out={out} encoder=none max_frames=4 image_sizes=[32,64,128] device=cpu"
    done = run("toto_robot.recognition.davis_resolution", line)
    assert done.code == 0, done.err
    found = results(out)
    runs = [results(out / f"size-{size}") for size in (32, 64, 128)]
    assert [len(one["layers"]) for one in runs] == [3, 2, 2]  # all layers at the first size alone
    assert found["layer"] == runs[0]["best_layer"]
    scores = [
        next(row["J&F"] for row in one["layers"] if row["layer"] == found["layer"]) for one in runs
    ]
    assert [row["J&F"] for row in found["sizes"]] == pytest.approx(scores)
    pairs = {(row["from"], row["to"]): row for row in found["differences"]}
    assert list(pairs) == [(32, 64), (32, 128), (64, 128)]
    last = pairs[32, 128]
    assert last["difference"] == pytest.approx(scores[2] - scores[0])
    assert last["higher"] == 2
    assert last["difference_low"] > 0
    assert found["verdict"] == "confirmed"
    with (out / "size-64/sequences.csv").open() as file:
        assert {row["frames"] for row in csv.DictReader(file)} == {"2"}  # of the first 4 frames
    (out / "size-128/scores/dots.json").unlink()  # as if it had been stopped there
    again = run("toto_robot.recognition.davis_resolution", line)
    assert again.code == 0, again.err
    assert "continuing: 1 of 2 sequences found" in again.out
    assert results(out) == found


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("image_sizes=[64]", "two or more different sizes in ascending order, got (64,)"),
        ("image_sizes=[64,32]", "in ascending order, got (64, 32)"),
        ("max_frames=2", "max_frames must be at least 3, got 2"),
    ],
)
def test_bad_settings_of_the_comparison_of_sizes_are_named(tmp_path, setting, message):
    done = run("toto_robot.recognition.davis_resolution", f"out={tmp_path}/out {setting}")
    assert done.code == 1
    assert message in done.err


@pytest.mark.parametrize(
    ("apart", "verdict"),
    [((0.2, 0.3, 0.1), "confirmed"), ((-0.2, -0.3, -0.1), "not confirmed"),
     ((0.2, -0.3, 0.1), "no clear result")],
)  # fmt: skip
def test_the_verdict_needs_an_interval_without_zero(apart, verdict):
    def scores(values):
        rows = np.zeros((4, 2, 1, 2))
        return [np.add(rows, value) for value in values]

    small = TrackingScores(names=("a", "b", "c"), layers=(5,), scores=tuple(scores((0.5,) * 3)))
    large = TrackingScores(
        names=("a", "b", "c"), layers=(5,), scores=tuple(scores(0.5 + np.array(apart)))
    )
    found = compare_sizes((128, 256), [small, large])
    assert found["verdict"] == verdict
    (row,) = found["differences"]
    assert row["difference"] == pytest.approx(np.mean(apart))
    assert row["difference_low"] >= min(apart) - 1e-9
    assert row["difference_high"] <= max(apart) + 1e-9


def test_one_sequence_has_no_interval():
    one, two = (
        TrackingScores(names=("a",), layers=(5,), scores=(np.full((4, 2, 2, 2), value),))
        for value in (0.2, 0.6)
    )
    found = compare_sizes((128, 256), [one, two])
    assert found["verdict"] == "no clear result"
    assert found["differences"][0]["difference"] == pytest.approx(0.4)
    assert np.isnan(found["differences"][0]["difference_low"])


def test_scores_do_not_depend_on_the_format_of_the_masks(tmp_path):
    data = write_davis(tmp_path / "data", names=("cars",), frames=4, objects=1)
    line = f"data={data} encoder=none image_size=64 device=cpu video_rate_hz=null"
    first = run(MODULE, f"{line} out={tmp_path}/palette")
    for file in (data / "Annotations/480p/cars").iterdir():
        cv2.imwrite(str(file), 255 * read_mask(file))  # grey, as in DAVIS-2016
    shutil.rmtree(data / "ImageSets")
    second = run(MODULE, f"{line} out={tmp_path}/grey")
    assert first.code == second.code == 0, first.err + second.err
    assert results(tmp_path / "palette")["layers"] == results(tmp_path / "grey")["layers"]


def other_size(data):
    write_mask(data / "Annotations/480p/cars/00002.png", np.ones((HEIGHT, WIDTH + 2), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_size, "cars/00002.png has 98 x 64 pixels, but"),
        (lambda data: (data / "JPEGImages/480p/dots/00002.jpg").unlink(), "dots/00002.jpg is miss"),
        (lambda data: (data / "JPEGImages/480p/dots/00004.jpg").unlink(), "no frame for the mask"),
        (lambda data: (data / "Annotations/480p/dots/00000.png").unlink(), "no first mask"),
        (lambda data: (data / "Annotations/480p/dots/00003.png").unlink(), "dots/00003.png is mis"),
        (lambda data: shutil.rmtree(data / "JPEGImages/480p/dots"), "'dots' has no folder"),
        (lambda data: shutil.rmtree(data / "Annotations"), "must be the folder of DAVIS"),
        (
            lambda data: (data / "Annotations/480p/cars/00001.png").write_bytes(b"x" * 99),
            "00001.png: not a readable",
        ),
        (
            lambda data: write_mask(
                data / "Annotations/480p/cars/00000.png", np.zeros((HEIGHT, WIDTH), np.uint8)
            ),
            "00000.png has no object",
        ),
    ],
)
def test_bad_data_is_named(tmp_path, damage, message):
    data = write_davis(tmp_path / "data")
    damage(data)
    done = run(MODULE, f"data={data} out={tmp_path}/out encoder=none image_size=64 device=cpu")
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("year=2018", "year must be 2016 or 2017"),
        ("layers=[9]", "layers: [9] do not exist; this encoder has 0 to 8"),
        ("encoder.layer=4 layers=[3]", "layers and encoder.layer are both set"),
        ("image_size=100", "multiple of 8"),
        ("encoder=mae_nano rope_base=50000", "rope_base has no effect on this model"),
        ("encoder=stream", "without a stream"),
        ("propagation.top_k=0", "top_k must be at least 1"),
    ],
)
def test_bad_settings_are_named(tmp_path, setting, message):
    data = write_davis(tmp_path / "data", names=("cars",), frames=3)
    done = run(MODULE, f"data={data} out={tmp_path}/out device=cpu {setting}")
    assert done.code == 1
    assert message in done.err


def straightforward(config, frames, labels):
    """Label propagation by all pairs of patches, with the whole video in memory."""
    frames = torch.nn.functional.normalize(frames, dim=-1)
    n = frames.shape[1]
    side = int(n**0.5)
    places = torch.stack(torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"), -1).reshape(n, 2)
    distance = torch.cdist(places.double(), places.double())
    found = [labels]
    for t in range(1, len(frames)):
        memory = [0, *range(max(1, t - config.memory_frames), t)]
        scores = frames[t] @ frames[memory].transpose(1, 2)  # memory n n
        for i, number in enumerate(memory):
            share = config.radius if number else config.first_frame_radius
            if share is not None:
                scores[i][distance >= share * side] = -torch.inf
        values, at = scores.transpose(0, 1).flatten(1).topk(config.top_k, dim=1)
        weights = (values / config.temperature).softmax(1)
        neighbours = torch.cat([found[number] for number in memory])[at]
        found.append((weights[..., None] * neighbours).sum(1))
    return found


@pytest.mark.parametrize("first_frame_radius", [None, 0.3])
@pytest.mark.parametrize("side", [7, 20])
def test_the_propagation_equals_a_straightforward_one(side, first_frame_radius):
    torch.manual_seed(0)
    config = PropagationConfig(
        memory_frames=3, top_k=5, radius=0.21, first_frame_radius=first_frame_radius,
        temperature=0.05,
    )  # fmt: skip
    frames = torch.randn(7, side**2, 12)
    labels = torch.rand(side**2, 3).softmax(1)
    memory = LabelMemory(config, frames[0], labels)
    wanted = straightforward(config, frames, labels)
    for t in range(1, len(frames)):
        found = memory.propagate(frames[t])
        torch.testing.assert_close(found, wanted[t])
        assert torch.equal(found.argmax(1), wanted[t].argmax(1))  # the mask


def test_the_memory_does_not_grow_with_the_video():
    config = PropagationConfig(
        memory_frames=2, top_k=3, radius=0.3, first_frame_radius=0.3, temperature=0.1
    )
    memory = LabelMemory(config, torch.randn(16, 4), torch.rand(16, 2))

    def numbers():
        return sum(one.numel() for one in vars(memory).values() if isinstance(one, torch.Tensor))

    before = numbers()
    for _ in range(50):
        memory.propagate(torch.randn(16, 4))
    assert before == numbers() == 3 * 16 * (4 + 2)


@pytest.mark.parametrize(
    ("rows", "columns", "k"), [(3, 2000, 10), (2, 331, 4), (2, 40, 10), (2, 3, 5)]
)
def test_largest_equals_topk(rows, columns, k):
    values = torch.rand(rows, columns, generator=torch.Generator().manual_seed(columns))
    found, places = largest(values, k)
    wanted = values.topk(min(k, columns), dim=1)
    assert torch.equal(found, wanted.values)
    assert torch.equal(places, wanted.indices)


def test_a_mask_survives_its_file(tmp_path):
    mask = np.random.default_rng(0).integers(0, 12, (31, 17)).astype(np.uint8)
    mask[0, :3] = 255  # pixels that belong to no object
    write_mask(tmp_path / "mask.png", mask)
    assert np.array_equal(read_mask(tmp_path / "mask.png"), np.where(mask == 255, 0, mask))
    image = cv2.cvtColor(cv2.imread(str(tmp_path / "mask.png")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(image, object_colours()[mask])
    assert object_colours()[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    cv2.imwrite(str(tmp_path / "colour.png"), np.eye(3, dtype=np.uint8)[None].repeat(4, 0))
    with pytest.raises(ValueError, match=r"colour.png is a colour image"):
        read_mask(tmp_path / "colour.png")


def test_an_encoder_at_its_own_size_is_unchanged_and_at_another_has_more_tokens():
    from toto_robot.encoders.resized import at_image_size

    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    encoder = tiny_toto(32)
    same = at_image_size(encoder, 32)
    for one, other in zip(
        encoder.features(frames, (0, 2)), same.features(frames, (0, 2)), strict=True
    ):
        assert torch.equal(one, other)
    assert same.pool == "mean"
    large, turned = at_image_size(encoder, 64), at_image_size(encoder, 64, rope_base=50_000.0)
    (plain,), (adapted,) = large.features(frames), turned.features(frames)
    assert plain.shape == adapted.shape == (2, 64, 16)
    assert not torch.equal(plain, adapted)
    assert torch.equal(large.tokenize(frames), turned.tokenize(frames))
    pooled = Encoder(encoder.tokenizer, encoder.transformer, encoder.layer, "mean")
    assert same.fingerprint == pooled.fingerprint
    slow = at_image_size(encoder, 32, rope_base=50_000.0)
    made = [pooled, large, turned, slow, at_image_size(large, 64, rope_base=20_000.0)]
    assert len({one.fingerprint for one in made}) == len({one.weights_hash for one in made}) == 5
    assert large.untrained().fingerprint != pooled.untrained().fingerprint
    with pytest.raises(ValueError, match="multiple of 8"):
        at_image_size(encoder, 60)
