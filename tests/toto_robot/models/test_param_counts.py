"""The sizes of all named models, of which nothing is allocated, and what a token costs them."""

from pathlib import Path

import pytest
import torch
import yaml

from toto_robot.config import from_dict
from toto_robot.models import ModelConfig, TotoConfig, count_parameters, model_flops

CONFIGS = Path(__file__).parents[3] / "toto_robot" / "configs" / "model"

# millions: the paper's Tables 1, 6 and 15, and ours
SIZES = {
    "base": (120, 0.01),
    "large": (280, 0.015),
    "1b": (1100, 0.05),
    "gpt2_large": (280, 0.015),
    "mamba_large": (290, 0.01),
    "a1": (14.8, 0.01),
    "a2": (77.2, 0.01),
    "a3": (215, 0.01),
    "a4": (458, 0.01),
    "a5": (1200, 0.03),
    "a6": (1900, 0.03),
    "nano": (2.755, 0.001),
    "gpt2_nano": (2.755, 0.02),
    "mamba_nano": (2.755, 0.02),
}


def read(name):
    return from_dict(ModelConfig, yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))


def test_every_named_size_is_listed():
    named = {path.stem for path in CONFIGS.glob("*.yaml") if "\nkind:" in path.read_text()}
    assert named == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_named_sizes_have_the_published_parameter_counts(name):
    published, tolerance = SIZES[name]
    config = read(name)
    assert count_parameters(config) == pytest.approx(published * 1e6, rel=tolerance)
    assert config.context == 4098  # start, 16 frames of 256 tokens, end


def test_the_three_architectures_are_matched():
    counts = [count_parameters(read(name)) for name in ("large", "gpt2_large", "mamba_large")]
    assert max(counts) / min(counts) < 1.05


@pytest.mark.parametrize(("name", "expected"), [("base", 0.94e9), ("1b", 7.99e9)])
def test_operations_of_a_token_are_those_of_the_cost_model(name, expected):
    assert model_flops(read(name), 16) == pytest.approx(expected, rel=0.01)


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = read("nano")
    assert isinstance(config, TotoConfig)
    ids = torch.zeros(1, 257, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        config.build()(ids).sum().backward()
    attention = 6 * config.layers * config.dim * 257  # which torch does not count on a CPU
    found = counter.get_total_flops() / 257
    assert found == pytest.approx(model_flops(config, 1) - attention, rel=1e-3)
