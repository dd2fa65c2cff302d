"""VQGAN: names and sizes of the releases, the arithmetic of the layout, and its checkpoints."""

import dataclasses
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, group_norm, interpolate, pad

from toto_robot.encoders.loading import load_tokenizer
from toto_robot.tokenizers import Tokenizer, VqganConfig
from toto_robot.tokenizers.convert import ConvertConfig, convert
from toto_robot.tokenizers.published import load_vqgan

TINY = VqganConfig(
    image_size=16,
    width=32,
    multipliers=(1, 2),
    blocks=1,
    attention_levels=(1,),
    latent=8,
    embedding=6,
    vocab_size=20,
)


def released(codes):
    return VqganConfig(
        image_size=256,
        width=128,
        multipliers=(1, 1, 2, 2, 4),
        blocks=2,
        attention_levels=(4,),
        latent=256,
        embedding=256,
        vocab_size=codes,
    )


def build(config=TINY):
    torch.manual_seed(0)
    vqgan = config.build().eval().requires_grad_(False)
    for parameter in vqgan.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.3)  # so that a lost bias or gain shows
    nn.init.normal_(vqgan.codebook)
    return vqgan


def frames(count=2, side=16):
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)


# The layout restated: what each name does, read from the state dict alone.


class Restated:
    def __init__(self, weights, half, levels):
        self.weights, self.half, self.levels = weights, half, levels

    def conv(self, name, x, **how):
        w = self.weights[f"{self.half}.{name}.weight"]
        how.setdefault("padding", w.shape[-1] // 2)
        return conv2d(x, w, self.weights[f"{self.half}.{name}.bias"], **how)

    def norm(self, name, x):
        both = [self.weights[f"{self.half}.{name}.{part}"] for part in ("weight", "bias")]
        return group_norm(x, 32, *both, eps=1e-6)

    def swish(self, x):
        return x * torch.sigmoid(x)

    def block(self, name, x):
        h = self.conv(f"{name}.conv1", self.swish(self.norm(f"{name}.norm1", x)))
        h = self.conv(f"{name}.conv2", self.swish(self.norm(f"{name}.norm2", h)))
        if f"{self.half}.{name}.nin_shortcut.weight" in self.weights:
            x = self.conv(f"{name}.nin_shortcut", x)
        return x + h

    def attention(self, name, x):
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{one}", h).flatten(2) for one in "qkv")
        share = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * q.shape[1] ** -0.5, dim=2)
        mixed = torch.einsum("bij,bcj->bci", share, v).view_as(x)
        return x + self.conv(f"{name}.proj_out", mixed)

    def middle(self, x):
        x = self.attention("mid.attn_1", self.block("mid.block_1", x))
        return self.block("mid.block_2", x)

    def encode(self, x):
        x = self.conv("conv_in", x)
        for i in range(self.levels):
            x = self.block(f"down.{i}.block.0", x)
            if i == 1:
                x = self.attention(f"down.{i}.attn.0", x)
            if i < self.levels - 1:
                x = self.conv(
                    f"down.{i}.downsample.conv", pad(x, (0, 1, 0, 1)), stride=2, padding=0
                )
        return self.conv("conv_out", self.swish(self.norm("norm_out", self.middle(x))))

    def decode(self, x):
        x = self.middle(self.conv("conv_in", x))
        for i in reversed(range(self.levels)):
            for b in range(2):
                x = self.block(f"up.{i}.block.{b}", x)
                if i == 1:
                    x = self.attention(f"up.{i}.attn.{b}", x)
            if i > 0:
                x = self.conv(f"up.{i}.upsample.conv", interpolate(x, scale_factor=2))
        return self.conv("conv_out", self.swish(self.norm("norm_out", x)))


def test_the_layout_computes_what_its_names_say():
    vqgan = build()
    weights = vqgan.state_dict()
    x = torch.rand(2, 3, 16, 16)
    encoded = Restated(weights, "encoder", 2).encode(2 * x - 1)
    torch.testing.assert_close(vqgan.encoder(2 * x - 1), encoded, atol=1e-5, rtol=1e-5)
    z = torch.randn(2, 8, 8, 8)
    decoded = Restated(weights, "decoder", 2).decode(z)
    torch.testing.assert_close(vqgan.decoder(z), decoded, atol=1e-5, rtol=1e-5)


def test_codes_are_the_nearest_vectors_and_decode_to_frames():
    vqgan = build()
    assert isinstance(vqgan, Tokenizer)
    pictures = frames()
    latents = vqgan.latents(pictures.permute(0, 3, 1, 2) / 255)
    flat = latents.movedim(1, -1).flatten(0, 2)
    vqgan.codebook.copy_(flat[::6][:20] + 0.01 * torch.randn(20, 6))  # among what is quantised
    ids = vqgan.encode(pictures)
    assert ids.shape == (2, 64)
    assert len(ids.unique()) > 10
    distances = torch.cdist(flat, vqgan.codebook)
    assert torch.equal(ids.flatten(), distances.argmin(1))
    assert vqgan.decode(ids).shape == (2, 16, 16, 3)
    assert torch.equal(vqgan.encode(pictures.flip(0)).flip(0), ids)
    with pytest.raises(ValueError, match=r"must be in \[0, 20\)"):
        vqgan.decode(ids + 20)
    # finds its own vectors again
    own = torch.arange(20).view(1, 4, 5)
    assert torch.equal(vqgan.nearest(vqgan.vectors(own)), own)


