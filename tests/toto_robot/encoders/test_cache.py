"""The feature cache: the encoder's own bits, several processes, a bound, and kills."""

import copy
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import textwrap
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv

from toto_robot import Encoder, TotoObservation
from toto_robot.encoders.cache import FILE, CachedEncoder, FeatureCache
from toto_robot.encoders.contract import FrameEmbedder
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig

BYTES = 1 << 20
SMALL = 4096 * (16 + 32 * 5)  # the least that is allowed, for embeddings of less than a page


def parts(seed=0):
    torch.manual_seed(seed)
    tokenizer = LightConfig(
        image_size=64, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
        decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    transformer = TotoConfig(
        codes=8192, dim=16, layers=2, heads=2, mlp_hidden=24, tie_embeddings=True,
        tokens_per_frame=64, frames=2, rope_base=10000.0, norm_eps=1e-5,
    )  # fmt: skip
    return tokenizer.build(), transformer.build()


def toto(seed=0, layer=1, pool="mean"):
    return Encoder(*parts(seed), layer=layer, pool=pool)


def frames(count=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)


class Counting:
    """An encoder that counts what it is asked to encode; its embedding is the frame's own start."""

    image_size, training = 8, False

    def __init__(self, dim=4, fingerprint="one"):
        self.dim, self.fingerprint, self.encoded = dim, fingerprint, 0

    def __call__(self, frames):
        self.encoded += len(frames)
        return frames.flatten(1)[:, : self.dim].float() / 7


class Linear(Counting):
    """An encoder whose matrix product `torch.autocast` would compute in less precision."""

    def __call__(self, frames):
        return super().__call__(frames) @ torch.linspace(0.1, 0.9, self.dim**2).view(4, 4)


class Still(gymnasium.Env):
    """An environment that shows one image."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        return {"image_eye": frames(1)[0]}, {}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_hits_and_misses_are_the_encoders_bits_in_the_stored_precision(tmp_path, dtype):
    encoder, pictures = toto(), frames()
    expected = encoder(pictures).to(getattr(torch, dtype)).float()
    cache = FeatureCache(tmp_path, encoder, BYTES, dtype)
    missed, hit = cache(pictures), cache(pictures)
    assert torch.equal(missed, expected)
    assert torch.equal(hit, expected)
    assert hit.dtype == torch.float32
    assert (cache.misses, cache.hits) == (3, 3)
    again = FeatureCache(tmp_path, encoder, BYTES, dtype)
    assert torch.equal(again(torch.from_numpy(pictures)), expected)
    assert again.misses == 0


def test_only_misses_are_encoded_each_once(tmp_path):
    encoder = Counting()
    cache = FeatureCache(tmp_path, encoder, BYTES)
    pictures = frames(4)
    cache(pictures[:2])
    result = cache(pictures[[0, 2, 2, 3, 1, 3]])
    assert encoder.encoded == 4
    assert torch.equal(result, encoder(torch.from_numpy(pictures[[0, 2, 2, 3, 1, 3]])))
    assert cache(pictures[:0]).shape == (0, 4)


def test_what_made_the_embedding_is_part_of_the_key(tmp_path):
    pictures = frames(1)
    makers = [
        toto(), toto(layer=2), toto(pool="last"), toto(pool="grid2"), toto(seed=1),
        toto().to(torch.bfloat16),
    ]  # fmt: skip
    for maker in makers:
        cache = FeatureCache(tmp_path, maker, BYTES)
        assert torch.equal(cache(pictures), maker(pictures))
        assert cache.hits == 0
    half = FeatureCache(tmp_path, toto(), BYTES, "float16")
    half(pictures)
    assert half.hits == 0
    assert len(half) == len(makers) + 1
    # the same numbers in another shape are another picture
    cache = FeatureCache(tmp_path, toto(), BYTES)
    cache(pictures.reshape(1, 24, 20, 3))
    assert cache.hits == 0
    changed = pictures.copy()
    changed[0, -1, -1, -1] ^= 1
    cache(changed)
    assert cache.hits == 0


def test_a_trained_pool_has_its_own_embeddings_and_training_is_refused(tmp_path):
    encoder, pictures = toto(pool="attention"), frames(1)
    cache = FeatureCache(tmp_path, encoder, BYTES)
    before = cache(pictures)
    with torch.no_grad():
        encoder.pooling.values.weight.mul_(2)
    assert torch.allclose(cache(pictures), 2 * before, rtol=1e-5)
    encoder.train()
    with pytest.raises(ValueError, match=r"encoder\.eval"):
        cache(pictures)


def test_it_takes_an_encoders_place(tmp_path):
    class Camera(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {"image_hand": gymnasium.spaces.Box(0, 255, (20, 24, 3), np.uint8)}
        )
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return {"image_hand": frames(1)[0]}, {}

    encoder = toto()
    cache = FeatureCache(tmp_path, encoder, BYTES)
    assert isinstance(cache, FrameEmbedder)
    env = TotoObservation(Camera(), cache)
    for _ in range(2):
        observation, _ = env.reset()
        assert np.array_equal(observation["embedding_hand"], encoder(frames(1))[0].numpy())
    assert (cache.misses, cache.hits) == (1, 1)


def size(folder):
    return (folder / FILE).stat().st_size


def test_the_bound_is_kept_and_the_oldest_goes_first(tmp_path):
    encoder = Counting(dim=256)
    cache = FeatureCache(tmp_path, encoder, SMALL)
    for seed in range(400):
        cache(frames(3, seed))
        assert cache.num_bytes <= SMALL
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    assert SMALL * 3 / 4 < size(tmp_path) <= SMALL
    assert cache.hits == 0
    cache(frames(3, 399))
    assert cache.hits == 3
    cache(frames(3, 0))
    assert cache.hits == 3
    again = FeatureCache(tmp_path, encoder, SMALL)
    assert len(cache) == len(again) > 300
    again(frames(3, 0))
    assert again.hits == 3


def test_more_than_fits_in_one_call_is_answered_and_kept_within_the_bound(tmp_path):
    cache = FeatureCache(tmp_path, Counting(dim=256), SMALL)
    expected = Counting(dim=256)(torch.from_numpy(frames(900)))
    assert torch.equal(cache(frames(900)), expected)
    assert cache.num_bytes <= SMALL
    assert len(cache) < 900


def test_another_process_eviction_is_survived(tmp_path):
    one = FeatureCache(tmp_path, Counting(dim=256), SMALL)
    two = FeatureCache(tmp_path, Counting(dim=256), SMALL)
    expected = one(frames(3))
    assert torch.equal(two(frames(3)), expected)
    assert two.hits == 3
    for seed in range(1, 400):
        two(frames(3, seed))
    assert torch.equal(one(frames(3)), expected)
    assert one.misses == 6
    two(frames(3, 1000))
    one(frames(3, 1000))
    assert one.hits == 3


def test_a_damaged_record_is_encoded_again(tmp_path):
    FeatureCache(tmp_path, Counting(), BYTES)(frames(3))
    with sqlite3.connect(tmp_path / FILE) as database:
        ((value,),) = database.execute("SELECT value FROM embeddings WHERE number = 2").fetchall()
        changed = bytes([value[0] ^ 255]) + value[1:]
        database.execute("UPDATE embeddings SET value = ? WHERE number = 2", (changed,))
    database.close()
    cache = FeatureCache(tmp_path, Counting(), BYTES)
    for _ in range(2):
        assert torch.equal(cache(frames(3)), Counting()(torch.from_numpy(frames(3))))
    assert (cache.misses, cache.hits) == (1, 5)
    assert len(cache) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_cache_that_was_open_serves_on_both_sides_of_a_fork(tmp_path):
    cache = FeatureCache(tmp_path, Counting(), BYTES)
    cache(frames(3))

    def work():
        cache(frames(3))  # found
        cache(frames(2, 1))
        os._exit(cache.misses)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == 5
    cache(frames(2, 1))
    assert (cache.misses, cache.hits) == (3, 2)


@pytest.mark.parametrize("kind", [FeatureCache, CachedEncoder])
def test_copies_use_the_same_folder_also_in_a_process_that_is_spawned(tmp_path, kind):
    cache = kind(tmp_path, toto(), BYTES)
    expected = cache(frames(3))
    for made in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert torch.equal(made(frames(3)), expected)
        assert (made.misses, made.hits) == (3, 3)
        del made  # and closes only its own connection
    space = gymnasium.spaces.Dict(
        {"image_eye": gymnasium.spaces.Box(0, 255, (20, 24, 3), np.uint8)}
    )
    env = TotoObservation(Still(space), cache)
    spawned = AsyncVectorEnv([partial(copy.copy, env)], context="spawn")
    try:
        observation, _ = spawned.reset()
    finally:
        spawned.close()
    np.testing.assert_array_equal(observation["embedding_eye"][0], expected[0].numpy())
    assert torch.equal(cache(frames(3)), expected)


def test_autocast_does_not_change_what_is_stored(tmp_path):
    encoder = toto()
    cache, other = (FeatureCache(tmp_path / one, encoder, BYTES) for one in "ab")
    linear = Linear()
    plain = FeatureCache(tmp_path / "c", linear, BYTES)
    expected, own = encoder(frames()), linear(torch.from_numpy(frames()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(linear(torch.from_numpy(frames())).float(), own)
        assert torch.equal(cache(frames()), expected)
        assert torch.equal(plain(frames()), own)
    assert torch.equal(other(frames()), expected)


WRITER = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_cache import Counting, FeatureCache, frames
    cache = FeatureCache(Path({folder!r}), Counting(dim=64), {small})
    print("ready", flush=True)
    seed = int(sys.argv[1])
    while seed < int(sys.argv[2]):
        cache(frames(4, seed % 40))
        seed += 1
    print(cache.hits, cache.misses)
"""


def writer(folder, first, last):
    code = textwrap.dedent(WRITER).format(
        tests=os.path.dirname(__file__), folder=str(folder), small=SMALL
    )
    command = [sys.executable, "-c", code, str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def check(folder):
    """Everything that is found is right, and the bound was kept."""
    cache = FeatureCache(folder, Counting(dim=64), SMALL)
    assert cache.num_bytes <= SMALL
    for seed in range(40):
        expected = Counting(dim=64)(torch.from_numpy(frames(4, seed)))
        assert torch.equal(cache(frames(4, seed)), expected)
    return cache


@pytest.mark.slow
def test_two_processes_write_at_once(tmp_path):
    both = [writer(tmp_path, 0, 200), writer(tmp_path, 20, 220)]
    assert [process.wait(60) for process in both] == [0, 0]
    for process in both:
        process.stdout.close()
    assert check(tmp_path).hits > 0


@pytest.mark.slow
def test_killed_processes_leave_nothing_broken(tmp_path):
    for turn in range(3):
        victim = writer(tmp_path, turn, 10**9)
        assert victim.stdout.readline() == "ready\n"
        try:
            victim.wait(0.1 + 0.07 * turn)
        except subprocess.TimeoutExpired:
            victim.send_signal(signal.SIGKILL)
        assert victim.wait(10) == -signal.SIGKILL
        victim.stdout.close()
        check(tmp_path)


def test_many_caches_in_threads_of_one_folder_agree(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def work(first):
        cache = FeatureCache(tmp_path, Counting(dim=64), SMALL)
        for seed in range(first, first + 40):
            expected = Counting(dim=64)(torch.from_numpy(frames(4, seed % 40)))
            assert torch.equal(cache(frames(4, seed % 40)), expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (0, 10, 20, 30)))
    check(tmp_path)


def test_wrong_arguments_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="float32 or float16"):
        FeatureCache(tmp_path, Counting(), BYTES, "int8")
    with pytest.raises(ValueError, match="max_bytes must hold 32 embeddings"):
        FeatureCache(tmp_path, Counting(), SMALL - 1)
    with pytest.raises(ValueError, match="uint8"):
        FeatureCache(tmp_path, Counting(), BYTES)(frames(1).astype(np.float32))
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ValueError, match="format 99; this version reads 2"):
        FeatureCache(tmp_path, Counting(), BYTES)


def test_what_is_no_cache_of_this_version_is_refused(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "cache.json").write_text('{"kind": "feature cache", "format": 1}')
    with pytest.raises(ValueError, match=r"format 1.*delete it"):
        FeatureCache(tmp_path / "one", Counting(), BYTES)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(ValueError, match=r"features.sqlite cannot be opened .*, delete it"):
        FeatureCache(tmp_path / "two", Counting(), BYTES)
