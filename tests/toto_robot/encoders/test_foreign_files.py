"""Files of others: trainings' wrappers, layouts of other families, and downloads that are none."""

import json
import re
import time

import pytest
import torch
from safetensors.torch import save_file

from tests.toto_robot.encoders.test_vit import HEADS, dinov2, mae, released_dinov2, released_mae
from toto_robot import load_encoder
from toto_robot.encoders.vit_files import FORMATS


@pytest.fixture(scope="module")
def weights():
    return released_mae(mae())


@pytest.fixture(scope="module")
def plain(weights, tmp_path_factory):
    file = tmp_path_factory.mktemp("plain") / "mae.pth"
    torch.save({"model": weights}, file)
    return load_encoder(file, format="mae", heads=HEADS)


def under(prefix, weights):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def other(weights):
    return {name: torch.zeros_like(tensor) for name, tensor in weights.items()}


WRAPPED = {
    "data parallel": lambda w: {"state_dict": under("module.", w), "epoch": 3, "arch": "vit"},
    "compiled": lambda w: under("_orig_mod.", w),
    "compiled, then data parallel": lambda w: {"model": under("module._orig_mod.", w)},
    "blocks compiled": lambda w: {
        name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in w.items()
    },
    "FSDP": lambda w: under("_fsdp_wrapped_module.", w),
    "a backbone with a head": lambda w: {
        "state_dict": under("module.backbone.", w) | {"module.head.weight": torch.ones(2, 2)}
    },
    "Lightning": lambda w: {
        "state_dict": under("model.encoder.", w), "pytorch-lightning_version": "2.1", "loops": {},
        "global_step": 4, "optimizer_states": [{"state": {}}], "lr_schedulers": [],
    },
    "DeepSpeed": lambda w: {"module": w, "global_steps": 7, "ds_config": {}},
}  # fmt: skip
COPIES = {
    "DINO's teacher": lambda w: {
        "teacher": under("backbone.", w) | {"head.mlp.0.weight": torch.ones(2, 2)},
        "student": under("module.backbone.", other(w)),
        "dino_loss": {"center": torch.ones(2)},
        "epoch": 3,
    },
    "DINOv2's teacher": lambda w: {
        "model": under("teacher.backbone.", w)
        | under("student.backbone.", other(w))
        | {"teacher.dino_head.mlp.0.weight": torch.ones(2, 2)},
        "iteration": 9,
    },
    "timm's average": lambda w: {"state_dict": other(w), "state_dict_ema": w, "metric": 1.0},
    "DeiT's average": lambda w: {"model": other(w), "model_ema": w, "optimizer": {"state": {}}},
    "MoCo's momentum encoder": lambda w: {
        "state_dict": under("module.base_encoder.", other(w))
        | under("module.momentum_encoder.", w)
        | {"module.predictor.0.weight": torch.ones(2, 2)}
    },
}


def same(encoder, plain):
    return encoder.weights_hash == plain.weights_hash


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_a_trainings_checkpoint_is_opened(wrapped, weights, plain, tmp_path):
    torch.save(wrapped(weights), tmp_path / "training.pth")
    assert same(load_encoder(tmp_path / "training.pth", format="mae", heads=HEADS), plain)


@pytest.mark.parametrize("copies", COPIES.values(), ids=COPIES)
def test_of_several_copies_the_evaluated_one_is_opened_and_told(copies, weights, plain, tmp_path):
    torch.save(copies(weights), tmp_path / "training.pth")
    with pytest.warns(UserWarning, match="holds several copies of the model: '.*' is loaded, not"):
        encoder = load_encoder(tmp_path / "training.pth", format="mae", heads=HEADS)
    assert same(encoder, plain)


def test_blocks_trained_in_chunks_are_numbered_through(tmp_path):
    weights = released_dinov2(dinov2(0))
    torch.save(weights, tmp_path / "plain.pth")
    chunked = {
        re.sub(r"^blocks\.(\d)\.", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}.", name): tensor
        for name, tensor in weights.items()
    }
    torch.save({"teacher": under("backbone.", chunked)}, tmp_path / "chunked.pth")
    options = {"format": "dinov2", "heads": HEADS, "image_size": 3 * 4}
    one, other = (load_encoder(tmp_path / name, **options) for name in ("plain.pth", "chunked.pth"))
    assert same(one, other)


