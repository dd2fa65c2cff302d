"""A vision transformer as a policy's encoder: stored, read again and acted on as a Toto is."""

import dataclasses

import numpy as np
import pytest
import torch

from policies.train import train
from policies.vision import VitVision, embed_episode, encoder_id
from tests.policies.fake_world import SIDE
from toto_robot.encoders.contract import compress_each
from toto_robot.encoders.vision import title
from toto_robot.encoders.vit import VitEncoder
from toto_robot.encoders.vit_files import STATISTICS
from toto_robot.models.vision_transformer import VitConfig

MEAN, STD = STATISTICS["imagenet"]
SMALL = VitConfig(
    image_size=16, patch_size=8, dim=16, layers=1, heads=2, mlp_hidden=8, norm_eps=1e-6,
    registers=0, layer_scale=False, positions="learned", norm_after_pool=False, mean=MEAN, std=STD,
)  # fmt: skip


@pytest.fixture
def vision(tmp_path):
    torch.manual_seed(0)
    weights = SMALL.build().state_dict()
    del weights["reg_token"]
    torch.save({"model": weights}, tmp_path / "vit.pth")
    return VitVision(
        name_or_path=str(tmp_path / "vit.pth"), format="mvp", layer=None, pool=None, heads=2,
        image_size=None, statistics=None,
    )  # fmt: skip


def frames(count=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_what_is_kept_of_a_frame_gives_its_embedding_back_to_the_bit(vision):
    encoder = vision.build(torch.device("cpu"))
    expected = VitEncoder(encoder.transformer, -1, "cls")(frames()).half().numpy()
    kept = compress_each(encoder, list(frames()))
    assert kept.dtype == np.float16
    assert kept.shape == (3, 16) == (3, encoder.codes.size)
    assert np.array_equal(encoder.embed(kept).astype(np.float16), expected)
    assert (expected < 0).any()  # the sign's bit is kept, too
    assert np.array_equal(embed_episode(encoder, kept.reshape(3, 1, 16))[:, 0], expected)


def test_embeddings_in_stores_of_the_first_version_are_read(vision):
    encoder = vision.build(torch.device("cpu"))
    kept = encoder.compress(frames())
    assert np.array_equal(encoder.embed(kept.view(np.uint16)), encoder.embed(kept))
    with pytest.raises(ValueError, match="float16, got int64"):
        encoder.embed(kept.astype(np.int64))


def test_its_stamp_and_its_stores_tell_its_layers_apart(vision):
    last, first = (
        dataclasses.replace(vision, layer=layer).build(torch.device("cpu")) for layer in (1, 0)
    )
    assert encoder_id(last).weights_hash == encoder_id(first).weights_hash
    assert encoder_id(last).fingerprint != encoder_id(first).fingerprint
    assert last.codes.fingerprint != first.codes.fingerprint


def test_embeddings_beyond_float16_are_refused(vision):
    encoder = vision.build(torch.device("cpu"))
    with torch.no_grad():
        encoder.transformer.norm.bias += 1e6
    with pytest.raises(ValueError, match="pool 'cls' do not fit into float16"):
        encoder.compress(frames())


def test_a_student_is_trained_with_it_from_beginning_to_end(vision, tmp_path):
    from tests.policies.test_train import config

    changes = {"encoder": vision, "video_episodes": 1, "method": "bc", "evaluation_episodes": 1}
    train(config(tmp_path, **changes), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("toto-nano", "toto-nano"),
        ("runs/mine/encoder", "mine"),
        ("runs/mine/checkpoint", "checkpoint"),
        ("encoder", "encoder"),
        ("weights/mvp.pth", "mvp.pth"),
        ("hf:org/name@main", "name@main"),
    ],
)
def test_title(place, expected):
    assert title(place) == expected
