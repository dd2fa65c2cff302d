"""On a GPU the library computes what it computes on the CPU: encoders, streams, pre-training."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.gpu import GPU
from tests.toto_robot.tiny import tiny_engine, tiny_toto
from tests.toto_robot.training.test_engine import losses, phase, train
from tests.toto_robot.training.test_training import (
    forget_after,
    pretrain_config,
    shards,
    tokenizer_config,
)
from toto_robot import TotoObservation, load_encoder
from toto_robot.encoders.golden import TOLERANCES, verify_golden
from toto_robot.encoders.loading import WEIGHTS
from toto_robot.training.pretrain import pretrain
from toto_robot.training.tokenizer import train_tokenizer

__all__ = ["shards"]  # a fixture
# torch warns of the GPU's own ways (its compiler, TF32), which differ from card to card
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def frames(count, side=140):
    """Return smooth images, as a camera's are: of noise each token would be on an edge."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, side // 20, side // 20, 3), np.uint8)
    return small.repeat(20, axis=1).repeat(20, axis=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_an_encoder_gives_the_embeddings_of_the_cpu(dtype):
    cpu = load_encoder("toto-nano")
    gpu = load_encoder("toto-nano", device=GPU, dtype=dtype)
    allowed = TOLERANCES[dtype, "accelerator"]
    given = frames(24)
    ids = cpu.tokenize(given)
    found = gpu.tokenize(given)
    assert found.device.type == torch.device(GPU).type
    assert (found.cpu() == ids).float().mean() >= allowed.tokens
    expected, embedding = cpu.from_tokens(ids), gpu.from_tokens(ids)
    assert embedding.device.type == torch.device(GPU).type
    assert embedding.dtype == torch.float32
    # grid4 averages fewer tokens than the golden vectors do, so that less of the error is lost
    assert (embedding.cpu() - expected).abs().max() <= 4 * allowed.features
    verify_golden(gpu, WEIGHTS / "toto-nano", layers=range(gpu.num_layers + 1))


def test_a_vision_transformer_gives_the_embeddings_of_the_cpu():
    cpu, gpu = load_encoder("mae-nano"), load_encoder("mae-nano", device=GPU)
    given = frames(8)
    assert (gpu(given).cpu() - cpu(given)).abs().max() < 1e-2


def test_what_a_store_keeps_of_frames_is_that_of_the_cpu():
    cpu, gpu = load_encoder("toto-nano"), load_encoder("toto-nano", device=GPU)
    given = frames(8)
    codes = cpu.compress(given)
    assert (gpu.compress(given) == codes).mean() >= 0.95
    assert gpu.embed(codes).dtype == np.float32
    assert np.abs(gpu.embed(codes) - cpu.embed(codes)).max() < 2e-2
    assert gpu.fingerprint == cpu.fingerprint


@pytest.mark.parametrize("mode", ["rolling", "staggered"])
def test_a_stream_gives_the_embeddings_of_the_cpu_over_episodes_with_resets(mode):
    rng = np.random.default_rng(0)
    streams = [tiny_toto(32).to(device).stream(3, mode=mode) for device in ("cpu", GPU)]
    for step in range(12):  # the window is 4 frames
        ids = torch.from_numpy(rng.integers(0, 8192, (3, 16)))
        reset = rng.random(3) < (1.0 if step == 0 else 0.2)
        expected, found = (stream.step_tokens(ids, reset) for stream in streams)
        assert found.device.type == torch.device(GPU).type
        assert (found.cpu() - expected).abs().max() < 1e-3


def test_a_wrapped_environment_observes_the_embeddings_of_the_cpu():
    class Camera(gymnasium.Env):
        observation_space = spaces.Dict(
            {"image_front": spaces.Box(0, 255, (140, 140, 3), np.uint8)}
        )
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return {"image_front": frames(1)[0]}, {}

    expected, found = (
        TotoObservation(Camera(), load_encoder("toto-nano", device=device)).reset()[0]
        for device in ("cpu", GPU)
    )
    assert found["embedding_front"].dtype == np.float32
    assert np.abs(found["embedding_front"] - expected["embedding_front"]).mean() < 0.1


def test_training_follows_that_of_the_cpu(tmp_path):
    train(tmp_path / "cpu", tiny_engine())
    train(tmp_path / "gpu", tiny_engine(device=GPU))
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), abs=5e-3)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_training_in_bfloat16_learns(compiled, tmp_path):
    engine = tiny_engine(device=GPU, precision="bfloat16", compile=compiled)
    result = train(tmp_path, engine, [phase(steps=60, batch=8, part=8)])
    found = losses(tmp_path)
    assert found[-1] < 1.5 < 3.0 < found[0]
    assert {value.dtype for value in result.weights.values()} == {torch.float32}


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path):
    engine = tiny_engine(device=GPU)
    train(tmp_path, engine)
    whole = losses(tmp_path)
    forget_after(tmp_path, 8)
    train(tmp_path, engine)
    # not to the bit: a GPU may add the gradients of attention in another order
    assert losses(tmp_path) == pytest.approx(whole, abs=5e-3)


def test_pretraining_on_clips_ends_in_an_encoder_that_the_cpu_opens(shards, tmp_path):
    engine = tiny_engine(device=GPU)
    tokenizer = dataclasses.replace(tokenizer_config(shards, 2), device=GPU)
    folder = train_tokenizer(tokenizer, tmp_path / "tokenizer")
    config = dataclasses.replace(pretrain_config(shards, folder), engine=engine)
    encoder = load_encoder(pretrain(config, tmp_path / "toto"))  # held against golden vectors
    assert encoder(frames(2)).shape == (2, encoder.dim)
    assert np.isfinite(losses(tmp_path / "toto")).all()
