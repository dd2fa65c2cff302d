"""`toto-robot finetune`: the command as a user types it, on labels, videos and demonstrations."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.command_lines import run
from tests.toto_robot.tiny import tiny_toto
from toto_robot import load_encoder
from toto_robot.data.video import write_video
from toto_robot.encoders.encoder import Encoder
from toto_robot.encoders.loading import load_toto, save_encoder
from toto_robot.recognition.labelled_clips import load_heads

MODULE = "toto_robot.finetune"
CLIPS = Path(__file__).parents[1] / "clips"
COLOURS = {"red": (20, 20, 230), "green": (20, 230, 20), "blue": (230, 20, 20)}
QUICK = "engine.log_every=4 engine.keep_every=4 optimizer.warmup_steps=2"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint of a tiny Toto for frames of 32 pixels."""
    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    made = tiny_toto(32)
    save_encoder(folder, made.tokenizer, made.transformer, 1, "grid2")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images with a coloured square; the colour is the class."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(10):
            image = np.full((50, 60, 3), 20, np.uint8)
            y, x = rng.integers(2, 12, 2)
            image[y : y + 36, x : x + 40] = colour
            cv2.imwrite(str(folder / name / f"{i}.png"), image)
    return folder


def finetune(tiny, data, out, more=""):
    done = run(MODULE, f"start_from={tiny} data={data} out={out} {QUICK} {more}")
    assert done.code == 0, done.err
    return done


def weights(folder):
    return load_toto(folder).transformer.state_dict()


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("adapt", "changed"),
    [("lora", "self_attn|mlp"), ("last_blocks adapt.blocks=1", "layers.1|^norm"), ("all", "")],
)
def test_a_folder_of_videos_changes_only_the_chosen_weights(tiny, tmp_path, adapt, changed):
    more = f"adapt={adapt} steps=12 stride=4 optimizer.lr=0.01"
    done = finetune(tiny, CLIPS, tmp_path / "out", more)
    assert "trained weights" in done.out
    assert done.out.rstrip().endswith(f"encoder {tmp_path}/out/encoder")
    before, after = weights(tiny), weights(tmp_path / "out/encoder")  # checks golden vectors
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {name for name in before if before[name].ndim > 1}
    assert moved & matrices == {name for name in matrices if re.search(changed, name)}
    assert all(re.search(changed, name) for name in moved)
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]
    notes = json.loads((tmp_path / "out/encoder/config.json").read_text())["training"]
    assert notes["fine_tuned_from"]["weights"] == load_encoder(tiny).weights_hash


def test_adapters_are_merged_without_a_change_of_the_features(tiny):
    from toto_robot.models.adapters import LowRankAdapters, LowRankLinear, merge_adapters

    model = load_toto(tiny).transformer
    LowRankAdapters(rank=2, alpha=4.0).prepare(model)
    adapters = [one for one in model.modules() if isinstance(one, LowRankLinear)]
    assert len(adapters) == 2 * 7
    ids = torch.arange(17)[None]
    plain = model.features(ids, (2,))[0]
    assert torch.equal(plain, load_toto(tiny).transformer.features(ids, (2,))[0])  # zero at first
    for one in adapters:
        torch.nn.init.normal_(one.up, std=0.1)
    with torch.no_grad():
        adapted = model.features(ids, (2,))[0]
        merge_adapters(model)
        torch.testing.assert_close(model.features(ids, (2,))[0], adapted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, adapted, atol=1e-2)


@pytest.mark.parametrize("attention", ["causal", "full", "prefix"])
def test_labels_train_heads_and_the_checkpoint_keeps_its_attention(
    tiny, images, tmp_path, attention
):
    more = f"supervision=small attention={attention} steps=60 labels.crops=2 batch=8 part=4 "
    more += "labels.head=linear optimizer.lr=0.02 validation_rows=4 transformer_lr=0.1"
    done = finetune(tiny, images, tmp_path / "out", more)
    assert "30 images of 3 classes" in done.out
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["test_examples"] == 9
    assert max(row["top1"] for row in found["layers"]) > 0.8
    encoder = load_toto(tmp_path / "out/encoder")
    assert encoder.transformer.config.attention == attention
    # the heads classify the features that the encoder computes
    heads, layers, classes = load_heads(tmp_path / "out/heads")
    assert classes == ("blue", "green", "red")
    frame = np.full((1, 32, 32, 3), 20, np.uint8)
    frame[:, 3:29, 3:29] = COLOURS["green"][::-1]
    logits = heads(torch.stack(encoder.features(frame, layers), dim=1))
    assert int((logits.argmax(-1) == 1).sum()) >= 2  # of three layers
    if attention == "causal":
        encoder.stream(1)
        return
    with pytest.raises(ValueError, match=f"fine-tuned with attention={attention}"):
        encoder.stream(1)


