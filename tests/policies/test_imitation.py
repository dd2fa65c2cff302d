from types import SimpleNamespace

import numpy as np
import pytest
import torch

from policies.imitation import ImitationConfig, fit
from policies.student import StudentPolicy
from tests.policies.fake_world import card
from toto_robot.training.run import OptimizerConfig

CONFIG = ImitationConfig(
    optimizer=OptimizerConfig(
        lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, warmup_steps=5, final_lr_fraction=0.0,
        clip_norm=1.0,
    ),
    batch=32,
    steps=80,
    last_steps=80,
    log_every=30,
)  # fmt: skip


class Data(SimpleNamespace):
    """A law to learn: the action is the proprioception's first two numbers, halved."""

    def __init__(self):
        proprio = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 3))).float()
        super().__init__(
            embeddings=torch.zeros(500, 0, 0, dtype=torch.float16),
            proprio=proprio,
            labels=0.5 * proprio[:, :2],
        )

    def __len__(self):
        return 500


def student(dropout=0.0):
    torch.manual_seed(0)
    return StudentPolicy(card(None, dropout=dropout))


def test_it_learns_and_logs_the_mean_of_each_stretch():
    told = []
    losses = fit(
        student(), Data(), CONFIG, 80, (0, 1), lambda step, loss: told.append((step, loss))
    )
    assert [step for step, _ in told] == [30, 60, 80]
    assert [loss for _, loss in told] == losses
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_seed_gives_the_same_student_to_the_bit(dropout):
    one, two, other = student(dropout), student(dropout), student(dropout)
    fit(one, Data(), CONFIG, 20, (0, 1))
    torch.rand(7)  # what others draw does not matter
    fit(two, Data(), CONFIG, 20, (0, 1))
    fit(other, Data(), CONFIG, 20, (0, 2))
    weights = [list(network.state_dict().values()) for network in (one, two, other)]
    assert all(map(torch.equal, weights[0], weights[1]))
    assert not all(map(torch.equal, weights[0], weights[2]))


def test_the_global_generator_is_left_alone():
    network = student()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit(network, Data(), CONFIG, 3, (0,))
    assert torch.equal(torch.rand(1), expected)


def test_it_is_frozen_afterwards():
    network = student(0.3)
    fit(network, Data(), CONFIG, 3, (0,))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
