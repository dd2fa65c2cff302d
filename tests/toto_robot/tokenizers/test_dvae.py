"""Tokenizers: round trip, locality, released names, and clear refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto_robot.tokenizers import DalleConfig, LightConfig, Tokenizer

LIGHT = LightConfig(
    image_size=32,
    levels=(8, 8, 8, 4, 4),
    widths=(16, 16),
    blocks=(1, 1),
    decoder_widths=(16, 16, 8),
    decoder_blocks=(1, 1, 1),
)
DALLE = DalleConfig(image_size=32, hidden=8, decoder_init=8, blocks_per_group=2, vocab_size=64)


def build(config):
    torch.manual_seed(0)
    return config.build().eval().requires_grad_(False)


def frames(count=2, height=40, width=56, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("config", [LIGHT, DALLE])
def test_tokens_are_in_the_vocabulary_and_decode_to_frames(config):
    tokenizer = build(config)
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode(frames())
    assert ids.shape == (2, 16)
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids).shape == (2, 32, 32, 3)
    assert torch.equal(
        ids, tokenizer.encode(frames().flip(0)).flip(0)
    )  # a frame's tokens do not depend on the batch


def test_the_light_layout_has_8192_codes_and_every_code_has_its_own_digits():
    tokenizer = build(LIGHT)
    assert tokenizer.vocab_size == 8192
    ids = torch.arange(8192)
    digits = ids[:, None] // tokenizer.basis % tokenizer.levels
    assert torch.equal((digits * tokenizer.basis).sum(1), ids)
    assert (digits < tokenizer.levels).all()


@given(raw=st.floats(-20, 20))
def test_every_level_is_reachable_and_none_beyond(raw):
    tokenizer = build(LIGHT)
    tokenizer.encoder = torch.nn.Conv2d(48, 5, 1)
    torch.nn.init.zeros_(tokenizer.encoder.weight)
    torch.nn.init.constant_(tokenizer.encoder.bias, raw)
    digits = (
        tokenizer.bottleneck(torch.zeros(1, 3, 32, 32)).round()
        + (tokenizer.levels // 2)[:, None, None]
    )
    assert (digits >= 0).all()
    assert (digits < tokenizer.levels[:, None, None]).all()
    if raw == 20:
        assert (digits == tokenizer.levels[:, None, None] - 1).all()


def test_a_token_depends_on_its_neighbourhood_only():
    config = LightConfig(
        image_size=128,
        levels=(8, 8, 8, 4, 4),
        widths=(8, 8),
        blocks=(1, 2),
        decoder_widths=(8, 8, 8),
        decoder_blocks=(1, 1, 1),
    )
    tokenizer = build(config)
    one = frames(1, 128, 128)
    other = one.clone()
    other[:, 64:72, 64:72] = 255 - other[:, 64:72, 64:72]
    with torch.no_grad():
        codes = [tokenizer.bottleneck(x.permute(0, 3, 1, 2) / 255.0) for x in (one, other)]
    changed = (codes[0] != codes[1]).any(1)[0]
    assert changed[8, 8]
    assert not changed[:2].any()
    assert not changed[:, :2].any()


def test_gradients_pass_straight_through_the_rounding():
    tokenizer = build(LIGHT).requires_grad_(True)
    reconstruction, codes = tokenizer(torch.rand(1, 3, 32, 32))
    assert torch.equal(codes, codes.round())
    reconstruction.mean().backward()
    assert tokenizer.encoder.head.weight.grad.abs().sum() > 0


def test_the_dalle_layout_has_the_released_names_shapes_and_sizes():
    config = DalleConfig(
        image_size=128, hidden=256, decoder_init=128, blocks_per_group=2, vocab_size=8192
    )
    with torch.device("meta"):
        tokenizer = config.build()
    encoder, decoder = tokenizer.encoder.state_dict(), tokenizer.decoder.state_dict()
    assert (len(encoder), sum(t.numel() for t in encoder.values())) == (74, 53_786_240)
    assert (len(decoder), sum(t.numel() for t in decoder.values())) == (76, 43_829_766)
    assert encoder["blocks.input.w"].shape == (256, 3, 7, 7)
    assert encoder["blocks.group_2.block_1.id_path.w"].shape == (512, 256, 1, 1)
    assert "blocks.group_1.block_1.id_path.w" not in encoder
    assert encoder["blocks.group_4.block_2.res_path.conv_4.w"].shape == (2048, 512, 1, 1)
    assert encoder["blocks.output.conv.w"].shape == (8192, 2048, 1, 1)
    assert decoder["blocks.input.w"].shape == (128, 8192, 1, 1)
    assert decoder["blocks.group_1.block_1.id_path.w"].shape == (2048, 128, 1, 1)
    assert decoder["blocks.output.conv.w"].shape == (6, 256, 1, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_spares_the_first_and_last_convolutions(dtype):
    exact, mixed = build(DALLE), build(DALLE).mixed(dtype)
    for half in (mixed.encoder, mixed.decoder):
        dtypes = {name.split(".")[1][:5]: p.dtype for name, p in half.named_parameters()}
        assert dtypes == {"input": torch.float32, "group": dtype, "outpu": torch.float32}
    images = torch.rand(2, 3, 32, 32)
    logits = mixed.logits(images)
    assert logits.dtype == torch.float32
    expected = exact.logits(images)
    assert not torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, atol=0.03, rtol=0.03)
    ids = exact.encode(frames())
    assert (mixed.encode(frames()) == ids).float().mean() > 0.9
    difference = mixed.decode(ids).int() - exact.decode(ids).int()
    assert difference.abs().max() <= 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            np.zeros((1, 8, 8, 3), np.float32),
            r"uint8 in 0..255, got float32 .*\(frames \* 255\)",
        ),
        (
            np.full((1, 8, 8, 3), 200.0),
            r"uint8 in 0..255, got float64 with values in \[200, 200\]",
        ),
        (
            np.zeros((8, 8, 3), np.uint8),
            r"shape \[b h w 3\], got \(8, 8, 3\); for one frame use frames\[None\]",
        ),
        (np.zeros((1, 3, 8, 8), np.uint8), "channels first"),
        (np.zeros((1, 8, 8, 4), np.uint8), r"RGB \[b h w 3\], got \(1, 8, 8, 4\)"),
        (np.zeros((1, 0, 8, 3), np.uint8), "must not be empty"),
    ],
)
def test_wrong_frames_are_refused_with_the_reason(bad, message):
    from toto_robot.tokenizers.tokenizer import check_frames

    with pytest.raises(ValueError, match=message):
        check_frames(bad)


def test_not_an_array_is_a_type_error():
    from toto_robot.tokenizers.tokenizer import check_frames

    with pytest.raises(TypeError, match="numpy array or a torch tensor, got list"):
        check_frames([1, 2])


def test_read_only_and_reversed_arrays_are_taken():
    from toto_robot.tokenizers.tokenizer import check_frames

    array = np.arange(1 * 2 * 2 * 3, dtype=np.uint8).reshape(1, 2, 2, 3)
    flipped = array[..., ::-1]
    assert torch.equal(check_frames(flipped), torch.from_numpy(flipped.copy()))
    array.flags.writeable = False
    assert torch.equal(check_frames(array), torch.from_numpy(array.copy()))


@pytest.mark.parametrize("config", [LIGHT, DALLE])
def test_ids_that_no_encoder_made_are_refused(config):
    tokenizer = build(config)
    with pytest.raises(ValueError, match=r"must be in \[0, "):
        tokenizer.decode(torch.full((1, 16), tokenizer.vocab_size))
    with pytest.raises(ValueError, match=r"shape \[b 16\], got \(1, 15\)"):
        tokenizer.decode(torch.zeros(1, 15, dtype=torch.long))
