"""Continuous tokens: there and back, causality, both targets, training, the encoder."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto_robot import load_encoder
from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.encoders.loading import save_encoder
from toto_robot.encoders.patches import PatchEncoder
from toto_robot.files import write_json
from toto_robot.models import TotoConfig
from toto_robot.models.patches import PatchConfig, patch_flops
from toto_robot.tokenizers import LightConfig
from toto_robot.tokenizers.patch import from_patches, normalise_patches, to_patches
from toto_robot.training.patches import PatchTrainingConfig, train_patches

SIZES = dict(
    image_size=32,
    patch_size=8,
    frames=2,
    target_codes=None,
    dim=16,
    layers=2,
    heads=2,
    mlp_hidden=24,
    rope_base=10000.0,
    norm_eps=1e-5,
)


def build(**changes):
    torch.manual_seed(0)
    return PatchConfig(**(SIZES | changes)).build().eval()


def pictures(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 32, 32, 3), dtype=torch.uint8, generator=generator)


@given(side=st.integers(1, 4), patch=st.integers(1, 5))
def test_patches_hold_everything_in_raster_order(side, patch):
    images = torch.arange(2 * 3 * (side * patch) ** 2, dtype=torch.float32)
    images = images.view(2, 3, side * patch, side * patch)
    tokens = to_patches(images, patch)
    assert tokens.shape == (2, side**2, 3 * patch**2)
    assert torch.equal(from_patches(tokens, patch), images)
    # the last patch of the first row, its first row of pixels, colours innermost
    corner = images[0, :, 0, (side - 1) * patch :].T.flatten()
    assert torch.equal(tokens[0, side - 1, : 3 * patch], corner)


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiples of the patch size 3"):
        to_patches(torch.zeros(1, 3, 8, 8), 3)
    with pytest.raises(ValueError, match=r"n\*n patches of 12 values, got \(3, 12\)"):
        from_patches(torch.zeros(1, 3, 12), 2)


def test_normalised_patches_have_mean_zero_and_variance_one():
    tokens = normalise_patches(torch.randn(2, 4, 12) * 5 + 3)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(tokens.var(-1), torch.ones(2, 4), atol=1e-5, rtol=0)
    assert not normalise_patches(torch.ones(1, 1, 12)).any()  # a patch of one colour


@given(patch=st.integers(0, 31))
def test_a_patch_changes_no_output_before_it(patch):
    model = build()
    frames = pictures(1, 2)
    changed = frames.clone()
    frame, place = divmod(patch, 16)
    row, column = divmod(place, 4)
    changed[0, frame, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 77
    with torch.no_grad():
        (before,), (after,) = (model.features(one, (-1,)) for one in (frames, changed))
    assert before.shape == (1, 33, 16)
    assert torch.equal(before[:, : patch + 1], after[:, : patch + 1])  # the start comes first
    assert not torch.equal(before[:, patch + 1 :], after[:, patch + 1 :])


@pytest.mark.parametrize("codes", [None, 50])
def test_the_loss_begins_at_a_guess_and_falls(codes):
    model = build(target_codes=codes)
    frames = pictures(2, 2)
    targets = () if codes is None else (torch.arange(64).view(2, 32) % 50,)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model.loss(frames, *targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # the variance of a normalised patch, of 192 numbers; or a uniform guess
    assert losses[0] == pytest.approx(191 / 192 if codes is None else np.log(50), abs=0.05)
    assert losses[-1] < 0.9 * losses[0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="pass codes if and only if"):
        build().loss(pictures(1, 2), torch.zeros(1, 32, dtype=torch.int64))
    with pytest.raises(ValueError, match="a sequence must have 1 to 2 frames"):
        build().features(pictures(1, 3), (-1,))
    with pytest.raises(ValueError, match="dim must be a multiple of 2"):
        build(dim=18, heads=4)
    with pytest.raises(ValueError, match="layer 3 does not exist"):
        build().features(pictures(1, 2), (3,))


def test_operations_grow_with_what_is_predicted_and_attended_to():
    config = PatchConfig(**SIZES)
    block = 4 * 16**2 + 3 * 16 * 24
    assert patch_flops(config, 1) == 6 * (2 * block + 16 * 2 * 192) + 6 * 2 * 16 * 16
    assert patch_flops(config, 2) - patch_flops(config, 1) == 6 * 2 * 16 * 16


@pytest.fixture
def shard(tmp_path):
    """Make a data set of 42 videos of 3 frames, of which two are held out."""
    folder = tmp_path / "videos"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (126, 32, 32, 3), dtype=np.uint8)
    frames.tofile(folder / "frames.u8")
    clips = [{"file": f"{i:02}.mp4", "start": 3 * i, "length": 3} for i in range(42)]
    manifest = {"name": "videos", "kind": "video", "size": 32, "stride": 1, "seed": 0}
    write_json(folder / "manifest.json", manifest | {"frames": 126, "clips": clips, "skipped": []})
    return folder


@pytest.fixture
def toto(tmp_path):
    """Save an encoder with a tokenizer of 50 codes on the patches' grid."""
    torch.manual_seed(0)
    tokenizer = LightConfig(
        image_size=32,
        levels=(5, 5, 2),
        widths=(8, 8),
        blocks=(1, 1),
        decoder_widths=(8, 8, 8),
        decoder_blocks=(1, 1, 1),
    ).build()
    sizes = {name: SIZES[name] for name in ("dim", "layers", "heads", "mlp_hidden", "frames")}
    transformer = TotoConfig(
        **sizes,
        codes=50,
        tokens_per_frame=tokenizer.tokens_per_frame,
        tie_embeddings=True,
        rope_base=10000.0,
        norm_eps=1e-5,
    ).build()
    save_encoder(tmp_path / "toto", tokenizer, transformer, layer=1, pool="mean")
    return tmp_path / "toto", tokenizer.tokens_per_frame