def test_stopped_gradients_leave_the_transformer_to_the_next_token_loss(tiny, images, tmp_path):
    more = "supervision=small steps=4 batch=8 part=8 labels.crops=0 labels.head=linear"
    finetune(tiny, images, tmp_path / "stop", more)
    finetune(tiny, images, tmp_path / "flow", f"{more} labels.stop_gradient=false")
    finetune(tiny, images, tmp_path / "classes", f"{more} labels.stop_gradient=false "
             "next_token_weight=0 labels.layers=[1]")  # fmt: skip
    stop, flow, classes = (
        weights(tmp_path / name / "encoder") for name in ("stop", "flow", "classes")
    )
    name = "layers.0.mlp.up_proj.weight"
    assert not torch.equal(stop[name], flow[name])
    before = weights(tiny)
    last = "layers.1.mlp.up_proj.weight"  # after the only head, without a next-token loss
    assert torch.equal(classes[last], before[last])
    assert not torch.equal(classes[name], before[name])


def test_a_stopped_run_resumes_to_the_same_weights(tiny, images, tmp_path):
    more = (
        "supervision=small steps=8 batch=8 part=8 labels.head=linear ema_decay=0.9 attention=prefix"
    )
    finetune(tiny, images, tmp_path / "whole", more)
    finetune(tiny, images, tmp_path / "out", more)
    for name in ("encoder", "heads", "checkpoints/step-0000008"):
        shutil.rmtree(tmp_path / "out" / name)  # as if it had been killed after step 4
    done = finetune(tiny, images, tmp_path / "out", more)
    assert "continuing: 4 of 8 steps found" in done.out
    whole, resumed = (weights(tmp_path / name / "encoder") for name in ("whole", "out"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    plain = finetune(tiny, images, tmp_path / "plain", more.replace("ema_decay=0.9", ""))
    assert plain.code == 0
    last = weights(tmp_path / "plain/encoder")
    start, name = weights(tiny), "embed_tokens.weight"
    distance = [float((one[name] - start[name]).norm()) for one in (whole, last)]
    assert 0 < distance[0] < distance[1]  # the average stays behind


def test_layer_decay_lowers_the_learning_rate_of_early_blocks(tiny):
    from toto_robot.models.mup import parameter_groups
    from toto_robot.probing.heads import LayerHeads
    from toto_robot.training.finetuned_model import FineTunedModel

    model = FineTunedModel(
        load_toto(tiny).transformer.requires_grad_(True), LayerHeads("linear", 1, 16, 3), (1,),
        next_token_weight=1.0, stop_gradient=True, layer_decay=0.9, transformer_lr=0.5,
        ema_decay=None,
    )  # fmt: skip
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rate = {
        names[id(parameter)]: group["lr_scale"]
        for group in parameter_groups(model, 0.1)
        for parameter in group["params"]
    }
    assert rate["heads.layers.0.classifier.weight"] == 1
    assert rate["transformer.norm.weight"] == 0.5
    assert rate["transformer.layers.1.self_attn.q_proj.weight"] == 0.5 * 0.9
    assert rate["transformer.layers.0.self_attn.q_proj.weight"] == pytest.approx(0.5 * 0.81)
    assert rate["transformer.embed_tokens.weight"] == pytest.approx(0.5 * 0.9**3)


def test_larger_frames_change_tokens_context_and_rope_base(tiny, images, tmp_path):
    more = "supervision=small image_size=64 rope_base=50000 steps=2 batch=4 part=4 labels.crops=0"
    finetune(tiny, images, tmp_path / "out", more)
    encoder = load_toto(tmp_path / "out/encoder")
    config = encoder.transformer.config
    assert (encoder.image_size, config.tokens_per_frame, config.frames) == (64, 64, 1)
    assert config.rope_base == 50000.0


def test_a_grid_that_does_not_divide_the_tokens_is_replaced(tiny, tmp_path):
    done = finetune(tiny, CLIPS, tmp_path / "out", "image_size=72 frames=1 steps=1 batch=1 part=1")
    assert "the default pool of the new encoder is grid3" in done.out
    assert load_toto(tmp_path / "out/encoder").pool == "grid3"  # of 9 x 9 tokens


def test_a_batch_norm_head_is_validated_on_single_rows(tiny, images, tmp_path):
    more = "supervision=small labels.head=batch_norm_linear steps=4 batch=4 part=4 labels.crops=0"
    finetune(tiny, images, tmp_path / "out", f"{more} validation_rows=3")
    assert "validation_loss" in (tmp_path / "out/log.jsonl").read_text()


def test_long_episodes_without_actions_are_read_in_batches(tiny, tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 255, (70, 1, 40, 40, 3), np.uint8)
    expected, sizes = load_encoder(tiny).compress(frames[:, 0]), []
    (tmp_path / "store").mkdir()
    np.savez(tmp_path / "store/0.npz", frames=frames, proprio=np.zeros((70, 2)))
    np.savez(tmp_path / "store/1.npz", frames=frames[:9], labels=np.zeros((3, 2)))  # too few
    compress = Encoder.compress
    monkeypatch.setattr(
        Encoder, "compress", lambda one, rows: sizes.append(len(rows)) or compress(one, rows)
    )
    finetune(tiny, tmp_path / "store", tmp_path / "out", "steps=1 frames=3")
    assert sizes == [32, 32, 6, 9]
    (shard,) = (tmp_path / "out/tokens").glob("finetune-0*.u16")
    found = np.fromfile(shard, np.uint16).reshape(-1, 16)
    assert np.array_equal(found, np.concatenate([expected, expected[:9]]))


def test_a_run_is_only_resumed_with_the_same_data_set(tiny, tmp_path):
    source = f"sources=[{{name: set, kind: video, path: {CLIPS}, crops: 1, stride: 4}}]"
    assert run("toto_robot.data.decode", [source, "size=32", "seed=0", f"out={tmp_path}"]).code == 0
    more = "steps=1 frames=3 batch=1 part=1"
    line = f"start_from={tiny} data={tmp_path}/set out={tmp_path}/out {QUICK} {more}"
    assert "so stride must be 1, got 2" in run(MODULE, line + " stride=2").err
    finetune(tiny, tmp_path / "set", tmp_path / "out", more)
    manifest = tmp_path / "set" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    assert f"the content of {tmp_path}/set has changed since" in run(MODULE, line).err


def test_a_held_out_video_that_is_too_short_leaves_out_the_validation(tiny, tmp_path):
    for i in range(21):
        write_clip(tmp_path / f"videos/{i:02}.mp4", COLOURS["red"], i, frames=2 if i == 20 else 4)
    more = "steps=1 frames=3 stride=1 batch=1 part=1"
    done = finetune(tiny, tmp_path / "videos", tmp_path / "out", more)
    assert "finetune: no held-out file has 3 frames or more, so it has no valid" in done.out


def test_files_that_are_not_used_are_named(tiny, tmp_path):
    shutil.copytree(CLIPS, tmp_path / "data")
    (tmp_path / "data" / "bad.mp4").write_bytes(b"no video")
    more = "steps=1 frames=3 batch=1 part=1"
    assert (
        "skipped bad.mp4: not readable"
        in finetune(tiny, tmp_path / "data", tmp_path / "out", more).out
    )
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"data/{i}.png"), np.zeros((40, 40, 3), np.uint8))
    done = run(MODULE, f"start_from={tiny} data={tmp_path}/data out={tmp_path}/other {more}")
    assert f"{tmp_path}/data holds 2 images and 2 videos: give a folder of one kind" in done.err


