"""`toto-robot ego4d_sta_train`: the head learns generated clips by heart, and names bad videos."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.command_lines import run
from tests.toto_robot.data.fake_videos import write
from tests.toto_robot.tiny import tiny_toto
from toto_robot.encoders.loading import save_encoder
from toto_robot.recognition.sta_head import StaHead, StaOutput

MODULE = "toto_robot.recognition.ego4d_sta_train"
WIDTH, HEIGHT, RATE = 96, 64, 10
NOUNS = {3: (230, 40, 40), 8: (40, 60, 230)}  # the colour of a shape is its noun
TRAIN = "optimizer.lr=0.005 optimizer.warmup_steps=5 transformer_lr=0.3 next_token_weight=0.1"


def write_data(folder, videos=4, seed=0):
    """Videos in which a hand (white) moves towards a shape; it takes or, from above, pushes it."""
    rng = np.random.default_rng(seed)
    metadata, images = {}, []
    for v in range(videos):
        noun = list(NOUNS)[v % 2]
        verb = 1 + v // 2 % 2
        left, top = (int(rng.integers(low, high)) for low, high in ((40, 60), (28, 36)))
        box = [left, top, left + 26, top + 22]
        frames = []
        for t in range(12):
            frame = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
            frame[top : top + 22, left : left + 26] = NOUNS[noun]
            gap = 12 - t  # frames until the contact
            x, y = (left - 8 - 2 * gap, top) if verb == 1 else (left, top - 8 - 2 * gap)
            frame[max(y, 0) : max(y + 8, 0), max(x, 0) : max(x + 8, 0)] = 240
            frames.append(frame)
        write(folder / f"v{v}.mp4", frames)
        metadata[f"v{v}"] = {"frame_width": WIDTH, "frame_height": HEIGHT, "fps": float(RATE)}
        for t in (4, 10):
            row = {"box": box, "noun_category_id": noun, "verb_category_id": verb}
            row["time_to_contact"] = (12 - t) / RATE
            images.append({"uid": f"v{v}_{t}", "video_id": f"v{v}", "frame": t, "objects": [row]})
    data = {
        "info": {"video_metadata": metadata},
        "noun_categories": [{"id": noun, "name": f"noun {noun}"} for noun in NOUNS],
        "verb_categories": [{"id": 1, "name": "take"}, {"id": 2, "name": "push"}],
        "annotations": images,
    }
    (folder / "sta.json").write_text(json.dumps(data))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    made = tiny_toto(64)
    save_encoder(folder, made.tokenizer, made.transformer, 1, "grid2")
    return folder


def train(tiny, data, out, more=""):
    files = f"data={data} train={data}/sta.json test={data}/sta.json"
    return run(
        MODULE,
        f"{files} start_from={tiny} out={out} frames=2 stride=2 width=32 batch=8 part=8 "
        f"engine.log_every=1000 {TRAIN} {more}",
    )


def test_the_model_learns_generated_clips_by_heart(tiny, tmp_path):
    write_data(tmp_path)
    done = train(tiny, tmp_path, tmp_path / "out", "steps=80")
    assert done.code == 0, done.err
    assert "train on 8 images with 8 objects" in done.out
    scores = json.loads((tmp_path / "out/results.json").read_text())["corrected"]
    assert scores["overall"] == 100
    found = json.loads((tmp_path / "out/predictions.json").read_text())["results"]
    assert set(found) == {f"v{v}_{t}" for v in range(4) for t in (4, 10)}


def test_a_killed_training_resumes_to_the_same_predictions(tiny, tmp_path):
    write_data(tmp_path, videos=2)
    more = "steps=6 engine.keep_every=3 engine.log_every=3"
    assert train(tiny, tmp_path, tmp_path / "whole", more).code == 0
    assert train(tiny, tmp_path, tmp_path / "out", more).code == 0
    for name in ("predictions.json", "results.json", "log.jsonl"):
        (tmp_path / "out" / name).unlink()
    shutil.rmtree(tmp_path / "out/checkpoints/step-0000006")  # as if it had been killed
    done = train(tiny, tmp_path, tmp_path / "out", more)
    assert "continuing: 3 of 6 steps found" in done.out
    assert "tokenise" not in done.err  # the tokens of the clips are reused
    for name in ("predictions.json", "results.json"):
        whole, again = (tmp_path / one / name for one in ("whole", "out"))
        assert json.loads(whole.read_text()) == json.loads(again.read_text())
    changed = train(tiny, tmp_path, tmp_path / "out", more.replace("steps=6", "steps=7"))
    assert changed.code == 1
    assert "steps: 6 != 7" in changed.err


def test_a_missing_or_short_video_is_named(tiny, tmp_path):
    write_data(tmp_path, videos=2)
    (tmp_path / "v0.mp4").rename(tmp_path / "away.mp4")
    done = train(tiny, tmp_path, tmp_path / "out", "steps=1")
    assert done.code == 1
    assert "v0.mp4: no such file" in done.err
    write(tmp_path / "v0.mp4", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 6)
    done = train(tiny, tmp_path, tmp_path / "out", "steps=1")
    assert done.code == 1
    assert "v0.mp4 has no frame 8, which v0_10 needs" in done.err
    done = train(tiny, tmp_path, tmp_path / "other", "steps=1 frames=9")
    assert done.code == 1
    assert "frames must be at most 4" in done.err


def test_boxes_that_do_not_fit_the_image_are_named(tiny, tmp_path):
    write_data(tmp_path, videos=2)
    data = json.loads((tmp_path / "sta.json").read_text())
    data["annotations"][0]["objects"][0]["box"] = [50, 30, 500, 60]
    (tmp_path / "train.json").write_text(json.dumps(data))
    done = train(tiny, tmp_path, tmp_path / "out", f"steps=1 train={tmp_path}/train.json")
    assert done.code == 0, done.err
    assert "They are clipped to the image for the training" in done.out
    table = (tmp_path / "out/problems_train.csv").read_text()
    assert "train.json,annotations[0].objects[0].box" in table
    data["info"]["video_metadata"]["v1"]["frame_width"] *= 2
    (tmp_path / "train.json").write_text(json.dumps(data))
    done = train(tiny, tmp_path, tmp_path / "no", f"steps=1 train={tmp_path}/train.json")
    assert done.code == 1
    assert "v1.mp4: has frames of 96 x 64, but info.video_metadata.v1 states 192 x 64" in done.err


def test_each_object_has_points_and_the_smaller_one_comes_first():
    head = StaHead(1, 8, 8, width=8, nouns=2, verbs=2)
    boxes = torch.tensor([[[0.1, 0.1, 0.9, 0.9], [0.3, 0.3, 0.7, 0.7], [0.0, 0, 1, 1]]])
    owner, used = head.assign(boxes, torch.tensor([[True, True, False]]))
    assert set(owner[used].tolist()) == {0, 1}
    _, used = head.assign(boxes, torch.tensor([[False, False, False]]))
    assert not used.any()


def test_the_loss_of_right_predictions_is_near_zero_and_grows_with_each_error():
    head = StaHead(1, 8, 8, width=8, nouns=2, verbs=2)
    boxes, classes = torch.tensor([[[0.2, 0.2, 0.7, 0.6]]]), torch.tensor([[[1, 0]]])
    times = torch.tensor([[0.5]])
    _, used = head.assign(boxes, classes[..., 0] >= 0)
    points = used.shape[1]
    nouns = torch.full((1, points, 2), -20.0)
    nouns[0, used[0], 1] = 20
    verbs = torch.tensor([20.0, -20]).expand(1, points, 2)
    right = {"nouns": nouns, "verbs": verbs, "boxes": boxes.expand(1, points, 4)}
    right["times"] = times.expand(1, points)

    def loss(**changes):
        return float(head.loss(StaOutput(**right | changes), boxes, classes, times))

    assert loss() == pytest.approx(0, abs=1e-4)
    wrong = {"nouns": nouns.flip(2), "verbs": verbs.flip(2), "boxes": right["boxes"] + 0.2}
    wrong["times"] = right["times"] + 1
    for name, value in wrong.items():
        assert loss(**{name: value}) > 0.4, name