@pytest.mark.parametrize("codes", [None, 50])
def test_training_gives_an_encoder_that_opens(codes, shard, toto, tmp_path):
    data, _ = compose("patches")
    data |= {
        "data": [{"path": str(shard), "weight": 1.0}],
        "steps": 2,
        "frames": 2,
        "batch": 2,
        "part": 1,
        "validation_sequences": 1,
        "pool": "grid2",
        "pca_frames": 4,
    }
    patch_size = 32 // round(toto[1] ** 0.5)
    data["model"] = SIZES | {"target_codes": codes, "patch_size": patch_size}
    data["targets_from"] = None if codes is None else str(toto[0])
    with pytest.raises(ValueError, match="pool 'grid3': 3 does not divide"):  # before the training
        train_patches(from_dict(PatchTrainingConfig, data | {"pool": "grid3"}), tmp_path / "run")
    folder = train_patches(from_dict(PatchTrainingConfig, data), tmp_path / "run")
    encoder = load_encoder(folder)
    assert isinstance(encoder, PatchEncoder)
    frames = np.random.default_rng(1).integers(0, 256, (3, 50, 60, 3), dtype=np.uint8)
    embedding = encoder(frames)
    assert embedding.shape == (3, 64)
    assert encoder(frames[:0]).shape == (0, 64)
    (features,) = encoder.features(frames, (2,))
    assert features.shape == (3, toto[1], 16)
    torch.testing.assert_close(features.square().mean(-1), torch.ones(3, toto[1]))
    assert encoder.fingerprint != load_encoder(folder, layer=2).fingerprint
    assert not torch.equal(encoder.untrained()(frames), embedding)
    with pytest.raises(ValueError, match="holds a 'patches' checkpoint: repeat_frame and int8"):
        load_encoder(folder, repeat_frame=True)
    manifest = json.loads((shard / "manifest.json").read_text())
    write_json(shard / "manifest.json", manifest | {"seed": 1})
    with pytest.raises(ValueError, match=r"the content of .*videos has changed"):
        train_patches(from_dict(PatchTrainingConfig, data), tmp_path / "run")


def test_a_target_of_another_grid_is_refused(toto, tmp_path):
    data, _ = compose("patches", ["model.target_codes=50", f"targets_from={toto[0]}"])
    with pytest.raises(ValueError, match="model has 50 target codes and 256 patches"):
        train_patches(from_dict(PatchTrainingConfig, data), tmp_path / "run")
