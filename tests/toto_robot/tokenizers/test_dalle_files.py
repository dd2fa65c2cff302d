"""OpenAI's dVAE files: read without running them, exact to the module that they hold."""

import os
import sys
import types
import warnings
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from toto_robot.encoders.loading import load_tokenizer
from toto_robot.tokenizers import DalleConfig
from toto_robot.tokenizers.convert import ConvertConfig, convert
from toto_robot.tokenizers.published import load_dalle
from toto_robot.tokenizers.unpickle import read_pickle

HIDDEN, CODES, SIDE = 8, 64, 32


# The published module, restated from its description: same names, plain arithmetic.


class Conv2d(nn.Module):
    def __init__(self, width_in, width_out, kernel):
        super().__init__()
        self.w = nn.Parameter(torch.randn(width_out, width_in, kernel, kernel) / 8)
        self.b = nn.Parameter(torch.randn(width_out))

    def forward(self, x):
        return nn.functional.conv2d(x, self.w, self.b, padding=self.w.shape[2] // 2)


class _Block(nn.Module):
    def __init__(self, width_in, width, kernels):
        super().__init__()
        inner = width // 4
        self.post_gain = 1 / 64
        self.id_path = nn.Identity() if width_in == width else Conv2d(width_in, width, 1)
        path = OrderedDict()
        for i, kernel in enumerate(kernels):
            path[f"relu_{i + 1}"] = nn.ReLU()
            path[f"conv_{i + 1}"] = Conv2d(
                inner if i else width_in, width if i == 3 else inner, kernel
            )
        self.res_path = nn.Sequential(path)

    def forward(self, x):
        return self.id_path(x) + self.post_gain * self.res_path(x)


class EncoderBlock(_Block):
    pass


class DecoderBlock(_Block):
    pass


class _Half(nn.Module):
    def build(self, first, block, widths, kernels, between, last):
        parts, width_in = OrderedDict(input=first), first.w.shape[0]
        for g, width in enumerate(widths):
            group = OrderedDict()
            for b in range(2):
                group[f"block_{b + 1}"] = block(width_in, width, kernels)
                width_in = width
            if g < 3:
                group["change"] = between()
            parts[f"group_{g + 1}"] = nn.Sequential(group)
        output = OrderedDict(relu=nn.ReLU(), conv=Conv2d(width_in, last, 1))
        self.blocks = nn.Sequential(OrderedDict(**parts, output=nn.Sequential(output)))

    def forward(self, x):
        return self.blocks(x)


class Encoder(_Half):
    def __init__(self):
        super().__init__()
        widths = [HIDDEN * m for m in (1, 2, 4, 8)]
        self.build(
            Conv2d(3, HIDDEN, 7), EncoderBlock, widths, (3, 3, 3, 1),
            lambda: nn.MaxPool2d(kernel_size=2), CODES,
        )  # fmt: skip
        self.device = torch.device("cpu")


class Decoder(_Half):
    def __init__(self):
        super().__init__()
        widths = [HIDDEN * m for m in (8, 4, 2, 1)]
        self.build(
            Conv2d(CODES, 12, 1), DecoderBlock, widths, (1, 3, 3, 3),
            lambda: nn.Upsample(scale_factor=2, mode="nearest"), 6,
        )  # fmt: skip


class Evil:
    """What unpickles by running a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def package(monkeypatch):
    """Let the classes above go by the names under which OpenAI pickled its own."""
    homes = {
        "dall_e.encoder": (Encoder, EncoderBlock),
        "dall_e.decoder": (Decoder, DecoderBlock),
        "dall_e.utils": (Conv2d,),
    }
    monkeypatch.setitem(sys.modules, "dall_e", types.ModuleType("dall_e"))
    for home, classes in homes.items():
        module = types.ModuleType(home)
        for one in classes:
            monkeypatch.setattr(one, "__module__", home)
            setattr(module, one.__name__, one)
        monkeypatch.setitem(sys.modules, home, module)
    return monkeypatch


def save(module, file, stream):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a source text is not found
        torch.save(module, file, _use_new_zipfile_serialization=not stream)
    return file


@pytest.fixture(params=[False, True], ids=["zip", "stream"])
def published(request, package, tmp_path):
    """Encoder, decoder and their two files; the package is gone when the files are read."""
    torch.manual_seed(0)
    halves = Encoder().eval(), Decoder().eval()
    names = ("encoder.pkl", "decoder.pkl")
    files = tuple(
        save(half, tmp_path / n, request.param) for half, n in zip(halves, names, strict=True)
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "dall_e"]:
        package.delitem(sys.modules, name)
    return halves, files


def frames(count=3):
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8)


@torch.no_grad()
def test_the_pickled_modules_load_exactly_and_compute_the_same(published):
    (encoder, decoder), files = published
    dalle = load_dalle(files, SIDE)
    assert dalle.config == DalleConfig(
        image_size=SIDE, hidden=HIDDEN, decoder_init=12, blocks_per_group=2, vocab_size=CODES
    )
    for half, ours in ((encoder, dalle.encoder), (decoder, dalle.decoder)):
        state = half.state_dict()
        assert set(state) == set(ours.state_dict())
        assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())
    images = torch.rand(2, 3, SIDE, SIDE)
    logits = encoder(0.8 * images + 0.1)
    assert torch.equal(dalle.logits(images), logits)
    one_hot = nn.functional.one_hot(logits.argmax(1), CODES).permute(0, 3, 1, 2).float()
    statistics = decoder(one_hot)
    assert torch.equal(dalle.statistics(one_hot), statistics)
    expected = ((statistics[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1) * 255
    decoded = dalle.decode(logits.argmax(1).flatten(1))
    assert torch.equal(decoded, expected.round().to(torch.uint8).permute(0, 2, 3, 1))


def test_one_command_makes_a_checkpoint_of_them(published, tmp_path, capsys):
    _, files = published
    config = ConvertConfig(format="dalle", files=files, sha256=(), image_size=SIDE)
    folder = convert(config, tmp_path / "out")
    printed = [
        line.split()[-1] for line in capsys.readouterr().out.splitlines() if "sha256" in line
    ]
    assert len(printed) == 3
    taken = load_tokenizer(folder)
    pictures = frames()
    assert torch.equal(taken.encode(pictures), load_dalle(files, SIDE).encode(pictures))
    pinned = ConvertConfig(
        format="dalle", files=files, sha256=(printed[0], "0" * 64), image_size=SIDE
    )
    with pytest.raises(ValueError, match=r"decoder\.pkl is not the expected file"):
        convert(pinned, tmp_path / "pinned")
    assert not (tmp_path / "pinned").exists()


def test_the_encoder_alone_makes_tokens_and_says_what_it_lacks(published, tmp_path):
    _, files = published
    whole, alone = load_dalle(files, SIDE), load_dalle(files[:1], SIDE)
    pictures = frames()
    ids = whole.encode(pictures)
    assert torch.equal(alone.encode(pictures), ids)
    with pytest.raises(ValueError, match=r"only an encoder.*decoder\.pkl"):
        alone.decode(ids)
    config = ConvertConfig(format="dalle", files=files[:1], sha256=(), image_size=SIDE)
    again = load_tokenizer(convert(config, tmp_path / "alone"))
    assert again.config.decoder_init is None
    assert torch.equal(again.encode(pictures), ids)


def test_flavas_codebook_is_the_same_encoder(tmp_path):
    from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

    torch.manual_seed(0)
    flava = FlavaImageCodebook(
        FlavaImageCodebookConfig(hidden_size=HIDDEN, vocab_size=CODES)
    ).eval()
    state = flava.state_dict()
    save_file(state, tmp_path / "codebook.safetensors")
    torch.save(state, tmp_path / "codebook.bin")
    whole = {f"image_codebook.{name}": tensor for name, tensor in state.items()}
    torch.save(whole | {"text_model.x": torch.zeros(1)}, tmp_path / "flava.bin")
    pictures = frames()
    images = pictures.permute(0, 3, 1, 2).float() / 255 * 0.8 + 0.1
    with torch.no_grad():
        expected = flava.get_codebook_indices(images).flatten(1)
    for name in ("codebook.safetensors", "codebook.bin", "flava.bin"):
        assert torch.equal(load_dalle((tmp_path / name,), SIDE).encode(pictures), expected)


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
def test_a_pickle_that_would_run_a_command_is_refused(package, tmp_path, stream):
    marker = tmp_path / "ran"
    encoder = Encoder()
    encoder.blocks.group_1.hook = Evil(marker)
    file = save(encoder, tmp_path / "encoder.pkl", stream)
    with pytest.raises(ValueError, match=r"names posix\.system, which is not loaded"):
        load_dalle((file,), SIDE)
    assert not marker.exists()
    # it is a real one
    torch.load(file, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
def test_a_name_that_is_expected_elsewhere_is_refused_too(package, tmp_path, stream):
    file = save({"a": Encoder()}, tmp_path / "a.pkl", stream)
    with pytest.raises(ValueError, match=r"names dall_e\.encoder\.Encoder.*known.*\[\]"):
        read_pickle(file, ())


def test_what_is_inside_an_expected_class_is_kept_and_not_called(tmp_path, monkeypatch):
    calls = []

    class Loud:
        def __init__(self):
            self.value = 3

        def __setstate__(self, state):
            calls.append(state)

    home = types.ModuleType("loud")
    home.Loud = Loud
    Loud.__module__, Loud.__qualname__ = "loud", "Loud"
    monkeypatch.setitem(sys.modules, "loud", home)
    for stream in (False, True):
        file = save({"one": Loud()}, tmp_path / "loud.pkl", stream)
        assert read_pickle(file, ("loud.Loud",))["one"].attributes == {"value": 3}
    assert not calls


@pytest.mark.parametrize("cut", [0.0, 0.001, 0.3, 0.99])
@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
def test_a_damaged_file_is_said_to_be_one(package, tmp_path, stream, cut):
    whole = save(Encoder(), tmp_path / "encoder.pkl", stream).read_bytes()
    (tmp_path / "cut.pkl").write_bytes(whole[: int(cut * len(whole))])
    told = "is not a readable torch file" if cut else "is empty: the download was cut off"
    with pytest.raises(ValueError, match=rf"cut\.pkl {told}"):
        load_dalle((tmp_path / "cut.pkl",), SIDE)


def test_a_storage_that_claims_more_than_the_file_is_refused(tmp_path):
    file = save(torch.zeros(1000), tmp_path / "a.pt", stream=True)
    data = file.read_bytes()
    assert data.count(b"M\xe8\x03") >= 1  # 1000, as pickle writes it
    file.write_bytes(data.replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f"))
    with pytest.raises(ValueError, match="larger than the file"):
        read_pickle(file, ())


def test_wrong_files_are_named(published, tmp_path):
    _, (encoder, decoder) = published
    with pytest.raises(ValueError, match=r"decoder\.pkl is not the encoder: missing"):
        load_dalle((decoder, encoder), SIDE)
    with pytest.raises(ValueError, match=r"encoder\.pkl is not the decoder: missing"):
        load_dalle((encoder, encoder), SIDE)
    with pytest.raises(ValueError, match=r"expected the encoder's file"):
        load_dalle((), SIDE)
    with pytest.raises(FileNotFoundError, match=r"none\.pkl is missing"):
        load_dalle((tmp_path / "none.pkl",), SIDE)
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"\['epoch'\] are not tensors"):
        load_dalle((tmp_path / "other.pt",), SIDE)