def test_a_model_in_several_files_is_opened_by_its_index(weights, plain, tmp_path):
    names = sorted(weights)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: weights[key].contiguous() for key in keys}, tmp_path / file)
    places = {key: file for file, keys in parts.items() for key in keys}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same(load_encoder(index, format="mae", heads=HEADS), plain)
    (tmp_path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-2-of-2\.safetensors is missing"):
        load_encoder(index, format="mae", heads=HEADS)
    index.write_text(json.dumps({"weight_map": {"cls_token": "../secret.safetensors"}}))
    with pytest.raises(ValueError, match="files outside its folder"):
        load_encoder(index, format="mae", heads=HEADS)


def test_what_no_table_names_refuses_a_file(weights, tmp_path):
    torch.save({"teacher": weights, "surprise": weights}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"beside 'teacher' there is \['surprise'\]"):
        load_encoder(tmp_path / "odd.pth", format="mae", heads=HEADS)
    torch.save(under("backbone.", weights) | {"odd.weight": torch.ones(2)}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"beside the encoder backbone\.\* there is \['odd\.weig"):
        load_encoder(tmp_path / "more.pth", format="mae", heads=HEADS)


@pytest.mark.parametrize("format", ["dinov2"])
def test_mvps_layout_is_no_dinov2(format, weights, tmp_path):
    torch.save({"model": weights}, tmp_path / "mvp.pth")
    with pytest.raises(ValueError, match=r"without layer scale.* that of mae, mvp, timm"):
        load_encoder(tmp_path / "mvp.pth", format=format, heads=HEADS, image_size=12)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("format", ["mae", "mvp"])
def test_dinov2s_layout_is_neither_mae_nor_mvp(format, registers, tmp_path):
    weights = {
        name.replace("register_tokens", "reg_token"): tensor
        for name, tensor in released_dinov2(dinov2(registers)).items()
        if name != "mask_token"
    }
    torch.save(weights, tmp_path / "dinov2.pth")
    with pytest.raises(ValueError, match=r"with layer scale .*that of dinov2, timm"):
        load_encoder(tmp_path / "dinov2.pth", format=format, heads=HEADS)


@pytest.mark.parametrize("number", [100_000, 10**12])
def test_a_file_that_names_a_block_far_away_costs_no_time(number, weights, tmp_path):
    file = tmp_path / "deep.pth"
    torch.save(weights | {f"blocks.{number}.norm1.weight": torch.ones(4)}, file)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"names a block {number}, and holds"):
        load_encoder(file, format="mae", heads=HEADS)
    assert time.perf_counter() - start < 5


def test_dinov2_of_transformers_without_registers_says_how_positions_are_resized(tmp_path):
    torch.save(dinov2(0).state_dict(), tmp_path / "without.pth")
    options = {"format": "dinov2", "heads": HEADS}
    with pytest.warns(UserWarning, match=r"transformers\s.*by up to 2 % of the features"):
        load_encoder(tmp_path / "without.pth", image_size=12, **options)
    load_encoder(tmp_path / "without.pth", image_size=16, **options)  # as trained: nothing to say
    torch.save(dinov2(4).state_dict(), tmp_path / "with.pth")
    load_encoder(tmp_path / "with.pth", image_size=12, **options)


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 343000000\n"
)
DISGUISES = [
    (POINTER, r"is a Git LFS pointer, not the file of 343,000,000 bytes itself.*git lfs pull"),
    (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "is a web page"),
    (b"\xef\xbb\xbf<HTML>", "is a web page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    (b'{"error":"Repository not found"}', "is a server's error message, not the file"),
    (b"", "is empty: the download was cut off"),
]


@pytest.mark.parametrize(("content", "told"), DISGUISES)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_download_that_is_none_is_called_so(content, told, name, format, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told):
        load_encoder(tmp_path / name, format=format, heads=HEADS, statistics="imagenet")


def test_a_file_that_claims_more_than_memory_is_damaged(weights, tmp_path):
    """The count of numbers of the first weight, in the format before torch 1.6."""
    file = tmp_path / "old.pth"
    torch.save({"w": torch.zeros(12345)}, file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    count = (12345).to_bytes(2, "little")
    assert b"M" + count in data  # BININT2 of the pickle
    huge = b"\x8a\x08" + (2**60).to_bytes(8, "little")  # LONG1
    file.write_bytes(data.replace(b"M" + count, huge))
    with pytest.raises(ValueError, match=r"old\.pth is not a readable torch file"):
        load_encoder(file, format="mae", heads=HEADS)
