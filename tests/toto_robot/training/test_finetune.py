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
from toto_robot.encoders.loading import load_toto, save_encoder
from toto_robot.training.finetune import load_heads

MODULE = "toto_robot.training.finetune"
CLIPS = Path(__file__).parents[2] / "clips"
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
    told = json.loads((tmp_path / "out/encoder/config.json").read_text())["training"]
    assert told["fine_tuned_from"]["weights"] == load_encoder(tiny).weights_hash


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
    assert found["test_images"] == 9
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
        ("supervision=small frames=2", "frames must be 1 with labels, got 2"),
        ("frames=5", "frames must be at most 4, the sequence of"),
        ("adapt=last_blocks adapt.blocks=3", "adapt.blocks must be at most 2"),
        ("ema_decay=1.0", "ema_decay must be at least 0 and below 1, got 1.0"),
        ("start_from=mae-nano", "expected a Toto over discrete tokens"),
        ("supervision=small labels.layers=[9]", "layer 9 does not exist; 0 (embedding) to 2"),
    ],
)
def test_wrong_settings_get_one_clear_line(tiny, images, tmp_path, words, message):
    done = run(MODULE, f"start_from={tiny} data={images} out={tmp_path}/out {words}")
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err
