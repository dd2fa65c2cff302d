"""Principal components: fitted by a command, stored in a checkpoint, read by the pools `pca<k>`."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from tests.command_lines import run
from tests.toto_robot.tiny import tiny_toto
from toto_robot import StreamConfig, load_encoder, save_encoder
from toto_robot.encoders.encoder import Encoder
from toto_robot.encoders.frozen import save_frozen
from toto_robot.encoders.pca import all_features, fit_components
from toto_robot.encoders.streamed import StreamedEncoder
from toto_robot.encoders.vit import VitEncoder, VitEncoderConfig
from toto_robot.files import write_json
from toto_robot.models.vision_transformer import VitConfig

SIDE = 64  # 8 x 8 tokens
MISSING = (
    "pool 'pca2' needs principal components, and this encoder has none: "
    "python -m toto_robot.fit_pca encoder=checkpoint encoder.name_or_path="
)


def frames(count=3, seed=0):
    """Make images of coloured squares."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return np.kron(colours, np.ones((1, 8, 8, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Save a checkpoint without principal components."""
    folder = tmp_path_factory.mktemp("plain") / "toto"
    toto = tiny_toto(SIDE)
    save_encoder(
        folder, toto.tokenizer, toto.transformer, layer=1, pool="grid2",
        golden_frames=list(frames(2)), training={"tokens": 7},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write a data set of 42 pictures, of which two are held out."""
    folder = tmp_path_factory.mktemp("data") / "set"
    folder.mkdir()
    frames(42).tofile(folder / "frames.u8")
    clips = [{"file": f"{i:02}.png", "start": i, "length": 1} for i in range(42)]
    about = {"name": "set", "kind": "image", "size": SIDE, "stride": 1, "seed": 0, "frames": 42}
    write_json(folder / "manifest.json", about | {"clips": clips, "skipped": []})
    return folder


def fit_pca(data, out, *words):
    entry = f"data=[{{path: {data}, weight: 1.0}}]"
    return run("toto_robot.fit_pca", [entry, "frames=24", f"out={out}", *words])


def of(checkpoint):
    return ("encoder=checkpoint", f"encoder.name_or_path={checkpoint}")


@pytest.fixture(scope="module")
def fitted(plain, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted")
    done = fit_pca(data, out, *of(plain), "stored_frames=6")
    assert done.code == 0, done.err
    assert "of the variance in 8" in done.out
    return out / "encoder"


def test_the_command_adds_components_and_changes_nothing_else(plain, fitted):
    before, after = load_encoder(plain), load_encoder(fitted)
    assert before.fingerprint == after.fingerprint
    assert torch.equal(before(frames()), after(frames()))
    assert json.loads((fitted / "config.json").read_text())["training"] == {"tokens": 7}
    assert (fitted / "golden.safetensors").read_bytes() == (
        plain / "golden.safetensors"
    ).read_bytes()
    assert load_encoder(fitted, pool="pca2").fingerprint != before.fingerprint
    with pytest.raises(ValueError, match=re.escape(MISSING)):
        load_encoder(plain, pool="pca2")


@pytest.mark.parametrize(("pool", "width"), [("pca2", 128), ("pca3grid4", 48), ("pca16grid1", 16)])
def test_a_pool_projects_each_place_to_the_directions_of_largest_variance(fitted, pool, width):
    encoder = load_encoder(fitted, layer=2, pool=pool)
    embedding = encoder(frames())
    assert embedding.shape == (3, width) == (3, encoder.dim)
    (features,) = encoder.features(frames())
    assert encoder.pca is not None
    mean, directions = encoder.pca.mean[2], encoder.pca.components[2]
    side = {"pca2": 8, "pca3grid4": 4, "pca16grid1": 1}[pool]
    cells = features.unflatten(1, (side, 8 // side, side, 8 // side)).mean((2, 4)).flatten(1, 2)
    by_hand = (cells - mean) @ directions[:, : width // side**2]
    torch.testing.assert_close(embedding, by_hand.flatten(1), atol=1e-5, rtol=1e-4)


def test_components_are_those_of_the_covariance_within_each_place():
    toto = tiny_toto(SIDE)
    images = frames(30)
    pca = fit_components(all_features(toto), images, stored_frames=4)
    assert pca.frames.shape == (4, SIDE, SIDE, 3)
    for layer, features in enumerate(toto.features(images, (0, 1, 2))):
        rows = (features - features.mean(0)).flatten(0, 1).double()
        directions = torch.linalg.svd(rows, full_matrices=False).Vh.T
        expected = rows.square().sum(0).sum(), (rows @ directions[:, :3]).square().sum()
        found = (rows @ pca.components[layer, :, :3].double()).square().sum()
        assert found.item() == pytest.approx(expected[1].item(), rel=1e-5)
        assert pca.shares[layer][2] == pytest.approx((expected[1] / expected[0]).item(), rel=1e-4)
        torch.testing.assert_close(pca.mean[layer], features.mean((0, 1)))
        largest = pca.components[layer].abs().argmax(0)
        assert (pca.components[layer].gather(0, largest[None]) > 0).all()


def test_an_untrained_copy_has_components_of_its_own_features(fitted):
    encoder = load_encoder(fitted, pool="pca2")
    control = encoder.untrained(1)
    assert encoder.pca is not None
    assert control.pca is not None
    stored = fit_components(all_features(control), encoder.pca.frames)
    torch.testing.assert_close(control.pca.components, stored.components)
    assert control.fingerprint == encoder.untrained(1).fingerprint != encoder.fingerprint
    done = run("toto_robot.encode", ["encoder=random", f"encoder.name_or_path={fitted}"])
    assert done.code == 1  # the folder of images is missing, not the components


def test_without_stored_frames_an_untrained_copy_is_refused(plain, data, tmp_path):
    assert fit_pca(data, tmp_path, *of(plain), "stored_frames=0").code == 0
    encoder = load_encoder(tmp_path / "encoder", pool="pca2")
    with pytest.raises(ValueError, match="an untrained copy needs frames to fit its own"):
        encoder.untrained()
    assert load_encoder(tmp_path / "encoder", pool="mean").untrained().dim == 16


def test_layer_and_pool_become_the_defaults_of_the_copy(plain, data, tmp_path):
    done = fit_pca(data, tmp_path, *of(plain), "encoder.layer=[0,2]", "encoder.pool=pca4grid4")
    assert done.code == 0, done.err
    encoder = load_encoder(tmp_path / "encoder")
    assert (encoder.layer, encoder.pool, encoder.dim) == ((0, 2), "pca4grid4", 128)
    one, two = (load_encoder(tmp_path / "encoder", layer=k)(frames()) for k in (0, 2))
    assert torch.equal(encoder(frames()), torch.cat([one, two], dim=1))
    again = fit_pca(data, tmp_path / "again", *of(tmp_path / "encoder"))
    assert again.code == 0, again.err
    assert load_encoder(tmp_path / "again/encoder").fingerprint == encoder.fingerprint


def test_codes_streams_int8_and_half_precision_use_the_components(fitted):
    encoder = load_encoder(fitted, pool="pca2")
    codes = encoder.compress(frames())
    np.testing.assert_array_equal(encoder.embed(codes), encoder(frames()).numpy())
    streamed = StreamedEncoder(encoder, StreamConfig(context=2))
    streams = streamed.open_streams(1)
    steps = np.concatenate([streams.embed(codes[i : i + 1], [0]) for i in range(2)])
    ids = encoder.tokenize(frames())[None, :2]
    (features,) = encoder.clip_features(ids, (1,))
    by_hand = encoder.pooling(features[0]).numpy()
    np.testing.assert_allclose(steps, by_hand, atol=1e-4)
    assert load_encoder(fitted, pool="pca2", dtype="bfloat16").fingerprint == encoder.fingerprint
    assert load_encoder(fitted, pool="pca2", dtype="int8").dim == encoder.dim


def test_a_published_vision_transformer_gets_components(data, tmp_path):
    torch.manual_seed(0)
    config = VitConfig(
        image_size=SIDE, patch_size=8, dim=64, layers=2, heads=1, mlp_hidden=256, norm_eps=1e-6,
        registers=0, layer_scale=False, positions="learned", norm_after_pool=False,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    state = config.build().state_dict()
    torch.save({k: v for k, v in state.items() if v.numel()}, tmp_path / "mae.pth")
    words = ("encoder=mae", f"encoder.name_or_path={tmp_path}/mae.pth", "encoder.heads=1")
    size = f"encoder.image_size={SIDE}"
    done = fit_pca(data, tmp_path / "out", *words, size, "encoder.pool=pca4")
    assert done.code == 0, done.err
    encoder = load_encoder(tmp_path / "out/encoder")
    assert isinstance(encoder, VitEncoder)
    assert (encoder.pool, encoder.dim) == ("pca4", 256)
    assert encoder(frames()).isfinite().all()
    assert encoder.untrained(1)(frames()).shape == (3, 256)
    unfitted = load_encoder(tmp_path / "mae.pth", pool="mean", format="mae", heads=1, image_size=64)
    assert torch.equal(load_encoder(tmp_path / "out/encoder", pool="mean")(frames()),
                       unfitted(frames()))  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("encoder=pixels",), "encoder=pixels has no checkpoint"),
        (("encoder=random",), "encoder=random has no checkpoint"),
        (("encoder=stream",), "encoder.stream and encoder.repeat_frame have no effect"),
        (("frames=1",), "frames must be at least 2"),
        (("encoder.layer=99",), "layer 99 does not exist"),
        (("encoder.layer=[1,1]",), "a number or a list of different numbers"),
        (("encoder.pool=pca65",), "this encoder has 64 principal components, not 65"),
        (("encoder.pool=grid3",), "3 does not divide the frame's 16 x 16 tokens"),
        (("encoder=nano",), "has frames of 64 pixels, and the encoder needs 128: write it again"),
        (("data=[]",), "data must have an entry"),
        (("data=[{path: nowhere, weight: 1.0}]",), "nowhere holds no data set"),
    ],
)
def test_a_mistake_is_one_clear_line(words, message, data, tmp_path):
    done = fit_pca(data, tmp_path / "out", *words)
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out/encoder").exists()


def test_neither_the_encoder_itself_nor_another_run_is_overwritten(plain, data, tmp_path):
    shutil.copytree(plain, tmp_path / "encoder")
    before = (tmp_path / "encoder/config.json").read_bytes()
    done = fit_pca(data, tmp_path, *of(tmp_path / "encoder"))
    assert done.code == 1
    assert "is the encoder itself, which is not changed; choose another out=" in done.err
    assert (tmp_path / "encoder/config.json").read_bytes() == before
    assert fit_pca(data, tmp_path / "run", *of(plain)).code == 0
    assert fit_pca(data, tmp_path / "run", *of(plain)).code == 0  # the same run again
    done = fit_pca(data, tmp_path / "run", *of(plain), "encoder.layer=2")
    assert "encoder.layer" in done.err
    assert load_encoder(tmp_path / "run/encoder").layer == 1


def test_a_model_that_cannot_have_components_is_refused_before_the_fit(data, tmp_path):
    config = VitConfig(
        image_size=SIDE, patch_size=8, dim=16, layers=1, heads=1, mlp_hidden=32, norm_eps=1e-6,
        registers=0, layer_scale=False, positions="learned", norm_after_pool=True,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    )  # fmt: skip
    save_frozen(
        tmp_path / "vit", "vit", VitEncoderConfig(transformer=config, layer=1, pool="mean"),
        config.build().state_dict(), {},
    )  # fmt: skip
    done = fit_pca(data, tmp_path / "out", *of(tmp_path / "vit"))
    assert "pool 'pca1': this model has no norm for single tokens" in done.err
    assert not (tmp_path / "out/encoder").exists()


@pytest.mark.parametrize("command", ["pretrain", "mae", "patches"])
def test_a_wrong_number_of_frames_is_refused_before_a_training(command, tmp_path):
    done = run(f"toto_robot.training.{command}", ["pca_frames=1", f"out={tmp_path}/out"])
    assert done.code == 1
    assert "pca_frames must be 0 (no components) or at least 2, got 1" in done.err


def test_damaged_components_are_refused(fitted):
    toto = tiny_toto(SIDE)
    pca = load_encoder(fitted).pca
    assert pca is not None
    state = pca.state()
    with pytest.raises(ValueError, match="expected 5 layers of 16 features"):
        type(pca).of_state(state, 4, 16)
    del state["pca.mean"]
    with pytest.raises(ValueError, match=r"damaged: \['missing pca.mean'\]"):
        type(pca).of_state(state, 2, 16)
    with pytest.raises(ValueError, match="this encoder has 16 principal components, not 17"):
        Encoder(toto.tokenizer, toto.transformer, 1, "pca17", pca=pca)