def test_gradients_pass_to_the_encoder_by_the_reconstruction():
    vqgan = build().requires_grad_(True)
    reconstruction, _, vectors, _ = vqgan(torch.rand(1, 3, 16, 16))
    reconstruction.mean().backward()
    assert vqgan.encoder.conv_in.weight.grad.abs().sum() > 0
    assert vqgan.codebook.grad is None or not vqgan.codebook.grad.any()
    assert vectors.requires_grad


@pytest.mark.parametrize(("codes", "millions"), [(1024, 72.1), (16384, 76.1)])
def test_the_released_models_have_their_names_shapes_and_sizes(codes, millions):
    with torch.device("meta"):
        vqgan = released(codes).build()
    assert vqgan.tokens_per_frame == 256
    names = {name: tuple(tensor.shape) for name, tensor in vqgan.state_dict().items()}
    assert sum(name.startswith("encoder.") for name in names) == 144
    assert sum(name.startswith("decoder.") for name in names) == 194
    assert round(sum(p.numel() for p in vqgan.parameters()) / 1e6, 1) == millions
    expected = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.down.3.downsample.conv.weight": (256, 256, 3, 3),
        "encoder.down.4.attn.1.proj_out.weight": (512, 512, 1, 1),
        "encoder.mid.attn_1.q.bias": (512,),
        "encoder.norm_out.weight": (512,),
        "encoder.conv_out.weight": (256, 512, 3, 3),
        "decoder.up.4.attn.2.norm.bias": (512,),
        "decoder.up.4.upsample.conv.weight": (512, 512, 3, 3),
        "decoder.up.3.block.0.nin_shortcut.weight": (256, 512, 1, 1),
        "decoder.up.0.block.2.conv2.weight": (128, 128, 3, 3),
        "quantize.embedding.weight": (codes, 256),
        "quant_conv.weight": (256, 256, 1, 1),
        "post_quant_conv.bias": (256,),
    }
    assert expected.items() <= names.items()
    assert not {"encoder.down.4.downsample.conv.weight", "decoder.up.0.upsample.conv.weight"} & set(
        names
    )


def lightning(monkeypatch, vqgan):
    """Return what Lightning saves of a VQGAN in training."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    parents = ("pytorch_lightning", "pytorch_lightning.callbacks")
    for parent in parents:
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    extra = {"loss.discriminator.main.0.weight": torch.zeros(2), "loss.logvar": torch.zeros(1)}
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "1.0.8",
        "state_dict": vqgan.state_dict() | extra,
        "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.ones(1)}},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "lr_schedulers": [],
    }


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
def test_a_lightning_checkpoint_opens_without_lightning(monkeypatch, tmp_path, stream):
    vqgan = build()
    file = tmp_path / "last.ckpt"
    torch.save(lightning(monkeypatch, vqgan), file, _use_new_zipfile_serialization=not stream)
    for name in [name for name in sys.modules if name.split(".")[0] == "pytorch_lightning"]:
        monkeypatch.delitem(sys.modules, name)
    opened = load_vqgan(file, image_size=16)
    assert opened.config == TINY
    pictures = frames()
    assert torch.equal(opened.encode(pictures), vqgan.encode(pictures))
    config = ConvertConfig(format="vqgan", files=(file,), sha256=(), image_size=16)
    again = load_tokenizer(convert(config, tmp_path / "out"))
    ids = again.encode(pictures)
    assert torch.equal(again.decode(ids), vqgan.decode(ids))


def test_what_is_no_vqgan_is_refused(tmp_path):
    weights = build().state_dict()
    for name, change, message in (
        ("a.pt", {"decoder.conv_in.weight": None}, r"missing \['decoder\.conv_in\.weight'\]"),
        ("b.pt", {"model_ema.decay": torch.zeros(1)}, r"unexpected \['model_ema\.decay'\]"),
        ("c.pt", {"quantize.embedding.weight": None}, r"has no quantize\.embedding\.weight"),
        ("d.pt", {"post_quant_conv.bias": torch.zeros(3)}, r"post_quant_conv\.bias \(3,\), needed"),
    ):
        state = {key: tensor for key, tensor in (weights | change).items() if tensor is not None}
        torch.save({"state_dict": state}, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_vqgan(tmp_path / name, image_size=16)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 48, "width must be a positive multiple of 32, got 48"),
        ("image_size", 15, "multiple of 2 pixels, got 15"),
        ("attention_levels", (2,), r"attention_levels must be in \[0, 2\), got \[2\]"),
        ("multipliers", (), "multipliers must each be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **{field: value})