def test_a_lerobot_data_set_with_constant_actions_is_read(tiny, tmp_path):
    pytest.importorskip("pyarrow")
    from tests.toto_robot.data.fake_lerobot import write_set

    write_set(tmp_path / "set", (8, 8), columns={"action": [[0.0, 0.0]] * 16})
    finetune(tiny, tmp_path / "set", tmp_path / "out", "steps=1 frames=3")
    assert len(list((tmp_path / "out/tokens").glob("finetune-0*.json"))) == 1


@pytest.mark.parametrize("view", ["frames", "tokens"])
def test_episodes_of_a_robot_are_clips_of_each_camera(tiny, tmp_path, view):
    rng = np.random.default_rng(0)
    (tmp_path / "store").mkdir()
    for i in range(22):  # the 21st is held out
        frames = rng.integers(0, 255, (9, 2, 40, 40, 3), np.uint8)
        arrays = {"frames": frames}
        if view == "tokens":
            ids = load_encoder(tiny).compress(frames.reshape(-1, 40, 40, 3))
            arrays = {"tokens": ids.reshape(9, 2, -1)}
        np.savez(tmp_path / f"store/{i:02}.npz", labels=np.zeros((8, 3)) + i, **arrays)
    done = finetune(tiny, tmp_path / "store", tmp_path / "out", "steps=4 stride=2 frames=3")
    assert "no validation" not in done.out
    assert "validation_loss" in (tmp_path / "out/log.jsonl").read_text()
    side = json.loads(next((tmp_path / "out/tokens").glob("finetune-0*.json")).read_text())
    assert (side["training"], side["held_out"]) == ([[5, 42]], [[5, 2]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data=nowhere", "data: nowhere is not a folder"),
        ("next_token_weight=0", "next_token_weight=0 trains no weight of the transformer"),
        ("supervision=small frames=2", "must be 1 for labelled images, got 2, 1 and 1"),
        ("frames=5", "frames must be at most 4, the sequence of"),
        ("adapt=last_blocks adapt.blocks=3", "adapt.blocks must be at most 2"),
        ("ema_decay=1.0", "ema_decay must be at least 0 and below 1, got 1.0"),
        ("start_from=mae-nano", "expected a Toto over discrete tokens"),
        (
            "supervision=small labels.head=batch_norm_linear part=1",
            "labels.head=batch_norm_linear needs a part of at least 2 examples, got 1",
        ),
        ("supervision=small labels.layers=[9]", "layer 9 does not exist; 0 (embedding) to 2"),
    ],
)
def test_wrong_settings_get_one_clear_line(tiny, images, tmp_path, words, message):
    done = run(MODULE, f"start_from={tiny} data={images} out={tmp_path}/out {words}")
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err


