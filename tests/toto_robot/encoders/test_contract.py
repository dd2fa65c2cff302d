"""Every encoder keeps the contract: embed, compress, embed again, streams."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.toto_robot.tiny import tiny_toto
from toto_robot import Encoder, StreamConfig, load_encoder, load_toto
from toto_robot.encoders.cache import CachedEncoder
from toto_robot.encoders.contract import (
    NO_PAST,
    FrameEncoder,
    StreamableEncoder,
    compress_each,
)
from toto_robot.encoders.patches import PatchEncoder
from toto_robot.encoders.streamed import StreamedEncoder, surprise_stream
from toto_robot.encoders.vit import VitEncoder
from toto_robot.encoders.vit_files import STATISTICS
from toto_robot.models.patches import PatchConfig
from toto_robot.models.vision_transformer import VitConfig

SIDE = 32
MEAN, STD = STATISTICS["imagenet"]


def toto(tmp_path):
    return tiny_toto(SIDE)


def streamed(tmp_path):
    return StreamedEncoder(tiny_toto(SIDE), StreamConfig(context=3))


def cached(tmp_path):
    return CachedEncoder(tmp_path / "cache", tiny_toto(SIDE), 2**22)


def vit(tmp_path):
    torch.manual_seed(0)
    config = VitConfig(
        image_size=16, patch_size=8, dim=16, layers=1, heads=2, mlp_hidden=8, norm_eps=1e-6,
        registers=0, layer_scale=False, positions="learned", norm_after_pool=False, mean=MEAN,
        std=STD,
    )  # fmt: skip
    return VitEncoder(config.build(), -1, "mean")


def patches(tmp_path):
    torch.manual_seed(0)
    config = PatchConfig(
        image_size=16, patch_size=8, dim=16, layers=2, heads=2, mlp_hidden=16, frames=2,
        target_codes=None, rope_base=10000.0, norm_eps=1e-5,
    )  # fmt: skip
    return PatchEncoder(config.build(), 1, "mean")


ALL = [toto, streamed, cached, vit, patches]


def frames(count=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(params=ALL, ids=lambda make: make.__name__)
def encoder(request, tmp_path):
    return request.param(tmp_path)


def check_contract(encoder, images) -> None:
    """Embed, compress and embed again; begin streams: what every encoder must do alike."""
    assert isinstance(encoder, FrameEncoder)
    expected = np.asarray(encoder(images))
    assert expected.shape == (len(images), encoder.dim)
    assert len(encoder.fingerprint) == len(encoder.weights_hash) == 64
    codes = encoder.compress(images)
    assert codes.shape == (len(images), encoder.codes.size)
    assert codes.dtype in (np.uint16, np.float16)
    tolerance = 0 if codes.dtype == np.uint16 else 1e-3
    embedded = encoder.embed(codes)
    np.testing.assert_allclose(embedded, expected, rtol=tolerance, atol=tolerance)
    assert embedded.dtype == np.float32
    assert np.array_equal(compress_each(encoder, list(images)), codes)
    streams = encoder.open_streams(3)
    first = streams.embed(codes[:2], [0, 2])
    np.testing.assert_allclose(first, encoder.embed(codes[:2]), rtol=1e-5, atol=1e-5)
    again = streams.embed(codes[:2], [0, 2])
    remembers = not np.allclose(again, first, rtol=1e-5, atol=1e-5)
    assert remembers == (encoder.past != NO_PAST)


def test_it_keeps_the_contract(encoder) -> None:
    check_contract(encoder, frames())


def test_surprise_needs_a_toto_that_keeps_no_past(encoder) -> None:
    if type(encoder).__name__ == "Encoder":
        assert surprise_stream(encoder, 2).num_envs == 2
    else:
        with pytest.raises(ValueError, match=f"a stream of its own, got {type(encoder).__name__}"):
            surprise_stream(encoder, 2)


def test_frames_of_several_sizes_are_compressed_in_their_order() -> None:
    encoder = tiny_toto(SIDE)
    rng = np.random.default_rng(0)
    mixed = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (32, 48, 32)]
    codes = compress_each(encoder, mixed)
    for frame, row in zip(mixed, codes, strict=True):
        assert np.array_equal(row, encoder.compress(frame[None])[0])
    with pytest.raises(ValueError, match="no frames"):
        compress_each(encoder, [])


def test_a_codebook_beyond_16_bits_is_refused(monkeypatch) -> None:
    encoder = tiny_toto(SIDE)
    monkeypatch.setattr(encoder.tokenizer, "encode", lambda _: torch.full((3, 16), 70_000))
    with pytest.raises(ValueError, match="more codes"):
        encoder.compress(frames())


def test_what_needs_a_toto_says_what_it_was_given() -> None:
    assert load_toto("toto-nano").fingerprint == load_encoder("toto-nano").fingerprint
    with pytest.raises(ValueError, match=r"mae-nano is a VitEncoder; expected a Toto .*toto-nano"):
        load_toto("mae-nano")


class Hollow(Encoder):
    """An Encoder without any attribute, as isinstance sees all of them from Python 3.12 on."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)


def test_an_encoder_can_be_streamed_on_every_python() -> None:
    assert isinstance(Hollow(), StreamableEncoder)


def test_formats_are_values() -> None:
    codes = tiny_toto(SIDE).codes
    assert dataclasses.replace(codes) == codes
    assert codes.fingerprint == tiny_toto(SIDE).codes.fingerprint


def test_a_frozen_encoder_refuses_gradients(encoder) -> None:
    if isinstance(encoder, torch.nn.Module):
        with pytest.raises(ValueError, match=r"frozen.*pool='attention'"):
            encoder.requires_grad_(True)
        assert encoder.requires_grad_(False) is encoder


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "half"}, ValueError, "unknown dtype 'half'; possible: float32, float16"),
        ({"device": "cuda:99"}, ValueError, r"'cuda:99' cannot be used.*available: cpu"),
        ({"device": "gpu"}, ValueError, r"'gpu' cannot be used.*available: cpu"),
    ],
)
def test_a_place_that_cannot_be_says_what_can(options, error, message) -> None:
    with pytest.raises(error, match=message):
        load_encoder("toto-nano", **options)


@pytest.mark.parametrize("make", [toto, vit, patches], ids=lambda make: make.__name__)
def test_other_weights_have_another_fingerprint(make, tmp_path) -> None:
    encoder, unchanged = make(tmp_path), make(tmp_path)
    before = encoder.fingerprint
    weights = {name: one.clone() for name, one in encoder.state_dict().items()}
    encoder.load_state_dict(weights)
    assert encoder.fingerprint == before
    name = next(
        name for name, one in weights.items() if name.startswith("transformer") and one.ndim > 1
    )
    weights[name] += 1.0
    encoder.load_state_dict(weights)
    assert encoder.fingerprint != before == unchanged.fingerprint
    assert encoder.weights_hash != unchanged.weights_hash
