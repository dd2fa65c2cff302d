"""Golden vectors: what would silently change an encoder's features is found at load, and named."""

import json
import shutil
from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from toto_robot import load_encoder, save_encoder, shipped_encoders
from toto_robot.encoders.golden import GOLDEN, TOLERANCES, has_golden, verify_golden
from toto_robot.encoders.loading import WEIGHTS, write_golden
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import DalleConfig, LightConfig, dvae

RESIZE = "toto_robot.tokenizers.dvae.frames_to_unit"


def tiny(folder, kind="light", seed=0, frames=()):
    torch.manual_seed(seed)
    tokenizer = {
        "light": LightConfig(
            image_size=64, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
            decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
        ),
        "dalle": DalleConfig(
            image_size=64, hidden=8, decoder_init=8, blocks_per_group=1, vocab_size=8192
        ),
    }[kind].build()  # fmt: skip
    transformer = TotoConfig(
        codes=8192, dim=16, layers=2, heads=2, mlp_hidden=24, tie_embeddings=True,
        tokens_per_frame=64, frames=2, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    with torch.no_grad():  # larger than fresh weights, so that attention does something
        for parameter in transformer.layers.parameters():
            if parameter.ndim > 1:
                parameter *= 20
    save_encoder(folder, tokenizer, transformer, layer=2, pool="mean", golden_frames=frames)
    return folder


@pytest.fixture
def folder(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return tiny(tmp_path / "toto", frames=[frame])


@pytest.mark.parametrize("name", shipped_encoders())
@pytest.mark.parametrize("dtype", [key[0] for key in TOLERANCES if key[1] == "cpu"], ids=str)
def test_shipped_encoders_carry_vectors_that_hold_in_every_precision(name, dtype):
    encoder = load_encoder(name, dtype=dtype)
    verify_golden(encoder, WEIGHTS / name, layers=range(encoder.num_layers + 1))


@pytest.mark.parametrize("name", shipped_encoders())
def test_the_vectors_of_shipped_encoders_are_small_and_show_their_world(name):
    file = WEIGHTS / name / GOLDEN
    assert file.stat().st_size < 300_000
    pictures = [key for key in load_file(file) if key.endswith("frame")]
    assert len(pictures) >= 3


@pytest.mark.parametrize("kind", ["light", "dalle"])
@pytest.mark.parametrize("order", list(permutations(range(3)))[1:], ids=str)
def test_a_wrong_channel_order_is_named(tmp_path, monkeypatch, kind, order):
    folder, right = tiny(tmp_path / "toto", kind), dvae.frames_to_unit
    load_encoder(folder)
    monkeypatch.setattr(RESIZE, lambda *a: right(*a)[:, order])
    arrived = "".join("RGB"[channel] for channel in order)
    with pytest.raises(ValueError, match=r"stage 'channel order' is wrong: .* arrive as") as error:
        load_encoder(folder)
    inverse = "".join("RGB"[order.index(channel)] for channel in range(3))
    assert f"arrive as {arrived}" in str(error.value) or f"arrive as {inverse}" in str(error.value)
    load_encoder(folder, verify=False)


def resized(mode, antialias):
    def frames_to_unit(frames, size, dtype):
        images = frames.permute(0, 3, 1, 2).float() / 255
        return torch.nn.functional.interpolate(
            images, size=(size, size), mode=mode, antialias=antialias
        ).to(dtype)

    return frames_to_unit


@pytest.mark.parametrize(
    ("mode", "antialias"), [("nearest", False), ("bilinear", False), ("bicubic", True)]
)
@pytest.mark.parametrize("kind", ["light", "dalle"])
def test_a_wrong_resize_is_named(tmp_path, monkeypatch, kind, mode, antialias):
    folder = tiny(tmp_path / "toto", kind)
    monkeypatch.setattr(RESIZE, resized("bilinear", True))
    load_encoder(folder)
    monkeypatch.setattr(RESIZE, resized(mode, antialias))
    with pytest.raises(ValueError, match="stage 'resize' is wrong: image 0: pixels differ by"):
        load_encoder(folder)


@pytest.mark.parametrize("wrong", [lambda x: x * 255, lambda x: x * 2 - 1, lambda x: 1 - x])
def test_a_wrong_value_range_is_named(folder, monkeypatch, wrong):
    right = dvae.frames_to_unit
    monkeypatch.setattr(RESIZE, lambda *a: wrong(right(*a)))
    with pytest.raises(ValueError, match="stage 'value range' is wrong: image 0: values arrive"):
        load_encoder(folder)


def test_a_wrong_tokenizer_is_named(folder, monkeypatch):
    right = dvae.LightDVae.bottleneck
    monkeypatch.setattr(dvae.LightDVae, "bottleneck", lambda *a: right(*a).floor())
    with pytest.raises(ValueError, match=r"stage 'tokenizer' is wrong: image 0: [\d.]+% of its"):
        load_encoder(folder)


@pytest.mark.parametrize(("name", "value"), [("heads", 4), ("rope_base", 50.0), ("norm_eps", 0.1)])
def test_a_wrong_transformer_is_named(folder, name, value):
    config = folder / "config.json"
    data = json.loads(config.read_text())
    data["config"]["transformer"][name] = value
    del data["config_sha256"]  # as files of version 0.1, which do not tell
    config.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"stage 'transformer' is wrong: features of layer 2 diff"):
        load_encoder(folder)
    load_encoder(folder, layer=0)  # the token embedding is right all the same


def test_a_wrong_precision_is_named(folder):
    encoder = load_encoder(folder)
    encoder.transformer.bfloat16()
    mixed = r"stage 'dtype' is wrong: weights are mixed, \['torch.bfloat16', 'torch.float32'\]"
    with pytest.raises(ValueError, match=mixed):
        verify_golden(encoder, folder)
    load_encoder(folder, dtype=torch.bfloat16)


def test_features_that_are_no_numbers_are_named(folder, monkeypatch):
    def broken(x, inplace=False):
        return torch.full_like(x, float("nan"))

    monkeypatch.setattr("toto_robot.models.transformer.silu", broken)
    with pytest.raises(ValueError, match="features of layer 2 differ by nan"):
        load_encoder(folder)


def test_vectors_of_other_weights_and_damaged_ones_are_named(folder, tmp_path):
    other = tiny(tmp_path / "other", seed=1)
    shutil.copy(other / GOLDEN, folder / GOLDEN)
    with pytest.raises(ValueError, match="belongs to other weights; write_golden writes it again"):
        load_encoder(folder)
    write_golden(folder)
    load_encoder(folder)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    for content, message in (
        (b"", "is empty: the download was cut off; fetch it again"),
        (pointer, r"is a Git LFS pointer.* git lfs pull"),
        (b"nothing of the kind", r"is damaged .*; fetch the checkpoint again"),
        ((folder / GOLDEN).read_bytes()[:3000], r"is damaged .*; fetch the checkpoint again"),
    ):
        (folder / GOLDEN).write_bytes(content)
        with pytest.raises(ValueError, match=rf"golden\.safetensors {message}$"):
            load_encoder(folder)
    for tensors in ({}, {"0.frame": torch.zeros(2, 2, 3)}, {"frame": torch.zeros(1)}):
        save_file(tensors, folder / GOLDEN)
        with pytest.raises(ValueError, match=r"golden\.safetensors is damaged"):
            load_encoder(folder)
    (folder / GOLDEN).unlink()
    assert not has_golden(folder)
    load_encoder(folder)  # a checkpoint of before has none


def test_saving_writes_them_and_only_them(folder):
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "weights.safetensors",
        GOLDEN,
    }
    first = load_file(folder / GOLDEN)
    assert {key.split(".")[0] for key in first} == {"0", "1"}
    assert first["0.features"].shape == (3, 16)
    write_golden(folder, [first["1.frame"].numpy()])
    again = load_file(folder / GOLDEN)
    assert all(torch.equal(first[key], again[key]) for key in first)
    with pytest.raises(ValueError, match="frames must be uint8"):
        write_golden(folder, [np.zeros((8, 8, 3))])
    assert load_file(folder / GOLDEN).keys() == first.keys()


def test_each_picture_and_layer_asked_for_is_compared(folder):
    tensors = load_file(folder / GOLDEN)
    encoder = load_encoder(folder, layer=1)
    notes = {"weights_hash": encoder.weights_hash}
    save_file(tensors | {"1.tokens": (tensors["1.tokens"] + 1) % 8192}, folder / GOLDEN, notes)
    verify_golden(encoder, folder, frames=1)
    with pytest.raises(ValueError, match=r"'tokenizer' is wrong: image 1: 0\.0% of its"):
        verify_golden(encoder, folder)
    save_file(
        tensors | {"1.features": tensors["1.features"] + torch.tensor([[0], [0], [1]])},
        folder / GOLDEN,
        notes,
    )
    verify_golden(encoder, folder)
    with pytest.raises(ValueError, match="features of layer 2 differ by 1 on the recorded tokens"):
        verify_golden(encoder, folder, layers=(0, 1, 2))
