"""Minimal filtering equals convolution, and the DALL-E layout has the same tokens by it."""

import pytest
import torch
from torch.nn.functional import conv2d

from toto_robot import Encoder, TotoConfig
from toto_robot.checkpoint import weights_hash
from toto_robot.tokenizers import DalleConfig, Tokenizer, WinogradDalle
from toto_robot.tokenizers.winograd import WinogradConv

DALLE = DalleConfig(image_size=32, hidden=8, decoder_init=8, blocks_per_group=2, vocab_size=64)


def build(config=DALLE):
    torch.manual_seed(0)
    return config.build().eval().requires_grad_(False)


@pytest.mark.parametrize("side", [2, 6, 16, 18, 20, 32])  # 2 x 2 tiles and 4 x 4
def test_equals_the_convolution(side):
    generator = torch.Generator().manual_seed(side)
    x = torch.randn(side, side, 5, generator=generator)
    weight, bias = torch.randn(7, 5, 3, 3, generator=generator), torch.randn(7, generator=generator)
    expected = conv2d(x.relu().permute(2, 0, 1)[None], weight, bias, padding=1)[0].permute(1, 2, 0)
    before = x.clone()
    found = WinogradConv(weight, bias, side)(x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(x, before)


@pytest.mark.parametrize("side", [32, 128])
def test_several_strips_equal_one_convolution(side):
    generator = torch.Generator().manual_seed(side)
    x = torch.randn(side, side, 3, generator=generator)
    weight, bias = torch.randn(2, 3, 3, 3, generator=generator), torch.zeros(2)
    expected = conv2d(x.relu().permute(2, 0, 1)[None], weight, padding=1)[0].permute(1, 2, 0)
    torch.testing.assert_close(WinogradConv(weight, bias, side)(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("image_size", [16, 32, 80])
def test_logits_and_tokens_are_those_of_the_layout(image_size):
    dalle = build(
        DalleConfig(
            image_size=image_size, hidden=8, decoder_init=8, blocks_per_group=2, vocab_size=64
        )
    )
    # random biases, so that a lost one shows
    for name, parameter in dalle.named_parameters():
        if name.endswith(".b"):
            torch.nn.init.normal_(parameter)
    winograd = WinogradDalle(dalle)
    image = torch.rand(3, image_size, image_size)
    expected = dalle.encoder(image[None])[0].flatten(1).T
    torch.testing.assert_close(winograd.logits(image), expected, atol=1e-4, rtol=1e-4)
    frames = torch.randint(0, 256, (3, 40, 56, 3), dtype=torch.uint8)
    ids = dalle.encode(frames)
    assert (winograd.encode(frames) == ids).float().mean() > 0.98  # ties
    assert torch.equal(winograd.decode(ids), dalle.decode(ids))
    assert winograd.encode(frames[:0]).shape == (0, dalle.tokens_per_frame)


def test_it_is_a_tokenizer_that_an_encoder_takes_with_the_same_fingerprint():
    dalle = build()
    winograd = WinogradDalle(dalle)
    assert isinstance(winograd, Tokenizer)
    assert weights_hash(winograd) == weights_hash(dalle)
    transformer = TotoConfig(
        codes=64, dim=16, layers=2, heads=2, mlp_hidden=24, tie_embeddings=True,
        tokens_per_frame=16, frames=2, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    one, other = (Encoder(tokenizer, transformer, 1, "mean") for tokenizer in (dalle, winograd))
    assert one.fingerprint == other.fingerprint
    assert torch.equal(one.from_tokens(winograd.encode(frames)), other(frames))


def test_what_it_is_not_made_for_is_refused():
    with pytest.raises(ValueError, match=r"float32 on the CPU, .*bfloat16"):
        WinogradDalle(build().bfloat16())
    with pytest.raises(ValueError, match="multiple of 16 pixels, got 40"):
        WinogradDalle(
            build(
                DalleConfig(
                    image_size=40, hidden=8, decoder_init=8, blocks_per_group=1, vocab_size=8
                )
            )
        )
