"""The masked autoencoder: what it may see, what it must say, an independent one, its command."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.command_lines import run
from toto_robot import load_encoder
from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.encoders.vit import VitEncoder
from toto_robot.files import write_json
from toto_robot.models import CausalModel, TotoConfig, count_parameters
from toto_robot.models.mae import MaeConfig, mae_flops
from toto_robot.models.vision_transformer import VitConfig
from toto_robot.training.mae import MaeTrainingConfig, train_mae

VIT = VitConfig(
    image_size=32,
    patch_size=8,
    dim=16,
    layers=2,
    heads=2,
    mlp_hidden=32,
    norm_eps=1e-6,
    registers=0,
    layer_scale=False,
    positions="learned",
    norm_after_pool=False,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
)
MAE = MaeConfig(
    encoder=VIT,
    mask_ratio=0.75,
    decoder_dim=8,
    decoder_layers=1,
    decoder_heads=2,
    decoder_mlp_hidden=16,
)


def build(config=MAE):
    torch.manual_seed(0)
    return config.build().eval()


def pictures(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    orders = torch.stack([torch.randperm(16, generator=generator) for _ in range(count)])
    return frames, orders


def blot(frames, patch):
    """Paint one patch of each picture."""
    row, column = divmod(patch, 4)
    changed = frames.clone()
    changed[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 77
    return changed


def test_the_guesses_depend_on_shown_patches_and_not_on_hidden_ones():
    model = build()
    frames, _ = pictures()
    order = torch.arange(16).expand(3, -1)

    def guesses(frames):
        with torch.no_grad():
            return model._decode(model._standardise(frames), order)

    assert model.mae.kept == 4
    assert torch.equal(guesses(blot(frames, 9)), guesses(frames))
    assert not torch.equal(guesses(blot(frames, 2)), guesses(frames))


def test_the_loss_is_that_of_hidden_patches_alone_and_falls():
    model = build()
    frames, orders = pictures()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model.loss(frames, orders)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.3)  # the variance of a target, and a little
    assert losses[-1] < 0.8 * losses[0]
    assert model.pos_embed.grad is None  # positions are fixed
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.zero_()
        # targets have variance 1, unbiased: 192 numbers a patch
        assert model.loss(frames, orders).item() == pytest.approx(191 / 192, abs=1e-4)


def test_the_loss_equals_that_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    model = build()
    theirs = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            image_size=32,
            patch_size=8,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            layer_norm_eps=1e-6,
            decoder_hidden_size=8,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
            mask_ratio=0.75,
            norm_pix_loss=True,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
    weights = model.state_dict()
    copied = {
        "vit.embeddings.cls_token": weights["cls_token"],
        "vit.embeddings.position_embeddings": weights["pos_embed"],
        "decoder.mask_token": weights["mask_token"],
        "decoder.decoder_pos_embed": weights["decoder_pos_embed"],
    }
    for one in ("weight", "bias"):
        copied |= {
            f"vit.embeddings.patch_embeddings.projection.{one}": weights[f"patch_embed.proj.{one}"],
            f"vit.layernorm.{one}": weights[f"norm.{one}"],
        }
        for name in ("decoder_embed", "decoder_norm", "decoder_pred"):
            copied[f"decoder.{name}.{one}"] = weights[f"{name}.{one}"]
    copied |= _blocks(weights, "blocks", "vit.layers", 2)
    copied |= _blocks(weights, "decoder_blocks", "decoder.decoder_layers", 1)
    reached = theirs.state_dict()
    assert set(copied) == set(reached), sorted(set(copied) ^ set(reached))
    theirs.load_state_dict(copied)
    frames, orders = pictures()
    # they show the patches with the least noise
    noise = torch.empty(3, 16).scatter_(1, orders, torch.arange(16.0).expand(3, -1).contiguous())
    with torch.no_grad():
        expected = theirs(model._standardise(frames), noise=noise).loss
        found = model.loss(frames, orders)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def _blocks(weights, ours, theirs, count):
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    found = {}
    for k in range(count):
        for one in ("weight", "bias"):
            for mine, other in names.items():
                found[f"{theirs}.{k}.{other}.{one}"] = weights[f"{ours}.{k}.{mine}.{one}"]
            parts = weights[f"{ours}.{k}.attn.qkv.{one}"].chunk(3)
            for part, tensor in zip("qkv", parts, strict=True):
                found[f"{theirs}.{k}.attention.{part}_proj.{one}"] = tensor
    return found


def test_fixed_positions_tell_the_column_and_then_the_row():
    positions = build().pos_embed[0]
    assert not positions[0].any()  # CLS
    columns, rows = positions[1:].unflatten(0, (4, 4)).chunk(2, dim=-1)
    assert torch.equal(columns[0], columns[3])
    assert torch.equal(rows[:, 0], rows[:, 3])
    angles = torch.tensor([1.0, 10**-1, 10**-2, 10**-3]) * 3
    torch.testing.assert_close(columns[0, 3], torch.cat([angles.sin(), angles.cos()]))
    assert torch.equal(columns[0], rows[:, 0])


def test_mae_nano_has_as_many_parameters_as_toto_nano():
    model = from_dict(MaeTrainingConfig, compose("mae")[0]).model
    with torch.device("meta"):
        count = sum(p.numel() for p in model.encoder.build().parameters())
    toto = load_encoder("toto-nano", verify=False).transformer
    assert isinstance(toto, CausalModel)
    assert isinstance(toto.config, TotoConfig)
    assert count == pytest.approx(count_parameters(toto.config), rel=0.01)
    assert model.kept == 64
    # 2 operations for a weight and a token, forward once and backward twice, and attention
    assert mae_flops(model) == pytest.approx(2.0e9, rel=0.02)


def test_what_cannot_be_is_refused():
    with pytest.raises(
        ValueError, match="mask_ratio must hide some of the 16 patches, but not all"
    ):
        MaeConfig(**(fields(MAE) | {"mask_ratio": 1.0}))
    rotary = VitConfig(**(fields(VIT) | {"positions": "rotary"}))
    with pytest.raises(ValueError, match="positions must be learned"):
        MaeConfig(**(fields(MAE) | {"encoder": rotary}))


def fields(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@pytest.fixture
def shard(tmp_path):
    """Make a data set of 42 pictures, of which two are held out."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (42, 40, 40, 3), dtype=np.uint8)
    frames.tofile(folder / "frames.u8")
    clips = [{"file": f"{i:02}.png", "start": i, "length": 1} for i in range(42)]
    write_json(
        folder / "manifest.json",
        {
            "name": "pictures",
            "kind": "image",
            "size": 40,
            "stride": 1,
            "seed": 0,
            "frames": 42,
            "clips": clips,
            "skipped": [],
        },
    )
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pool=grid3", "pool 'grid3': 3 does not divide the frame's 16 x 16 tokens"),
        ("pool=pca8 pca_frames=0", "pool 'pca8' needs principal components"),
    ],
)
def test_a_pool_that_cannot_be_fails_before_the_training(shard, tmp_path, words, message):
    data = f"data=[{{path: {shard}, weight: 1.0}}]"
    done = run("toto_robot.training.mae", [data, f"out={tmp_path}/out", *words.split()])
    assert message in done.err
    assert not list((tmp_path / "out").glob("config.json"))  # `out` stays free