def write_clip(path, colour, seed, frames=12):
    """A video of 64 x 48 pixels with a moving square, whose colour is the class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, 8, 2)
    images = np.full((frames, 48, 64, 3), 20, np.uint8)
    for t, image in enumerate(images):
        image[y : y + 30, x + t : x + t + 36] = colour
    write_video(path, list(images), 30.0)


VIDEOS = (
    "supervision=videos frames=2 stride=2 labels.crops=2 labels.test_clips=2 batch=8 part=4 "
    "labels.head=linear optimizer.lr=0.02 validation_rows=4 transformer_lr=0.1"
)


def video_finetune(tiny, out, more):
    done = run(MODULE, f"start_from={tiny} out={out} {QUICK} {VIDEOS} {more}")
    assert done.code == 0, done.err
    return done


@pytest.mark.parametrize("attention", ["causal", "full", "prefix"])
def test_videos_with_labels_train_heads_with_each_attention(tiny, tmp_path, attention):
    for name, colour in COLOURS.items():
        for i in range(6):
            write_clip(tmp_path / f"data/{name}/{i}.mp4", colour, i)
    more = f"videos.path={tmp_path}/data attention={attention} steps=60"
    done = video_finetune(tiny, tmp_path / "out", more)
    assert "18 videos of 3 classes" in done.out
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["test_examples"] == 6
    assert max(row["top1"] for row in found["layers"]) > 0.8
    assert load_toto(tmp_path / "out/encoder").transformer.config.attention == attention
    assert np.load(tmp_path / "out/tokens-test.npy").shape == (6, 2, 2 * 16)  # clips, tokens
    assert np.load(tmp_path / "out/tokens-train.npy").shape == (12, 2, 2 * 16)
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]


def write_videos_table(folder):
    """Videos of two classes in train and test, and their table."""
    rows = ["file,verb,lab,part"]
    for i in range(12):
        name = list(COLOURS)[i % 2]
        write_clip(folder / f"{i}.mp4", COLOURS[name], i)
        rows.append(f"{i}.mp4,{name},lab{i % 3},{'test' if i >= 8 else 'train'}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    table = f"videos=table videos.path={folder} videos.csv={folder}/t.csv videos.label=verb"
    return f"{table} videos.group=lab videos.split=part"


def test_damaged_and_short_videos_of_a_table_are_listed_and_the_rest_is_used(tiny, tmp_path):
    words = write_videos_table(tmp_path)
    (tmp_path / "0.mp4").write_bytes(b"no video")
    (tmp_path / "8.mp4").write_bytes(b"no video")
    (tmp_path / "1.mp4").unlink()
    write_clip(tmp_path / "3.mp4", COLOURS["green"], 3, frames=2)
    done = video_finetune(tiny, tmp_path / "out", f"{words} steps=4")
    assert "2 in video" in done.out
    problems = (tmp_path / "out/problems.csv").read_text()
    for file, field in (("0.mp4", "video"), ("8.mp4", "video"), ("1.mp4", "file"),
                        ("3.mp4", "frames")):  # fmt: skip
        assert re.search(rf"{file},{field},", problems), problems
    stored = np.load(tmp_path / "out/correct.npz")
    assert stored["correct"].shape == (3, 3)  # layers, whole test videos
    assert stored["groups"].tolist() == [0, 1, 2]  # for paired comparisons with `kinetics`


def test_a_fine_tuning_and_probes_of_kinetics_have_the_same_test_videos(tiny, tmp_path):
    from toto_robot.recognition.scores import compare

    words = write_videos_table(tmp_path)
    video_finetune(tiny, tmp_path / "out", f"{words} steps=30")
    small = "views={frames:2,stride:2,clips:2,crops:1} probe.head=linear probe.epochs=4"
    done = run(
        "toto_robot.recognition.kinetics",
        f"{words} {small} encoder=checkpoint encoder.name_or_path={tmp_path}/out/encoder "
        f"out={tmp_path}/probes",
    )
    assert done.code == 0, done.err
    assert -1 <= compare(tmp_path / "out", tmp_path / "probes")["difference"] <= 1


def test_cater_trains_on_whole_videos_of_more_frames_than_before(tiny, tmp_path):
    """A Toto of 4 frames is fine-tuned with 6 frames; it memorises the last cell of a square."""
    (tmp_path / "lists/localize").mkdir(parents=True)
    (tmp_path / "videos").mkdir()
    for part in ("train", "val"):
        lines = []
        for i, cell in enumerate((0, 5, 30, 35)):
            frames = np.full((9, 96, 96, 3), 40, np.uint8)
            y, x = 16 * (cell // 6), 16 * (cell % 6)
            frames[:, y : y + 16, x : x + 16] = (250, 220, 20)
            write_video(tmp_path / f"videos/{part}{i}.mp4", list(frames), 4.0)
            lines.append(f"{part}{i}.mp4 {cell}\n")
        (tmp_path / f"lists/localize/{part}.txt").write_text("".join(lines))
    words = f"supervision=cater videos.path={tmp_path} start_from={tiny} {QUICK} batch=4 part=4 "
    words += "labels.crops=2 optimizer.lr=0.01 steps=80 labels.test_clips=2 attention=full "
    words += "next_token_weight=0.01 engine.log_every=100"
    done = run(MODULE, f"{words} frames=6 out={tmp_path}/no")
    assert "frames must be at most 4, the sequence of" in done.err
    done = run(MODULE, f"{words} frames=6 max_frames=6 out={tmp_path}/out")
    assert done.code == 0, done.err
    assert load_toto(tmp_path / "out/encoder").transformer.config.frames == 6
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert max(row["top1"] for row in found["layers"]) >= 0.75  # chance: 1 of 36
    done = run(MODULE, f"{words} frames=16 max_frames=16 out={tmp_path}/short")
    assert "train0.mp4 has 9 frames, fewer than frames=16" in done.err


def test_random_views_are_inside_the_video_and_keep_their_crop(tmp_path):
    from toto_robot.recognition.views import Views, read_random_views

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([coarse + np.uint8(t) // 2 for t in range(20)])
    write_video(tmp_path / "a.mp4", list(frames), 30.0, faithful=True)
    views = Views(frames=3, stride=4, clips=1, crops=1)
    seeds = [(0, 7, i) for i in range(8)]
    found, length = read_random_views(tmp_path / "a.mp4", views, 32, seeds, mirror=True)
    again, _ = read_random_views(tmp_path / "a.mp4", views, 32, seeds, mirror=True)
    assert length == 20
    assert np.array_equal(found, again)
    assert found.shape == (8, 3, 32, 32, 3)
    assert len({clip.tobytes() for clip in found}) == 8
    for clip in found.astype(int):  # the frames differ by 2 in brightness, in the same crop
        assert np.abs(clip[1] - clip[0] - 2).mean() < 3


def random_clips(frames):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 8192, (3, frames * 16 + 2), generator=generator)
    ids[:, 0], ids[:, -1] = 8192, 8193
    return ids, torch.tensor([0, 1, 2])


def gradients(tiny, attention, frames, *, stop, labels=True, weight=0.7):
    """Gradients of the transformer for one batch of clips."""
    import dataclasses

    from toto_robot.probing.heads import LayerHeads
    from toto_robot.training.finetuned_model import FineTunedModel

    before = load_toto(tiny).transformer
    model = dataclasses.replace(before.config, attention=attention).build()
    model.load_state_dict(before.state_dict())
    heads = LayerHeads("linear", 2, 16, 3)
    torch.nn.init.normal_(heads.layers[0].classifier.weight, generator=torch.manual_seed(1))
    whole = FineTunedModel(
        model.requires_grad_(True), heads, (1, 2), next_token_weight=weight, stop_gradient=stop,
        layer_decay=1.0, transformer_lr=1.0, ema_decay=None,
    )  # fmt: skip
    ids, classes = random_clips(frames)
    prefix = torch.tensor([1, 5, 20]) if attention == "prefix" else None
    whole.loss(ids, classes if labels else None, prefix).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_the_gradient_of_stopped_heads_does_not_reach_the_transformer(tiny, attention, frames):
    alone = gradients(tiny, attention, frames, stop=False, labels=False)
    stopped = gradients(tiny, attention, frames, stop=True)
    flowing = gradients(tiny, attention, frames, stop=False)
    for name, gradient in alone.items():
        torch.testing.assert_close(stopped[name], gradient, atol=1e-7, rtol=1e-5)
    name = "layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(flowing[name], stopped[name], atol=1e-4)


def test_the_average_of_the_weights_equals_a_loop(tiny):
    from toto_robot.training.finetuned_model import FineTunedModel

    model = FineTunedModel(
        load_toto(tiny).transformer.requires_grad_(True), None, (), next_token_weight=1.0,
        stop_gradient=True, layer_decay=1.0, transformer_lr=1.0, ema_decay=0.75,
    )  # fmt: skip
    weight = model.transformer.embed_tokens.weight
    expected = weight.detach().clone()
    for step in range(3):
        with torch.no_grad():
            weight += step + 1.0
        model.after_step()
        expected = 0.75 * expected + 0.25 * weight.detach()
    torch.testing.assert_close(model.result().embed_tokens.weight, expected)


def test_the_settings_of_the_paper():
    """Sections 4.2 and 4.3: resolution, RoPE, layer decay, epochs and stopped gradients."""
    from toto_robot.cli import compose
    from toto_robot.config import from_dict
    from toto_robot.finetune import FinetuneConfig

    images, videos, cater = (
        from_dict(FinetuneConfig, compose("finetune", [f"supervision={name}"])[0])
        for name in ("paper", "kinetics", "cater")
    )
    assert (images.image_size, images.rope_base, images.frames) == (256, 50000.0, 1)
    assert (videos.image_size, videos.rope_base, videos.frames, videos.stride) == (
        None, None, 16, 4,
    )  # fmt: skip
    for one in (images, videos):
        assert (one.layer_decay, one.optimizer.lr, one.labels.stop_gradient) == (0.9, 6e-5, True)
        assert (one.labels.head, one.adapt.kind) == ("attention", "all")
    assert images.steps * images.batch == pytest.approx(90 * 1_281_167, rel=1e-3)
    assert (cater.frames, cater.labels.stop_gradient, cater.labels.mirror) == (16, False, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("supervision=videos data=x", "set exactly one of data and videos"),
        ("supervision=small data=null", "set exactly one of data and videos"),
        ("supervision=videos labels=null", "videos are labelled: set supervision=videos"),
        ("supervision=videos videos.path=nowhere", "nowhere is not a folder"),
        ("supervision=videos videos.path={} labels.classes=c.txt", "labels.classes is for images"),
        ("supervision=small data={} stride=2", "must be 1 for labelled images, got 1, 2 and 1"),
        ("supervision=cater stride=2", "stride and labels.test_crops must be 1 for CATER"),
        ("supervision=cater videos.path={}", "train.txt is not a readable list of videos"),
        ("supervision=videos labels.test_crops=0", "test_clips and test_crops must be at least 1"),
        ("data={} max_frames=0", "max_frames must be at least 1 or null, got 0"),
    ],
)
def test_wrong_settings_of_labelled_videos_get_one_clear_line(tiny, tmp_path, words, message):
    words = words.replace("{}", str(tmp_path))
    done = run(MODULE, f"start_from={tiny} out={tmp_path}/out {words}")
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err
