from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.demonstrations import features
from policies.demonstrations.features import Dataset, FeatureCache
from policies.demonstrations.store import StoreHeader, create_store
from policies.vision import EpisodeEmbedder, embed_episode
from tests.policies.demonstrations.episodes import make_episode
from tests.policies.fake_world import ENV_ID, ReachEnv, embed_all, save_tiny_encoder, toto
from toto_robot import StreamConfig, load_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny"))


@pytest.fixture
def store(tmp_path, encoder):
    header = StoreHeader(
        env=ENV_ID,
        interface=ReachEnv().interface,
        tokenizer_hash=encoder.codes.fingerprint,
        tokens_per_frame=16,
    )
    store = create_store(tmp_path / "store", header)
    for index, steps in enumerate((3, 20)):
        store.append(make_episode(steps=steps, seed=index))
    return store


def test_embeddings_are_those_of_the_encoder_and_computed_once(store, encoder, monkeypatch):
    first = FeatureCache(store, encoder).get(1)
    expected = embed_all(encoder, store[1].tokens)
    assert first.dtype == np.float16
    assert first.shape == (21, 1, encoder.dim)
    np.testing.assert_allclose(first, expected, rtol=2e-3, atol=1e-3)

    def never(*_):
        raise AssertionError("encoded twice")

    monkeypatch.setattr(features, "embed_episode", never)
    assert np.array_equal(FeatureCache(store, encoder).get(1), first)


def test_two_processes_may_write_one_embedding_at_once(store, encoder, monkeypatch):
    """As the cells of a study that share the demonstrations: one begins while the other writes."""
    save, features_of = np.save, np.zeros((4, 1, encoder.dim), np.float16)

    def save_twice(file, array):
        monkeypatch.undo()
        FeatureCache(store, encoder).put(0, array)
        save(file, array)

    monkeypatch.setattr(np, "save", save_twice)
    cache = FeatureCache(store, encoder)
    cache.put(0, features_of)
    assert np.array_equal(cache.get(0), features_of)
    assert len([*store.folder.glob("features-*/.*")]) == 0


def test_streamed_eyes_remember_each_camera_of_one_episode(tmp_path, encoder):
    streamed = replace(toto(save_tiny_encoder(tmp_path / "tiny")), stream=StreamConfig(context=3))
    eyes = streamed.build(torch.device("cpu"))
    tokens = np.random.default_rng(0).integers(0, 8192, (6, 2, 16), np.uint16)
    embedded = embed_episode(eyes, tokens)
    assert embedded.shape == (6, 2, eyes.dim)
    for camera in range(2):
        stream = encoder.stream(1, 3)
        for step in range(6):
            ids = torch.from_numpy(tokens[step, camera].astype(np.int64))[None]
            expected = stream.step_tokens(ids)[0].numpy()
            np.testing.assert_allclose(embedded[step, camera], expected, rtol=2e-3, atol=1e-3)
    assert np.abs(embedded[5] - embed_all(encoder, tokens[5])).max() > 0.05
    embedder = EpisodeEmbedder(eyes, 3, 2)  # episodes 0 and 2; the last comes late and alone
    embedder.embed(np.stack([tokens[0], tokens[3]]), [0, 2])
    np.testing.assert_allclose(embedder.embed(tokens[None, 1], [0])[0], embedded[1], atol=1e-3)


def test_another_past_is_another_encoder(tmp_path, encoder):
    folder = save_tiny_encoder(tmp_path / "tiny")
    prints = {encoder.fingerprint}
    for changes in (
        {"repeat_frame": True},
        {"stream": StreamConfig(context=2)},
        {"stream": StreamConfig(context=2, mode="staggered")},
        {"stream": StreamConfig(context=2, frame_skip=3)},
    ):
        eyes = replace(toto(folder), **changes).build(torch.device("cpu"))
        assert eyes.weights_hash == encoder.weights_hash
        prints.add(eyes.fingerprint)
    assert len(prints) == 5
    same = replace(toto(folder), stream=StreamConfig(context=2, camera_hz=10.0))
    assert same.build(torch.device("cpu")).fingerprint in prints


def test_another_layer_or_pool_has_a_cache_of_its_own(store, encoder, tmp_path):
    FeatureCache(store, encoder).get(0)
    other = load_encoder(save_tiny_encoder(tmp_path / "tiny"), layer=2, pool="mean")
    assert other.fingerprint != encoder.fingerprint
    assert FeatureCache(store, other).get(0).shape == (4, 1, 16)
    assert len(list(store.folder.glob("features-*"))) == 2


def test_a_damaged_cache_file_is_named(store, encoder):
    cache = FeatureCache(store, encoder)
    cache.get(0)
    (path,) = store.folder.glob("features-*/000000.npy")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"000000\.npy is damaged"):
        cache.get(0)


def test_a_dataset_pairs_each_observation_with_its_label(store, encoder, tmp_path):
    data = Dataset([store], encoder, 2**30, tmp_path / "scratch.npy")
    assert len(data) == 23
    assert not (tmp_path / "scratch.npy").exists()
    cache = FeatureCache(store, encoder)
    assert np.array_equal(data.embeddings[3:].numpy(), cache.get(1)[:-1])
    assert np.array_equal(data.labels[3:].numpy(), store[1].labels)
    assert np.array_equal(data.proprio[:3].numpy(), store[0].proprio[:-1])


def test_beyond_the_memory_limit_embeddings_lie_in_a_file(store, encoder, tmp_path):
    in_memory = Dataset([store, store], encoder, 2**30, tmp_path / "scratch.npy")
    in_file = Dataset([store, store], encoder, 1000, tmp_path / "scratch.npy")
    assert (tmp_path / "scratch.npy").stat().st_size > 46 * 256 * 2
    assert torch.equal(in_memory.embeddings, in_file.embeddings)


def test_the_blind_have_embeddings_of_no_width(tmp_path):
    interface = ReachEnv(cameras=()).interface
    header = StoreHeader(env=ENV_ID, interface=interface, tokenizer_hash=None, tokens_per_frame=0)
    store = create_store(tmp_path / "store", header)
    store.append(make_episode(cameras=0, tokens=0))
    data = Dataset([store], None, 2**30, tmp_path / "scratch.npy")
    assert data.embeddings.shape == (3, 0, 0)
    assert not list(store.folder.glob("features-*"))


def test_nothing_to_learn_from_is_told(tmp_path, encoder):
    header = StoreHeader(
        env=ENV_ID, interface=ReachEnv().interface, tokenizer_hash="a", tokens_per_frame=16
    )
    with pytest.raises(ValueError, match="no demonstrations"):
        Dataset([create_store(tmp_path / "empty", header)], encoder, 10, tmp_path / "scratch.npy")
