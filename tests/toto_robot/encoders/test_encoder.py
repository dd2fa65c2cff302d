"""The encoder: one call from frames to embeddings, its pools, its checkpoint and its refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command_lines import run
from toto_robot import Encoder, load_encoder, save_encoder
from toto_robot.encoders.vision import RandomVision, build_toto
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig
from toto_robot.wrappers.backbone import TotoBackbone


def parts(seed=0):
    torch.manual_seed(seed)
    tokenizer = LightConfig(
        image_size=64,
        levels=(8, 8, 8, 4, 4),
        widths=(8, 8),
        blocks=(1, 1),
        decoder_widths=(8, 8, 8),
        decoder_blocks=(1, 1, 1),
    ).build()
    transformer = TotoConfig(
        codes=8192,
        dim=16,
        layers=4,
        heads=2,
        mlp_hidden=24,
        tie_embeddings=True,
        tokens_per_frame=64,
        frames=2,
        rope_base=10000.0,
        norm_eps=1e-5,
    ).build()
    return tokenizer, transformer


def encoder(layer=2, pool="mean"):
    return Encoder(*parts(), layer=layer, pool=pool)


def frames(count=3, side=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("pool", "width"),
    [
        ("mean", 16),
        ("last", 16),
        ("attention", 16),
        ("attention3", 48),
        ("grid2", 64),
        ("grid8", 1024),
    ],
)
def test_each_pool_gives_its_width_in_float32(pool, width):
    model = encoder(pool=pool)
    embedding = model(frames())
    assert embedding.shape == (3, width) == (3, model.dim)
    assert embedding.dtype == torch.float32
    assert torch.isfinite(embedding).all()


def test_mean_and_grid_are_averages_of_the_tokens_where_they_lie():
    model = encoder(pool="grid4")
    (features,) = model.features(frames())
    by_hand = (
        features.unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1)
    )  # 8 x 8 tokens in 4 x 4 cells
    torch.testing.assert_close(model(frames()), by_hand)
    torch.testing.assert_close(encoder(pool="mean")(frames()), features.mean(1))
    torch.testing.assert_close(encoder(pool="last")(frames()), features[:, -1])


def test_attention_pool_is_the_papers_cross_attention_and_alone_has_gradients():
    model = encoder(pool="attention")
    (features,) = model.features(frames())
    pool = model.pooling
    scores = (pool.query @ pool.keys(features).transpose(1, 2)) / 16**0.5
    torch.testing.assert_close(model(frames()), (scores.softmax(-1) @ pool.values(features))[:, 0])
    model(frames()).square().sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"pooling.query", "pooling.keys.weight", "pooling.values.weight"}


def test_each_query_of_an_attention_pool_attends_for_itself(tmp_path):
    model = encoder(pool="attention3")
    (features,) = model.features(frames())
    pool = model.pooling
    scores = (pool.query @ pool.keys(features).mT) / 16**0.5  # b q n
    expected = (scores.softmax(-1) @ pool.values(features)).flatten(1)
    torch.testing.assert_close(model(frames()), expected)
    one, two = expected.unflatten(1, (3, 16))[:, :2].unbind(1)
    assert not torch.allclose(one, two)
    save = {"layer": 2, "pooling": model.pooling}
    with torch.no_grad():
        pool.query.mul_(3)
    save_encoder(tmp_path, model.tokenizer, model.transformer, pool="attention3", **save)
    assert torch.equal(load_encoder(tmp_path)(frames()), model(frames()))
    assert load_encoder(tmp_path, pool="attention").dim == 16  # with other, fresh queries
    backbone = TotoBackbone(model, trainable=True)
    backbone(torch.from_numpy(frames()).permute(0, 3, 1, 2)).sum().backward()
    assert backbone.pooling.query.grad.abs().amax(dim=(0, 2)).gt(0).all()  # of each query


@pytest.mark.parametrize("pool", ["mean", "last", "grid4", "attention2"])
def test_the_embeddings_of_several_layers_are_side_by_side(pool, tmp_path):
    model = encoder(layer=(4, 0), pool=pool)
    assert (model.layer, model.layers) == ((4, 0), (4, 0))
    parts = [encoder(layer=k, pool=pool) for k in (4, 0)]
    assert model.dim == 2 * parts[0].dim
    torch.testing.assert_close(model(frames()), torch.cat([one(frames()) for one in parts], dim=1))
    clips = frames(4).reshape(2, 2, 70, 70, 3)
    expected = torch.cat([one.encode_clip(clips) for one in parts], dim=2)
    torch.testing.assert_close(model.encode_clip(clips), expected)
    stream, others = model.stream(2), [one.stream(2) for one in parts]
    for step in range(2):
        found = torch.cat([one.step(clips[:, step]) for one in others], dim=1)
        torch.testing.assert_close(stream.step(clips[:, step]), found)
    assert [one.shape for one in stream.token_features(model.tokenize(clips[:, 0]))] == [
        (2, 64, 16)
    ] * 2
    assert model.fingerprint not in {one.fingerprint for one in parts}
    assert model.untrained(1).layers == (4, 0)
    save_encoder(tmp_path, model.tokenizer, model.transformer, layer=(-1, 0), pool=pool)
    loaded = load_encoder(tmp_path)
    assert loaded.fingerprint == model.fingerprint
    assert torch.equal(loaded(frames()), model(frames()))
    backbone = TotoBackbone(model, trainable=True)
    images = torch.from_numpy(frames()).permute(0, 3, 1, 2)
    torch.testing.assert_close(backbone(images), model(frames()))


def test_the_transformer_runs_once_for_several_layers():
    model, runs = encoder(layer=(0, 3)), []
    model.transformer.layers[0].register_forward_hook(lambda *_: runs.append(0))
    model.transformer.layers[3].register_forward_hook(lambda *_: runs.append(3))
    model(frames())
    assert runs == [0]  # and the block after the deepest layer does not run


@pytest.mark.parametrize("layer", [(), (1, 1), (4, -1)])
def test_layers_that_are_no_list_of_layers_are_refused(layer):
    with pytest.raises(ValueError, match="a number or a list of different numbers"):
        encoder(layer=layer)


def test_layers_may_be_numbers_of_numpy():
    code = (  # a process of its own, because the types of arguments are checked in tests
        "import numpy as np\n"
        "from toto_robot import load_encoder\n"
        "def of(layer): return load_encoder('toto-nano', layer=layer)\n"
        "assert of(np.int64(2)).fingerprint == of(2).fingerprint\n"
        "assert of(np.array([4, 0])).fingerprint == of((4, 0)).fingerprint\n"
        "try: of('4')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "layer must be a number or a list of different numbers, got '4'\n", done


def test_the_trunk_is_frozen_and_stays_in_eval_mode():
    model = encoder().train()
    assert not model.tokenizer.training
    assert not model.transformer.training
    assert not any(p.requires_grad for p in model.parameters())
    assert not model(frames()).requires_grad


def test_tokens_carry_everything_that_the_embedding_needs():
    model = encoder()
    ids = model.tokenize(frames())
    assert ids.shape == (3, 64)
    assert torch.equal(model(frames()), model.from_tokens(ids))


def test_tensors_and_arrays_of_any_size_and_any_batch_give_the_same():
    model = encoder()
    assert torch.equal(model(frames()), model(torch.from_numpy(frames())))
    torch.testing.assert_close(model(frames())[1:2], model(frames()[1:2]))
    assert model(frames(side=200)).shape == (3, 16)


def test_features_of_layers_match_encoders_of_those_layers():
    shallow, deep = encoder().features(frames(), (0, 3))
    torch.testing.assert_close(shallow, encoder(layer=0).features(frames())[0])
    torch.testing.assert_close(deep, encoder(layer=3).features(frames())[0])
    torch.testing.assert_close(deep.square().mean(-1), torch.ones(3, 64), atol=1e-3, rtol=0)


def test_clip_has_an_embedding_for_each_frame_of_it_and_of_those_before():
    model = encoder(pool="grid2")
    clips = frames(6).reshape(3, 2, 70, 70, 3)
    embeddings = model.encode_clip(clips)
    assert embeddings.shape == (3, 2, model.dim)
    torch.testing.assert_close(embeddings[:, 0], model(clips[:, 0]))
    assert (embeddings[:, 1] - model(clips[:, 1])).abs().max() > 1e-3
    other_end = np.stack([clips[:, 0], 255 - clips[:, 1]], axis=1)
    torch.testing.assert_close(model.encode_clip(other_end)[:, 0], embeddings[:, 0])
    with pytest.raises(ValueError, match=r"clips must be uint8 RGB \[b t h w 3\]"):
        model.encode_clip(frames())
    with pytest.raises(ValueError, match=r"t in \[1, 2\], .* got \(1, 3, 64\)"):
        model.encode_clip(frames()[None])


def test_repeated_frame_is_pooled_where_every_token_has_seen_it_all():
    model = Encoder(*parts(), layer=2, pool="mean", repeat_frame=True)
    single = encoder()
    once = frames(2)
    embeddings = model(once)
    twice = single.encode_clip(np.stack([once, once], axis=1))
    torch.testing.assert_close(embeddings, twice[:, 1])
    assert model.fingerprint != single.fingerprint
    # a change at the bottom right moves features at the top left only when the frame is repeated
    changed = once.copy()
    changed[:, -20:, -20:] = 255 - changed[:, -20:, -20:]
    first = [[one.features(f)[0][:, 0] for f in (once, changed)] for one in (model, single)]
    assert (first[0][0] - first[0][1]).abs().max() > 1e-4
    torch.testing.assert_close(first[1][0], first[1][1])
    with pytest.raises(ValueError, match="no stream"):
        model.stream(1)
    with pytest.raises(ValueError, match="not on clips"):
        model.encode_clip(np.stack([once, once], axis=1))
    assert model.untrained().repeat_frame


def test_shipped_encoder_repeats_frames_and_knows_its_frame_rate():
    model = load_encoder("toto-nano", repeat_frame=True)  # golden vectors hold all the same
    assert model.repeat_frame
    assert model.frame_interval_s == 0.1


def test_save_and_load_give_bit_equal_embeddings(tmp_path):
    original = encoder(layer=3, pool="grid2")
    save_encoder(tmp_path / "toto", original.tokenizer, original.transformer, layer=3, pool="grid2")
    loaded = load_encoder(tmp_path / "toto")
    assert (loaded.layer, loaded.pool) == (3, "grid2")
    assert torch.equal(loaded(frames()), original(frames()))
    assert loaded.fingerprint == original.fingerprint
    assert loaded.weights_hash == load_encoder(tmp_path / "toto", layer=1).weights_hash
    assert loaded.fingerprint != load_encoder(tmp_path / "toto", layer=1).fingerprint
    assert load_encoder(tmp_path / "toto", layer=-1, pool="mean").layer == 4
    half = load_encoder(tmp_path / "toto", dtype=torch.bfloat16)
    assert half(frames()).dtype == torch.float32


def test_trained_attention_pool_is_saved_with_the_encoder(tmp_path):
    model = encoder(pool="attention")
    before = model.fingerprint
    optimizer = torch.optim.SGD(model.pooling.parameters(), lr=0.1)
    model(frames()).square().mean().backward()
    optimizer.step()
    assert model.fingerprint != before
    save = {"layer": 2, "pooling": model.pooling}
    save_encoder(tmp_path, model.tokenizer, model.transformer, pool="attention", **save)
    loaded = load_encoder(tmp_path)
    assert torch.equal(loaded(frames()), model(frames()))
    assert loaded.fingerprint == model.fingerprint
    assert load_encoder(tmp_path, pool="mean").dim == 16  # the pool's weights are left alone
    with pytest.raises(ValueError, match="belong to pool 'attention', not to 'mean'"):
        save_encoder(tmp_path, model.tokenizer, model.transformer, pool="mean", **save)


def test_an_untrained_copy_does_not_seed_the_generators_of_gpus(monkeypatch):
    encoders = (encoder(), load_encoder("mae-nano"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU is seeded"))
    for one in encoders:
        one.untrained(seed=1)


def test_untrained_encoders_of_commands_have_the_device_and_precision_that_are_set():
    random = RandomVision(name_or_path="toto-nano", layer=1, pool="mean", seed=0)
    made = build_toto(random, "auto", torch.bfloat16)
    assert made.transformer.embed_tokens.weight.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="int8 weights are only for trained encoders"):
        build_toto(random, "cpu", torch.int8)


@pytest.mark.parametrize("setting", ["heads=4", "image_size=64", "statistics=half"])
def test_settings_of_published_files_are_refused_for_checkpoints(setting, tmp_path):
    clips = Path(__file__).parents[2] / "clips"
    words = f"images={clips} out={tmp_path}/out.npy encoder=mae_nano encoder.{setting}"
    done = run("toto_robot.encode", words)
    assert f"{setting.partition('=')[0]} can be used only with format=" in done.err


def test_an_untrained_copy_has_other_weights_and_the_same_shape():
    model = encoder(pool="grid2")
    state = torch.get_rng_state()
    control = model.untrained(seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert (control.dim, control.layer, control.pool) == (model.dim, model.layer, model.pool)
    assert control.weights_hash != model.weights_hash
    assert control.weights_hash == model.untrained(seed=1).weights_hash
    assert not torch.equal(control(frames()), model(frames()))


@pytest.mark.parametrize("name", ["toto-nano", "mae-nano"])
def test_autocast_and_the_default_dtype_do_not_change_an_encoder(name):
    model = load_encoder(name)
    embeddings, codes = model(frames(2)), model.compress(frames(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(frames(2)), embeddings)
        np.testing.assert_array_equal(model.compress(frames(2)), codes)
        assert torch.equal(load_encoder(name)(frames(2)), embeddings)
    torch.set_default_dtype(torch.float64)
    try:
        again = load_encoder(name)
        assert again.fingerprint == model.fingerprint
        assert torch.equal(again(frames(2)), embeddings)
        assert again.untrained().fingerprint == model.untrained().fingerprint
        with pytest.raises(ValueError, match="layer 99"):
            load_encoder(name, layer=99)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_autocast_does_not_change_a_stream():
    model = encoder()
    plain = model.stream(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model.stream(3)
        steps = [inside.step(frames(seed=seed)) for seed in (0, 1)]
    for seed, step in enumerate(steps):
        assert torch.equal(step, plain.step(frames(seed=seed)))


def test_impossible_dtypes_are_named():
    with pytest.raises(
        ValueError, match=r"unknown dtype torch\.int64; possible: float32, float16, "
    ):
        load_encoder("toto-nano", dtype=torch.int64)
    with pytest.raises(ValueError, match=r"int8 are for Totos .*; possible dtypes: float32, "):
        load_encoder("mae-nano", dtype="int8")


def test_unknown_names_layers_and_pools_list_what_exists(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown encoder 'toto-huge': neither a shipped name \(.*\) nor"
    ):
        load_encoder("toto-huge")
    with pytest.raises(ValueError, match=r"layer 9 does not exist; 0 \(embedding\) to 4"):
        encoder(layer=9)
    with pytest.raises(
        ValueError, match=r"unknown pool 'max'; known: mean, last, attention, attention<q>"
    ):
        encoder(pool="max")
    with pytest.raises(ValueError, match="3 does not divide the frame's 8 x 8 tokens"):
        encoder(pool="grid3")
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_encoder(tmp_path)


def test_damaged_checkpoints_are_named(tmp_path):
    save_encoder(tmp_path / "toto", *parts(), layer=2, pool="mean")
    file = tmp_path / "toto" / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged or was replaced"):
        load_encoder(tmp_path / "toto")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors is missing"):
        load_encoder(tmp_path / "toto")
    config = tmp_path / "toto" / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps(data | {"kind": "policy"}))
    with pytest.raises(ValueError, match="holds a 'policy' checkpoint, needed 'encoder'"):
        load_encoder(tmp_path / "toto")
    config.write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(ValueError, match="format 99; this version reads 1"):
        load_encoder(tmp_path / "toto")
    config.write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        load_encoder(tmp_path / "toto")
    shutil.rmtree(tmp_path / "toto")
    with pytest.raises(ValueError, match="unknown encoder"):
        load_encoder(tmp_path / "toto")


def test_saving_again_replaces_the_checkpoint_and_leaves_nothing_aside(tmp_path):
    for seed in (0, 1):
        save_encoder(tmp_path / "toto", *parts(seed), layer=2, pool="mean")
    assert (
        load_encoder(tmp_path / "toto").weights_hash
        == Encoder(*parts(1), layer=2, pool="mean").weights_hash
    )
    assert [path.name for path in tmp_path.iterdir()] == ["toto"]


@pytest.mark.parametrize(
    "ids",
    [torch.full((1, 64), 8192), torch.full((1, 64), -1), torch.zeros(1, 63, dtype=torch.long)],
)
def test_ids_that_no_tokenizer_made_are_refused(ids):
    with pytest.raises(ValueError, match=r"ids must (be in \[0, 8192\)|have shape \[b 64\])"):
        encoder().from_tokens(ids)


@pytest.mark.parametrize("pool", ["mean", "last", "attention", "grid2"])
def test_no_frames_give_no_embeddings(pool):
    model = encoder(pool=pool)
    assert model(frames(count=0)).shape == (0, model.dim)
