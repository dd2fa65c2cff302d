"""The learning-rate sweep: what is trained, what is read from it; with a stand-in for training."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from toto_robot.analyses.lr_sweep import (
    Cell,
    LrSweepConfig,
    best_log2_rate,
    lr_sweep,
    transfer_cost,
)
from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.files import write_json

RATES = (-9.0, -7.0, -5.0, -3.0)


@pytest.fixture
def config():
    data, _ = compose("lr_sweep", ["log2_rates=[-9, -7, -5, -3]", "seeds=[0, 1]"])
    return from_dict(LrSweepConfig, data)


@pytest.fixture
def trained(monkeypatch):
    """Stand in for training, and note what is trained.

    The best rate of the usual models falls with the width, that of muP is 2^-5; rates that are far
    above it diverge.
    """
    members = []

    def train(config, folder):
        members.append(config)
        model, rate = config.model, np.log2(config.optimizer.lr)
        best = -5.0 if model.mup_base_dim else -5.0 - np.log2(model.dim / 32)
        if rate > best + 3.5:
            raise FloatingPointError("too many bad steps in a row")
        row = {"step": 150, "tokens": 1, "loss": 9.0}  # max_minutes can plan fewer steps than 200
        row["validation_loss"] = 5.0 + 0.01 * config.seed + 0.1 * (rate - best) ** 2
        (folder / "log.jsonl").write_text(json.dumps(row) + "\n")
        write_json(folder / "encoder/config.json", {})

    monkeypatch.setattr("toto_robot.analyses.members.pretrain", train)
    return members


def test_every_width_is_trained_with_every_rate_both_ways(config, trained, tmp_path, capsys):
    lr_sweep(config, tmp_path)
    members = {
        (m.model.mup_base_dim, m.model.dim, m.model.mlp_hidden, m.optimizer.lr, m.seed)
        for m in trained
    }
    assert len(members) == len(trained) == 2 * 3 * 4 * 2
    assert {(dim, hidden) for _, dim, hidden, _, _ in members} == {(32, 96), (64, 192), (128, 384)}
    assert {rate for *_, rate, _ in members} == {2.0**rate for rate in RATES}
    with (tmp_path / "lr_sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert [row["loss"] for row in rows if row["parametrisation"] == "muP"].count("inf") == 0
    assert [row["loss"] for row in rows if row["parametrisation"] == "standard"].count("inf") == 2
    printed = capsys.readouterr().out
    # 2^-5 is right for width 32, 2^-7 for 128, where 2^-5 costs 0.1 * 2^2
    assert "standard: from width 32 to 128 the best rate moves by 2^-2.00" in printed
    assert "loses 0.400 nats (0.400 to 0.400)" in printed
    assert "muP: from width 32 to 128 the best rate moves by 2^+0.00" in printed
    assert (tmp_path / "lr_sweep.png").stat().st_size > 0


def test_members_that_ended_are_not_trained_again(config, trained, tmp_path):
    lr_sweep(config, tmp_path)
    before = (tmp_path / "lr_sweep.csv").read_text()
    count = len(trained)
    lr_sweep(config, tmp_path)
    assert len(trained) == count  # those that diverged neither
    assert (tmp_path / "lr_sweep.csv").read_text() == before
    (tmp_path / "members" / "muP-64-rate-5-seed1" / "outcome.json").unlink()
    lr_sweep(config, tmp_path)
    assert len(trained) == count + 1
    other = dataclasses.replace(config.pretrain, validation_sequences=3)
    with pytest.raises(ValueError, match="validation_sequences"):
        lr_sweep(dataclasses.replace(config, pretrain=other), tmp_path)


def test_a_run_that_was_stopped_goes_on(config, trained, tmp_path, monkeypatch, capsys):
    def stopped(config, folder):
        (folder / "log.jsonl").write_text('{"step": 7, "tokens": 1, "validation_loss": 9.0}\n')

    with monkeypatch.context() as patch:
        patch.setattr("toto_robot.analyses.members.pretrain", stopped)
        lr_sweep(config, tmp_path)
    assert "stopped at standard-32-rate-9-seed0" in capsys.readouterr().out
    assert not (tmp_path / "lr_sweep.csv").exists()
    lr_sweep(config, tmp_path)
    assert (tmp_path / "lr_sweep.csv").exists()


def cells_of(losses, dim=8, seed=0):
    return [
        Cell(parametrisation="muP", dim=dim, log2_rate=rate, seed=seed, loss=loss)
        for rate, loss in zip(RATES, losses, strict=True)
    ]


def test_the_best_rate_is_the_lowest_of_a_parabola():
    lowest = -6.2
    losses = [3 + 0.1 * (rate - lowest) ** 2 for rate in RATES]
    assert best_log2_rate(cells_of(losses)) == pytest.approx(lowest)
    two = cells_of([v + 1 for v in losses], seed=0) + cells_of([v - 1 for v in losses], seed=1)
    assert best_log2_rate(two) == pytest.approx(lowest)
    # at an end, or beside a member that diverged, it is what was tried
    assert best_log2_rate(cells_of([1.0, 2.0, 3.0, 4.0])) == -9
    assert best_log2_rate(cells_of([3.0, 2.0, 1.0, float("inf")])) == -5


def test_transfer_costs_what_the_narrowest_best_rate_loses():
    narrow, wide = cells_of([3.0, 2.0, 1.0, 4.0], dim=8), cells_of([2.5, 2.0, 2.25, 9.0], dim=16)
    assert transfer_cost(narrow + wide) == [0.25]
    wide[2] = dataclasses.replace(wide[2], loss=float("inf"))
    assert transfer_cost(narrow + wide) == [float("inf")]


def test_what_compares_nothing_is_refused(config):
    with pytest.raises(ValueError, match="widths must be two or more, in increasing order"):
        dataclasses.replace(config, widths=config.widths[::-1])
    with pytest.raises(ValueError, match="log2_rates must have two"):
        dataclasses.replace(config, log2_rates=(-7.0,))


def test_a_member_without_a_held_out_loss_is_refused(config, tmp_path, monkeypatch):
    def train(config, folder):
        (folder / "log.jsonl").write_text('{"step": 200, "tokens": 1, "loss": 9.0}\n')

    monkeypatch.setattr("toto_robot.analyses.members.pretrain", train)
    with pytest.raises(ValueError, match="no held-out loss; a data set needs more files"):
        lr_sweep(config, tmp_path)
