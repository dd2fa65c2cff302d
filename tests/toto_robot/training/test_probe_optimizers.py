"""LARS and SGD beside AdamW: rules of peers, resumption, and the settings `probe=mae`, `dino`."""

import math
import shutil

import cv2
import numpy as np
import pytest
import torch

from tests.command_lines import run
from tests.toto_robot.tiny import tiny_engine
from toto_robot.cli import compose
from toto_robot.config import from_dict, to_dict
from toto_robot.probing.heads import BatchNormHead, LayerHeads
from toto_robot.recognition.imagenet import ImageNetConfig
from toto_robot.training.engine import Phase, fit
from toto_robot.training.optimizer import LarsConfig, OptimizerConfig, SgdConfig, build_optimizer
from toto_robot.training.parallel import Ranks

RANKS = Ranks(rank=0, world=1, device=torch.device("cpu"), mesh=None)
SCHEDULE = {"warmup_steps": 2, "final_lr_fraction": 0.0, "clip_norm": math.inf}
LARS = LarsConfig(lr=0.8, momentum=0.9, trust=0.01, weight_decay=0.1, **SCHEDULE)
SGD = SgdConfig(lr=0.1, momentum=0.9, weight_decay=0.01, **SCHEDULE)


def slow_lars(weights, gradients, rates, momentum, trust, decay):
    """LARS of MAE's util/lars.py, number by number, for one parameter."""
    velocity = np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        change = gradient.copy()
        if weights.ndim > 1:
            change = change + decay * weights
            size, length = (math.sqrt(float((one**2).sum())) for one in (weights, change))
            if size > 0 and length > 0:
                change = change * trust * size / length
        velocity = momentum * velocity + change
        weights = weights - rate * velocity
    return weights


@pytest.mark.parametrize("shape", [(3, 4), (5,)])
@pytest.mark.parametrize("zero", [False, True])
def test_lars_equals_a_slow_version(shape, zero):
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape) * (not zero)
    gradients = rng.normal(size=(6, *shape))
    gradients[2] = 0
    rates = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = build_optimizer(module, LARS)
    for gradient, rate in zip(gradients, rates, strict=True):
        module.weight.grad = torch.from_numpy(gradient.copy())
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    expected = slow_lars(start, gradients, rates, LARS.momentum, LARS.trust, LARS.weight_decay)
    np.testing.assert_allclose(module.weight.detach().numpy(), expected, rtol=1e-12)


def test_the_update_of_lars_does_not_depend_on_the_scale_of_the_gradient():
    weights = []
    for scale in (1.0, 1000.0):
        module = torch.nn.Linear(4, 3, bias=False)
        torch.nn.init.ones_(module.weight)
        optimizer = build_optimizer(module, LARS)
        module.weight.grad = scale * torch.arange(12.0).reshape(3, 4) - 10 * scale
        weights.append((optimizer.step(), module.weight.detach().clone())[1])
    assert not torch.allclose(weights[0], torch.ones(3, 4), atol=1e-3)
    torch.testing.assert_close(*weights, atol=2e-4, rtol=0)  # the decay is not scaled


@pytest.mark.parametrize("settings", [LARS, SGD])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, settings, monkeypatch):
    """The momentum and the running averages of the batch norm are in the checkpoints."""
    # the passes that estimate the time change no running average
    monkeypatch.setattr("toto_robot.training.engine.ESTIMATED_FROM", 1)

    def rows(first, count):
        numbers = torch.arange(first, first + count)
        generator = torch.Generator().manual_seed(first)
        features = torch.randn(count, 2, 1, 6, generator=generator)
        features[:, :, 0, 0] += 3.0 * (numbers % 2)[:, None]
        return features, numbers % 2

    phase = Phase(steps=8, batch=8, part=8, rows=rows, tokens_per_row=1, flops_per_row=1.0)

    def train(out):
        torch.manual_seed(0)
        heads = LayerHeads("batch_norm_linear", 2, 6, 2)
        return fit(heads, [phase], settings, tiny_engine(), out, RANKS, title="loss").weights

    whole = train(tmp_path / "whole")
    train(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/checkpoints/step-0000008")  # as if it had been killed
    again = train(tmp_path / "out")
    assert whole.keys() == again.keys()
    assert any("running_mean" in name for name in whole)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert float(whole["layers.0.norm.running_mean"][0]) > 0.5


def test_a_batch_norm_head_standardises_each_feature_without_weights():
    head = BatchNormHead(5, 3)
    features = torch.randn(64, 4, 5) * torch.arange(1.0, 6.0) + 7
    means = features.mean(1)
    scaled = (means - means.mean(0)) / (means.var(0, unbiased=False) + 1e-6).sqrt()
    expected = scaled @ head.classifier.weight.T
    torch.testing.assert_close(head(features), expected, atol=1e-5, rtol=1e-4)
    assert {name for name, _ in head.named_parameters()} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    torch.testing.assert_close(head.eval()(features[:1]), head(features)[:1])  # not of the batch


@pytest.mark.parametrize(
    ("name", "kind", "head", "rate"),
    [("mae", LarsConfig, "batch_norm_linear", 6.4), ("dino", SgdConfig, "linear", 0.004)],
)
def test_the_protocols_of_peers(name, kind, head, rate):
    config = from_dict(ImageNetConfig, compose("imagenet", [f"probe={name}"])[0])
    optimizer = config.probe.optimizer
    assert isinstance(optimizer, kind)
    assert (config.probe.head, optimizer.lr, optimizer.weight_decay) == (head, rate, 0)
    assert optimizer.momentum == 0.9
    assert from_dict(kind, to_dict(optimizer)) == optimizer
    assert isinstance(
        from_dict(ImageNetConfig, compose("imagenet", ["probe=small"])[0]).probe.optimizer,
        OptimizerConfig,
    )


def test_a_batch_norm_head_needs_two_examples_in_a_pass():
    data, _ = compose("imagenet", ["probe=mae", "probe.part=1"])
    with pytest.raises(ValueError, match="needs a part of at least 2 examples"):
        from_dict(ImageNetConfig, data)


@pytest.mark.parametrize("probe", ["mae", "dino"])
def test_imagenet_trains_with_the_protocol_of_a_peer(tmp_path, probe):
    rng = np.random.default_rng(0)
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            image = rng.integers(60 * number, 60 * number + 60, (32, 32, 3), np.uint8)
            cv2.imwrite(str(tmp_path / f"data/{name}/{i}.png"), image)
    more = "probe.batch=14 probe.part=14 probe.epochs=30 probe.optimizer.warmup_steps=0 splits=1"
    more += " engine.log_every=100 probe.optimizer.lr=0.5"
    done = run(
        "toto_robot.recognition.imagenet",
        f"data={tmp_path}/data encoder=none probe={probe} out={tmp_path}/out {more}",
    )
    assert done.code == 0, done.err
    assert float(done.out.split("\n       0  ")[1].split()[0]) > 0.9