def test_training_gives_an_encoder_that_opens(shard, tmp_path):
    data, _ = compose("mae")
    data |= {
        "data": [{"path": str(shard), "weight": 1.0}],
        "steps": 4,
        "batch": 4,
        "part": 2,
        "validation_frames": 2,
    }
    data["engine"] |= {"log_every": 2, "keep_every": 2}
    sizes = {name: getattr(MAE, name) for name in fields(MAE) if name != "encoder"}
    data["model"] = sizes | {"encoder": fields(VIT)}
    data["pca_frames"] = 8
    config = from_dict(MaeTrainingConfig, data)
    folder = train_mae(config, tmp_path / "whole")
    encoder = load_encoder(folder)
    assert isinstance(encoder, VitEncoder)
    assert encoder(np.zeros((2, 50, 60, 3), np.uint8)).shape == (2, 16)
    again = load_encoder(folder, layer=1, pool="grid2")
    assert isinstance(again, VitEncoder)
    assert again(np.zeros((2, 50, 60, 3), np.uint8)).shape == (2, 64)
    both = load_encoder(folder, layer=[0, 2], pool="pca3")
    found = both(np.zeros((2, 50, 60, 3), np.uint8))
    parts = [load_encoder(folder, layer=k, pool="pca3") for k in (0, 2)]
    expected = torch.cat([one(np.zeros((2, 50, 60, 3), np.uint8)) for one in parts], dim=1)
    torch.testing.assert_close(found, expected)
    assert both.pca is not None
    assert len(both.pca.frames) == 8
    assert json.loads((folder / "config.json").read_text())["training"]["frames"] == 16
    assert (tmp_path / "whole" / "reconstructions.png").is_file()
    # a run that was interrupted after step 2 ends with the same weights (VIT has no registers)
    step = "checkpoints/step-0000002"
    shutil.copytree(tmp_path / "whole" / step, tmp_path / "resumed" / step)
    shutil.copy(tmp_path / "whole/config.json", tmp_path / "resumed")
    resumed = load_encoder(train_mae(config, tmp_path / "resumed"))
    assert resumed.weights_hash == encoder.weights_hash
    with pytest.raises(ValueError, match="checkpoint: repeat_frame and int8 are for"):
        load_encoder(folder, repeat_frame=True)
    manifest = json.loads((shard / "manifest.json").read_text())
    write_json(shard / "manifest.json", manifest | {"seed": 1})
    with pytest.raises(ValueError, match=r"the content of .*pictures has changed"):
        train_mae(config, tmp_path / "whole")
