import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from policies.learning.fit import ImitationConfig, fit
from policies.student import StudentPolicy
from tests.policies.fake_world import metadata
from toto_robot.training.optimizer import OptimizerConfig, build_optimizer, descend

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
    return StudentPolicy(metadata(None, dropout=dropout))


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


def test_one_action_is_learned_as_ever_to_the_bit():
    """Chunks of one are no other training: the loop of before there were chunks, written out."""
    network, expected = student(0.3), student(0.3)
    fit(network, Data(), CONFIG, 20, (0, 1))
    data = Data()
    optimizer = build_optimizer(expected, CONFIG.optimizer)
    expected.requires_grad_(True).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng((0, 1)).integers(2**31)))
        for step in range(20):
            rows = torch.from_numpy(np.random.default_rng((0, 1, step)).integers(500, size=32))
            predicted = expected(data.embeddings[rows].float(), data.proprio[rows])
            loss = torch.nn.functional.mse_loss(predicted, data.labels[rows])
            lr = CONFIG.optimizer.lr_at(step, 20)
            descend(expected, optimizer, loss, CONFIG.optimizer.clip_norm, lr)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def chunked(chunk):
    plain = metadata(None)
    torch.manual_seed(0)
    return StudentPolicy(
        dataclasses.replace(plain, student=dataclasses.replace(plain.student, chunk=chunk))
    )


def test_a_chunk_is_the_next_labels_of_the_same_episode():
    """Each action is told by the time alone, so what comes next can be learned, too."""
    steps = torch.arange(10.0)
    data = Data()
    data.proprio = torch.stack([steps, steps, steps], 1).repeat(50, 1) / 10
    data.labels = torch.stack([steps, -steps], 1).repeat(50, 1) / 10
    data.ends = (torch.arange(500) // 10 + 1) * 10
    network = chunked(3)
    network.standardise(data.embeddings, data.proprio)
    losses = fit(network, data, CONFIG, 400, (0,))
    assert losses[-1] < 0.02 * losses[0]
    chunk = network.act_chunk({"proprio": np.full(3, 0.4, np.float32)})
    np.testing.assert_allclose(chunk[:, 0], [0.4, 0.5, 0.6], atol=0.04)
    # beyond the end nothing was learned of the next episode's small labels
    assert network.act_chunk({"proprio": np.full(3, 0.8, np.float32)})[1, 0] > 0.7


def test_chunks_need_to_know_where_episodes_end():
    with pytest.raises(ValueError, match="needs data with the attribute `ends`"):
        fit(chunked(2), Data(), CONFIG, 1, (0,))
