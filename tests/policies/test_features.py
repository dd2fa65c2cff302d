import numpy as np
import pytest
import torch

from policies import features
from policies.features import Dataset, FeatureCache
from policies.store import StoreHeader, create_store
from policies.vision import embed, tokenizer_hash
from tests.policies.episodes import make_episode
from tests.policies.fake_world import ENV_ID, ReachEnv, save_tiny_encoder
from toto_robot import load_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny"))


@pytest.fixture
def store(tmp_path, encoder):
    header = StoreHeader(
        env=ENV_ID,
        interface=ReachEnv().interface,
        tokenizer_hash=tokenizer_hash(encoder),
        tokens_per_frame=16,
    )
    store = create_store(tmp_path / "store", header)
    for index, steps in enumerate((3, 20)):
        store.append(make_episode(steps=steps, seed=index))
    return store


def test_embeddings_are_those_of_the_encoder_and_computed_once(store, encoder, monkeypatch):
    first = FeatureCache(store, encoder).get(1)
    expected = embed(encoder, store[1].tokens)
    assert first.dtype == np.float16
    assert first.shape == (21, 1, encoder.dim)
    np.testing.assert_allclose(first, expected, rtol=2e-3, atol=1e-3)

    def never(*_):
        raise AssertionError("encoded twice")

    monkeypatch.setattr(features, "embed", never)
    assert np.array_equal(FeatureCache(store, encoder).get(1), first)


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
