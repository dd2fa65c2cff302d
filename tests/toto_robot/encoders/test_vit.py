"""Vision transformers: equal to independent code with the same weights; files opened by name."""

import argparse
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

from toto_robot import TotoObservation, load_encoder
from toto_robot.encoders.vit_files import STATISTICS

DIM, HEADS, LAYERS, PATCH, SIDE = 32, 2, 3, 4, 4
SIZES = {
    "hidden_size": DIM,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "patch_size": PATCH,
    "image_size": PATCH * SIDE,
    "layer_norm_eps": 1e-6,
}
TOLERANCE = 1e-5  # greatest difference from transformers' own modules, float32


def frames(count=2, height=PATCH * SIDE, width=PATCH * SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def pixels(pictures, statistics="imagenet"):
    """What a model is to be given of frames of its own size."""
    mean, std = (torch.tensor(one)[:, None, None] for one in STATISTICS[statistics])
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std


def randomised(model, seed=0):
    """Draw all weights anew, so that no bias is zero and no gain one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def mae(**changes):
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        **SIZES | changes,
        intermediate_size=48,
        mask_ratio=0.0,
        decoder_hidden_size=8,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=1,
        decoder_intermediate_size=8,
    )
    return randomised(ViTMAEForPreTraining(config))


def mae_tokens(model, images):
    """Tokens after the last norm, in raster order: it shuffles patches even when none is masked."""
    slots = model.vit.embeddings.position_embeddings.shape[1] - 1
    with torch.no_grad():
        noise = torch.arange(slots).expand(len(images), -1).float()
        out = model.vit(images, noise=noise)
    assert torch.equal(out.ids_restore, noise.long())
    return out.last_hidden_state


def dinov2(registers, **changes):
    import transformers as hf

    config = hf.Dinov2WithRegistersConfig if registers else hf.Dinov2Config
    model = hf.Dinov2WithRegistersModel if registers else hf.Dinov2Model
    extra = {"num_register_tokens": registers} if registers else {}
    return randomised(model(config(**SIZES | changes | extra)))


def dinov3():
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = SIZES | {"layer_norm_eps": 1e-5}
    config = DINOv3ViTConfig(**sizes, intermediate_size=48, num_register_tokens=3)
    return randomised(DINOv3ViTModel(config))


def released(state, blocks, embeddings, norm, names):
    """Return a transformers state dict the keys of the released files."""
    patch = f"{embeddings}.patch_embeddings" + (
        ".projection" if f"{embeddings}.patch_embeddings.projection.bias" in state else ""
    )
    out = {"cls_token": state[f"{embeddings}.cls_token"]}
    if f"{embeddings}.position_embeddings" in state:
        out["pos_embed"] = state[f"{embeddings}.position_embeddings"]
    for kind in ("weight", "bias"):
        out[f"patch_embed.proj.{kind}"] = state[f"{patch}.{kind}"]
        out[f"norm.{kind}"] = state[f"{norm}.{kind}"]
        for k in range(LAYERS):
            old, new = f"{blocks}.{k}", f"blocks.{k}"
            qkv = [state.get(f"{old}.attention.{x}_proj.{kind}") for x in "qkv"]
            out[f"{new}.attn.qkv.{kind}"] = torch.cat(
                [torch.zeros(DIM) if part is None else part for part in qkv]
            )
            out[f"{new}.attn.proj.{kind}"] = state[f"{old}.attention.o_proj.{kind}"]
            for ours, theirs in names.items():
                out[f"{new}.{ours}.{kind}"] = state[f"{old}.{theirs}.{kind}"]
            if f"{old}.layer_scale1.lambda1" in state:
                out[f"{new}.ls1.gamma"] = state[f"{old}.layer_scale1.lambda1"]
                out[f"{new}.ls2.gamma"] = state[f"{old}.layer_scale2.lambda1"]
    return {name: tensor.clone() for name, tensor in out.items()}


def released_mae(model, decoder=False):
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    state = model.state_dict()
    out = released(state, "vit.layers", "vit.embeddings", "vit.layernorm", names)
    if decoder:  # the keys of facebookresearch/mae's models_mae.py
        out["mask_token"] = state["decoder.mask_token"]
        out["decoder_pos_embed"] = state["decoder.decoder_pos_embed"]
        for kind in ("weight", "bias"):
            out[f"decoder_blocks.0.norm1.{kind}"] = torch.zeros(8)
            for name in ("decoder_embed", "decoder_norm", "decoder_pred"):
                out[f"{name}.{kind}"] = state[f"decoder.{name}.{kind}"]
    return out


def released_dinov2(model):
    names = {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
    state = model.state_dict()
    out = released(state, "encoder.layer", "embeddings", "layernorm", names)
    out["mask_token"] = state["embeddings.mask_token"]
    if "embeddings.register_tokens" in state:
        out["register_tokens"] = state["embeddings.register_tokens"]
    return out


def released_dinov3(model):
    names = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.up_proj"}
    names |= {"mlp.fc2": "mlp.down_proj"}
    state = model.state_dict()
    out = released(state, "model.layer", "embeddings", "norm", names)
    out["mask_token"] = state["embeddings.mask_token"][0]
    out["storage_tokens"] = state["embeddings.register_tokens"]
    out["rope_embed.periods"] = 100.0 ** (torch.arange(0, 16, 4) / 16)
    for k in range(LAYERS):
        mask = torch.ones(3 * DIM)
        mask[DIM : 2 * DIM] = 0
        bias = f"blocks.{k}.attn.qkv.bias"
        out[bias] = torch.where(mask == 0, 7.0, out[bias])  # a key bias that the mask takes away
        out[f"{bias}_mask"] = mask
    return out


def write(tmp_path, content, name="weights.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def difference(one, other):
    assert one.shape == other.shape
    return (one - other).abs().max().item()


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("head", [False, True])
def test_mae_equals_transformers_with_and_without_decoder_and_head(tmp_path, decoder, head):
    model = mae()
    weights = released_mae(model, decoder)
    if head:
        weights |= {"head.weight": torch.zeros(5, DIM), "head.bias": torch.zeros(5)}
    encoder = load_encoder(write(tmp_path, {"model": weights}), format="mae", heads=HEADS)
    expected = mae_tokens(model, pixels(frames()))
    (tokens,) = encoder.features(frames())
    assert difference(tokens, expected[:, 1:]) < TOLERANCE
    assert difference(encoder(frames()), expected[:, 1:].mean(1)) < TOLERANCE


def test_each_pool_and_layer_is_that_of_an_independent_forward(tmp_path):
    from transformers import ViTConfig, ViTModel

    model = randomised(ViTModel(ViTConfig(**SIZES, intermediate_size=48), add_pooling_layer=False))
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    state = released(model.state_dict(), "layers", "embeddings", "layernorm", names)
    file = write(tmp_path, {"model": state})
    with torch.no_grad():
        stream = model(pixels(frames()), output_hidden_states=True).hidden_states
        normed = [model.layernorm(one) for one in stream[:LAYERS]]
        normed.append(model(pixels(frames())).last_hidden_state)
    for layer in range(LAYERS + 1):

        def embedding(pool, layer=layer):
            return load_encoder(file, layer, pool, format="mvp", heads=HEADS)(frames())

        patches = normed[layer][:, 1:]
        assert difference(embedding("cls"), normed[layer][:, 0]) < TOLERANCE
        assert difference(embedding("mean"), patches.mean(1)) < TOLERANCE
        cells = patches.unflatten(1, (2, 2, 2, 2)).mean((2, 4)).flatten(1)
        assert difference(embedding("grid2"), cells) < TOLERANCE
        if layer < LAYERS:
            assert difference(embedding("cls_before_norm"), stream[layer][:, 0]) < TOLERANCE
    encoder = load_encoder(file, format="mvp", heads=HEADS)
    assert (encoder.layer, encoder.pool, encoder.num_layers) == (LAYERS, "cls", LAYERS)
    many = encoder.features(frames(), (3, 0, 1))
    for found, layer in zip(many, (3, 0, 1), strict=True):
        assert difference(found, normed[layer][:, 1:]) < TOLERANCE


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_equals_transformers(tmp_path, registers):
    model = dinov2(registers)
    file = write(tmp_path, released_dinov2(model))
    encoder = load_encoder(file, format="dinov2", heads=HEADS, image_size=PATCH * SIDE)
    with torch.no_grad():
        expected = model(pixels(frames())).last_hidden_state
    assert difference(encoder(frames()), expected[:, 0]) < TOLERANCE
    assert difference(encoder.features(frames())[0], expected[:, 1 + registers :]) < TOLERANCE


def test_dinov3_equals_transformers_at_any_resolution(tmp_path):
    model = dinov3()
    file = write(tmp_path, released_dinov3(model))
    for side in (4, 7):
        size = PATCH * side
        encoder = load_encoder(file, format="dinov3", heads=HEADS, image_size=size)
        pictures = frames(height=size, width=size)
        with torch.no_grad():
            expected = model(pixels(pictures)).last_hidden_state
        assert difference(encoder(pictures), expected[:, 0]) < TOLERANCE
        assert difference(encoder.features(pictures)[0], expected[:, 4:]) < TOLERANCE


@pytest.mark.parametrize("side", [3, 7])
def test_mae_at_another_resolution_equals_transformers_there(tmp_path, side):
    model, size = mae(), PATCH * side
    file = write(tmp_path, {"model": released_mae(model)})
    encoder = load_encoder(file, format="mae", heads=HEADS, image_size=size)
    there = mae(image_size=size)
    grid = model.vit.embeddings.position_embeddings[:, 1:].unflatten(1, (SIDE, SIDE))
    resized = interpolate(grid.permute(0, 3, 1, 2), size=(side, side), mode="bicubic")
    state = model.state_dict() | {
        "vit.embeddings.position_embeddings": torch.cat(
            [
                model.vit.embeddings.position_embeddings[:, :1],
                resized.flatten(2).transpose(1, 2),
            ],
            dim=1,
        ),
        "decoder.decoder_pos_embed": there.state_dict()["decoder.decoder_pos_embed"],
    }
    there.load_state_dict(state)
    pictures = frames(height=size, width=size)
    expected = mae_tokens(there, pixels(pictures))
    assert difference(encoder.features(pictures)[0], expected[:, 1:]) < TOLERANCE


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_at_another_resolution_follows_its_own_code(tmp_path, registers):
    model, side = dinov2(registers), 7
    size = PATCH * side
    file = write(tmp_path, released_dinov2(model))
    encoder = load_encoder(file, format="dinov2", heads=HEADS, image_size=size)
    if not registers:  # transformers leaves the offset of 0.1 away that DINOv2 was trained with
        positions = model.embeddings.position_embeddings.detach()
        grid = positions[:, 1:].unflatten(1, (SIDE, SIDE)).permute(0, 3, 1, 2)
        scale = (side + 0.1) / SIDE
        grid = interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        resized = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
        state = model.state_dict() | {"embeddings.position_embeddings": resized}
        model = dinov2(registers, image_size=size)
        model.load_state_dict(state)
    pictures = frames(height=size, width=size)
    with torch.no_grad():
        expected = model(pixels(pictures)).last_hidden_state
    assert difference(encoder(pictures), expected[:, 0]) < TOLERANCE


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_timms_position_slots_go_to_the_tokens_that_they_are_for(tmp_path, prefix):
    model = dinov2(registers=4)
    weights = released_dinov2(model)
    del weights["mask_token"]
    weights["reg_token"] = weights.pop("register_tokens")
    own = weights["pos_embed"]
    extra = torch.randn(1, prefix, DIM, generator=torch.Generator().manual_seed(1))
    weights["pos_embed"] = torch.cat([extra, own[:, 1:]], dim=1)
    save_file(weights, tmp_path / "weights.safetensors")
    encoder = load_encoder(
        tmp_path / "weights.safetensors", format="timm", heads=HEADS, statistics="half"
    )
    with torch.no_grad():
        slots = torch.cat([extra, torch.zeros(1, 5 - prefix, DIM)], dim=1)
        model.embeddings.cls_token += slots[:, :1] - own[:, :1]
        model.embeddings.register_tokens += slots[:, 1:]
        expected = model(pixels(frames(), "half")).last_hidden_state
    assert difference(encoder(frames()), expected[:, 0]) < TOLERANCE


@pytest.mark.parametrize("family", ["mae", "dinov2", "dinov2 with registers", "dinov3"])
def test_files_that_transformers_wrote_open_as_well(tmp_path, family):
    model = {
        "mae": mae,
        "dinov2": lambda: dinov2(0),
        "dinov2 with registers": lambda: dinov2(4),
        "dinov3": dinov3,
    }[family]()
    model.save_pretrained(tmp_path)
    file, format = tmp_path / "model.safetensors", family.split()[0]
    encoder = load_encoder(file, format=format, heads=HEADS, image_size=PATCH * SIDE, pool="cls")
    with torch.no_grad():
        images = pixels(frames())
        expected = mae_tokens(model, images) if family == "mae" else model(images).last_hidden_state
    assert difference(encoder(frames()), expected[:, 0]) < TOLERANCE
    weights = load_file(file)
    cut = next(name for name in weights if re.search(r"layer\.1\..*(query|q_proj)\.bias", name))
    del weights[cut]
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"missing \['blocks.1.attn.qkv.bias'\], unexpected \["):
        load_encoder(file, format=format, heads=HEADS, image_size=PATCH * SIDE)


def test_a_fine_tuned_mae_has_its_norm_after_the_average(tmp_path):
    model = mae()
    weights = released_mae(model)
    for kind in ("weight", "bias"):
        weights[f"fc_norm.{kind}"] = weights.pop(f"norm.{kind}")
    weights |= {"head.weight": torch.zeros(5, DIM), "head.bias": torch.zeros(5)}
    file = write(tmp_path, {"model": weights})
    with torch.no_grad():
        noise = torch.arange(SIDE**2).expand(2, -1).float()
        norm, model.vit.layernorm = model.vit.layernorm, torch.nn.Identity()
        raw = model.vit(pixels(frames()), noise=noise).last_hidden_state
        expected = norm(raw[:, 1:].mean(1))
    encoder = load_encoder(file, format="mae", heads=HEADS)
    assert encoder.pool == "mean"
    assert difference(encoder(frames()), expected) < TOLERANCE
    grid = load_encoder(file, pool="grid1", format="mae", heads=HEADS)
    assert difference(grid(frames()), expected) < TOLERANCE
    with pytest.raises(ValueError, match="no norm for single tokens, it was fine-tuned"):
        load_encoder(file, pool="cls", format="mae", heads=HEADS)


def test_a_training_checkpoint_is_read_without_running_anything(tmp_path):
    weights = released_mae(mae(), decoder=True)
    args = argparse.Namespace(lr=1e-3, output_dir="runs", resume=None)
    content = {"model": weights, "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 7}
    whole = write(tmp_path, content | {"scaler": {"scale": 1.0}, "args": args})
    alone = write(tmp_path, {"model": weights}, "alone.pth")
    one, other = (load_encoder(f, format="mae", heads=HEADS) for f in (whole, alone))
    assert one.fingerprint == other.fingerprint
    # a format of torch before 1.6
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = load_encoder(tmp_path / "old.pth", format="mae", heads=HEADS)
    assert old.fingerprint == one.fingerprint
    strange = write(tmp_path, content | {"wandb": 1}, "strange.pth")
    with pytest.raises(ValueError, match=r"beside 'model' there is \['wandb'\]"):
        load_encoder(strange, format="mae", heads=HEADS)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("args", [Bomb(), argparse.Namespace(model=Bomb())], ids=["bare", "inside"])
def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, {"model": released_mae(mae()), "args": args})
    with pytest.raises(ValueError, match="which is not loaded, since a pickled object may run"):
        load_encoder(file, format="mae", heads=HEADS)
    assert not Path("exploded").exists()


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth is missing"):
        load_encoder(tmp_path / "none.pth", format="mae", heads=HEADS)
    for name in ("garbage.pth", "garbage.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ValueError, match=f"{name}.*"):
            load_encoder(tmp_path / name, format="mae", heads=HEADS)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match=r"empty\.pth is empty: the download was cut off"):
        load_encoder(tmp_path / "empty.pth", format="mae", heads=HEADS)
    half = write(tmp_path, {"model": released_mae(mae())}, "half.pth")
    half.write_bytes(half.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"half\.pth (is not a readable|holds)"):
        load_encoder(half, format="mae", heads=HEADS)
    with pytest.raises(ValueError, match="expected a dict of tensors"):
        load_encoder(write(tmp_path, [1, 2], "list.pth"), format="mae", heads=HEADS)
    with pytest.raises(ValueError, match=r"missing \['blocks.*unexpected \[\]"):
        load_encoder(write(tmp_path, {"teacher": {}}, "dino.pth"), format="dinov2")
    advice = (
        r"is a file: set its format=, one of mae, mvp.*\(in a command: encoder=vit encoder\.name"
    )
    with pytest.raises(ValueError, match=advice):
        load_encoder(half)


def test_missing_and_unexpected_keys_are_listed(tmp_path):
    weights = released_mae(mae(), decoder=True)
    for name in ("blocks.1.norm2.bias", "pos_embed"):
        broken = {key: value for key, value in weights.items() if key != name}
        with pytest.raises(ValueError, match=rf"format 'mae': missing \['{name}'\], unexpected \["):
            load_encoder(write(tmp_path, {"model": broken}), format="mae", heads=HEADS)
    # MVP's files have no decoder
    with pytest.raises(ValueError, match=r"missing \[\], unexpected \['decoder_blocks.*mask_token"):
        load_encoder(write(tmp_path, {"model": weights}), format="mvp", heads=HEADS)
    both = weights | {"fc_norm.weight": torch.ones(DIM), "fc_norm.bias": torch.ones(DIM)}
    with pytest.raises(ValueError, match=r"unexpected \['fc_norm.bias', 'fc_norm.weight'\]"):
        load_encoder(write(tmp_path, {"model": both}), format="mae", heads=HEADS)
    for name, shape, message in (
        ("norm.weight", (7,), r"norm\.weight \(7,\), needed \(32,\)"),
        ("cls_token", (DIM,), "cls_token must have 3 axes"),
        ("pos_embed", (1, 12, DIM), "pos_embed has 12 slots, which is not a square number"),
    ):
        file = write(tmp_path, {"model": weights | {name: torch.zeros(shape)}})
        with pytest.raises(ValueError, match=message):
            load_encoder(file, format="mae", heads=HEADS)
    gated = released_dinov2(dinov2(0))
    gated["blocks.0.mlp.w12.weight"] = gated.pop("blocks.0.mlp.fc1.weight")
    with pytest.raises(ValueError, match=r"gated MLP \(SwiGLU\) are not supported"):
        load_encoder(write(tmp_path, gated), format="dinov2", heads=HEADS)
    periods = released_dinov3(dinov3()) | {"rope_embed.periods": torch.ones(4)}
    with pytest.raises(ValueError, match="rotary periods do not match 2 heads"):
        load_encoder(write(tmp_path, periods), format="dinov3", heads=HEADS)


def test_the_head_count_is_never_guessed(tmp_path):
    small = {
        name: torch.zeros(shape)
        for name, shape in {
            "cls_token": (1, 1, 384),
            "pos_embed": (1, 5, 384),
            "patch_embed.proj.weight": (384, 3, 4, 4),
            "patch_embed.proj.bias": (384,),
            "blocks.0.norm1.weight": (384,),
            "blocks.0.norm1.bias": (384,),
            "blocks.0.attn.qkv.weight": (3 * 384, 384),
            "blocks.0.attn.qkv.bias": (3 * 384,),
            "blocks.0.attn.proj.weight": (384, 384),
            "blocks.0.attn.proj.bias": (384,),
            "blocks.0.norm2.weight": (384,),
            "blocks.0.norm2.bias": (384,),
            "blocks.0.mlp.fc1.weight": (8, 384),
            "blocks.0.mlp.fc1.bias": (8,),
            "blocks.0.mlp.fc2.weight": (384, 8),
            "blocks.0.mlp.fc2.bias": (384,),
            "norm.weight": (384,),
            "norm.bias": (384,),
        }.items()
    }
    file = write(tmp_path, {"model": small})
    with pytest.raises(ValueError, match="at width 384 MVP's code uses 12, its paper says 6"):
        load_encoder(file, format="mvp")
    counts = [load_encoder(file, format="mvp", heads=heads) for heads in (6, 12)]
    assert counts[0].weights_hash != counts[1].weights_hash
    with pytest.raises(ValueError, match="7 heads do not divide the width 384"):
        load_encoder(file, format="mvp", heads=7)


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    file = write(tmp_path, {"model": released_mae(mae())})
    for arguments, message in [
        ({"format": "clip"}, "unknown format 'clip'; known: mae, mvp, dinov2, dinov3, timm"),
        (
            {"format": "timm"},
            "statistics must be one of .* files of format 'timm' do not contain them",
        ),
        ({"format": "mae", "statistics": "clip"}, r"must be one of \['imagenet', 'half'\]"),
        (
            {"format": "mae", "dtype": "int8"},
            "possible dtypes: float32, float16, bfloat16, float64",
        ),
        ({"format": "mae", "image_size": 18}, "multiple of the patch size 4, got 18"),
        ({"format": "mae", "image_size": 0}, "image_size must be at least 1"),
        ({"format": "mae", "layer": 4}, r"layer 4 does not exist; 0 \(embedding\) to 3"),
        ({"format": "mae", "pool": "last"}, "unknown pool 'last'; known: cls, cls_before_norm"),
        ({"format": "mae", "pool": "grid3"}, "3 does not divide the frame's 4 x 4 tokens"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_encoder(file, **{"heads": HEADS} | arguments)
    with pytest.raises(ValueError, match="can be used only with format="):
        load_encoder("toto-nano", heads=2)


def small_encoder(tmp_path, **arguments):
    file = write(tmp_path, {"model": released_mae(mae())})
    return load_encoder(file, **{"format": "mvp", "heads": HEADS} | arguments)


def test_pictures_are_resized_as_pillow_does(tmp_path):
    from PIL import Image

    encoder = small_encoder(tmp_path, image_size=32)
    picture = frames(1, 50, 83)
    mean, std = (torch.tensor(one)[:, None, None] for one in STATISTICS["imagenet"])
    unit = encoder.preprocess(picture)[0] * std + mean
    small = Image.fromarray(picture[0]).resize((32, 32), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255
    assert difference(unit, expected) < 1.5 / 255  # Pillow rounds after each axis
    # beside an edge, bicubic weights reach beyond what a picture can hold
    edge = np.zeros((1, 50, 83, 3), np.uint8)
    edge[:, :, 40:] = 255
    unit = encoder.preprocess(edge)[0] * std + mean
    assert -1e-6 < unit.min() < unit.max() < 1 + 1e-6


def test_it_is_frozen_but_for_an_attention_pool(tmp_path):
    encoder = small_encoder(tmp_path, pool="attention").train()
    assert not encoder.transformer.training
    encoder(frames()).square().sum().backward()
    with_gradient = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert with_gradient == {"pooling.query", "pooling.keys.weight", "pooling.values.weight"}
    assert not small_encoder(tmp_path)(frames()).requires_grad
    assert not small_encoder(tmp_path, pool="cls_before_norm")(frames()).requires_grad
    assert not any(p.requires_grad for p in small_encoder(tmp_path).parameters())


def test_deeper_blocks_are_not_run(tmp_path):
    encoder = small_encoder(tmp_path, layer=1)
    runs = []
    for index, block in enumerate(encoder.transformer.blocks):
        block.register_forward_hook(lambda *_, index=index: runs.append(index))
    encoder(frames())
    assert runs == [0]


def test_half_precision_computes_in_it_and_gives_float32(tmp_path):
    whole, half = small_encoder(tmp_path), small_encoder(tmp_path, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    assert half(frames()).dtype == torch.float32
    assert 0 < difference(half(frames()), whole(frames())) < 0.2


def test_an_untrained_copy_has_other_weights_and_the_same_shape(tmp_path):
    encoder = small_encoder(tmp_path, layer=2, pool="grid2")
    state = torch.get_rng_state()
    control = encoder.untrained(seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert (control.dim, control.layer, control.pool) == (encoder.dim, 2, "grid2")
    assert control.weights_hash == encoder.untrained(seed=1).weights_hash
    assert control.weights_hash != encoder.weights_hash
    assert torch.isfinite(control(frames())).all()
    assert encoder.fingerprint != small_encoder(tmp_path, layer=1, pool="grid2").fingerprint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (frames() / 255, r"uint8 in 0..255, got float64.*with \(frames \* 255\)"),
        (np.full((1, 9, 9, 3), np.nan), "got float64 with NaN values"),
        (frames().astype(np.int32), "got int32"),
        (frames().transpose(0, 3, 1, 2), "channels first"),
        (frames()[..., :1], r"must be RGB"),
        (frames()[0], r"for one frame use frames\[None\]"),
        (frames()[:, :0], "must not be empty"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(tmp_path)(wrong)


@given(
    pictures=arrays.arrays(
        np.uint8, st.tuples(*(st.integers(low, 40) for low in (0, 1, 1)), st.just(3))
    ),
    step=st.sampled_from([1, -1, 2]),
)
def test_any_batch_of_any_size_and_layout_gives_finite_embeddings(pictures, step):
    viewed = pictures[:4, ::step, ::step]
    embeddings = ENCODER(viewed)
    assert embeddings.shape == (len(viewed), DIM)
    assert torch.isfinite(embeddings).all()
    assert torch.equal(embeddings, ENCODER(np.ascontiguousarray(viewed)))


def test_it_is_what_wrappers_take():
    space = gymnasium.spaces.Dict({"image_eye": gymnasium.spaces.Box(0, 255, (9, 9, 3), np.uint8)})
    env = gymnasium.Env()
    env.observation_space, env.action_space = space, gymnasium.spaces.Discrete(1)
    picture = frames(1, 9, 9)
    env.reset = lambda **_: ({"image_eye": picture[0]}, {})
    observation, _ = TotoObservation(env, ENCODER).reset()
    assert np.array_equal(observation["embedding_eye"], ENCODER(picture)[0].numpy())


def _encoder():
    from toto_robot.encoders.vit import VitEncoder
    from toto_robot.models.vision_transformer import VitConfig

    mean, std = STATISTICS["imagenet"]
    config = VitConfig(
        image_size=16, patch_size=4, dim=DIM, layers=1, heads=2, mlp_hidden=8, norm_eps=1e-6,
        registers=0, layer_scale=False, positions="learned", norm_after_pool=False,
        mean=mean, std=std,
    )  # fmt: skip
    return VitEncoder(config.build(), layer=1, pool="cls")


ENCODER = _encoder()
