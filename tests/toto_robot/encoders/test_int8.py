"""Blocks in 8 bits: near to float32, told apart from it, and refused where they are not near."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from toto_robot import Encoder, load_encoder
from toto_robot.encoders.golden import golden_frames
from toto_robot.encoders.int8 import Int8Linear, _Rounder, feature_cosine, to_int8
from toto_robot.encoders.loading import load_tokenizer
from toto_robot.models import Gpt2Config


@pytest.fixture(scope="module")
def nano():
    return load_encoder("toto-nano")


@pytest.fixture(scope="module")
def pictures():
    from toto_robot.encoders.loading import WEIGHTS

    return golden_frames(WEIGHTS / "toto-nano")


def test_product_of_integers_is_near_to_that_of_floats():
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(96, 80, bias=False)
    nn.init.normal_(linear.weight, generator=generator)
    x = torch.randn(2, 5, 96, generator=generator)
    x[0, 1] *= 1000.0  # a token that is far greater than the others spoils only itself
    expected = linear(x)
    found = Int8Linear(linear, _Rounder())(x)
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < 0.025


def test_greatest_values_do_not_overflow():
    linear = nn.Linear(3072, 8, bias=False)
    with torch.no_grad():
        linear.weight.fill_(1.0)
    found = Int8Linear(linear, _Rounder())(torch.ones(4, 3072))
    torch.testing.assert_close(found, torch.full((4, 8), 3072.0))


def test_an_input_of_zeros_gives_zeros():
    assert not Int8Linear(nn.Linear(8, 8, bias=False), _Rounder())(torch.zeros(3, 8)).any()


def test_shipped_encoder_in_int8_is_near_to_itself(nano, pictures):
    rounded = load_encoder("toto-nano", dtype=torch.int8)
    ids = torch.cat([nano.tokenize(picture[None]) for picture in pictures])
    tokens, pooled = feature_cosine(nano, rounded, ids)
    assert 0.999 < tokens < 1
    assert 0.999 < pooled < 1
    assert rounded.fingerprint != nano.fingerprint
    assert (rounded.layer, rounded.pool, rounded.dim) == (nano.layer, nano.pool, nano.dim)
    embedding = rounded(pictures[0][None])
    assert embedding.dtype == torch.float32
    linears = [m for m in rounded.transformer.modules() if isinstance(m, Int8Linear)]
    assert len(linears) == 7 * nano.num_layers


def test_streams_run_in_int8(nano, pictures):
    rounded = to_int8(nano, pictures)
    streams = nano.stream(1, 3), rounded.stream(1, 3)
    for picture in [*pictures, *pictures]:
        one, other = (stream.step(picture[None]) for stream in streams)
        assert torch.cosine_similarity(one, other) > 0.999


def test_features_that_differ_too_much_are_refused(nano, pictures):
    with pytest.raises(ValueError, match=r"have a cosine of .* needed 1\.01; use float32"):
        to_int8(nano, pictures, 1.01)
    with pytest.raises(ValueError, match="this checkpoint has none"):
        to_int8(nano, [])
    with pytest.raises(ValueError, match=r"needs an encoder in float32 on the CPU, .*bfloat16"):
        to_int8(load_encoder("toto-nano", dtype=torch.bfloat16), pictures)


def test_the_float_encoder_is_left_alone(nano, pictures):
    before = nano(np.asarray(pictures[1])[None])
    to_int8(nano, pictures)
    assert torch.equal(nano(np.asarray(pictures[1])[None]), before)


def test_only_a_llama_is_converted(pictures):
    layout = {"codes": 8192, "tokens_per_frame": 256, "frames": 2, "dim": 16, "layers": 1}
    gpt2 = Gpt2Config(**layout, heads=2, mlp_hidden=16, norm_eps=1e-5).build()
    other = Encoder(load_tokenizer("toto-nano"), gpt2, 1, "mean")
    with pytest.raises(ValueError, match=r"only a model of kind llama .*, got gpt2; use float32"):
        to_int8(other, pictures)


def test_an_int8_encoder_is_not_converted(nano, pictures):
    rounded = to_int8(nano, pictures)
    expected = rounded(pictures[0][None])
    for convert in (rounded.half, lambda: rounded.to(torch.bfloat16), rounded.double):
        with pytest.raises(
            ValueError, match=r"an int8 encoder cannot be converted to torch\.\w+ on"
        ):
            convert()
    assert torch.equal(rounded.float().to("cpu")(pictures[0][None]), expected)


def test_no_frames_have_no_embeddings(nano, pictures):
    assert to_int8(nano, pictures)(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, nano.dim)


def test_a_used_layer_can_be_copied_and_loaded_anew():
    torch.manual_seed(0)
    one, other = (Int8Linear(nn.Linear(8, 8, bias=False), _Rounder()) for _ in range(2))
    x = torch.randn(3, 8)
    expected = one(x)
    assert not torch.equal(other(x), expected)
    for made in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert torch.equal(made(x), expected)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(x), expected)
