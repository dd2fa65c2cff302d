"""A policy that is trained on a GPU learns what it learns on a CPU, and runs on either."""

import json
from dataclasses import replace

import numpy as np
import pytest

from policies.evaluate import evaluate
from policies.train import train
from tests.gpu import GPU
from tests.policies.test_train import config, encoder, evaluation, metrics

__all__ = ["encoder"]  # a fixture
# torch warns of the GPU's own ways, which differ from card to card
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def runs(encoder, tmp_path_factory):
    """Return the folders of one training on the CPU and one on the GPU."""
    folder = tmp_path_factory.mktemp("runs")
    for name, device in (("cpu", "cpu"), ("gpu", GPU)):
        plain = config(encoder, device=device)
        # a GPU drops other units than a CPU
        train(replace(plain, student=replace(plain.student, dropout=0.0)), folder / name)
    return folder / "cpu", folder / "gpu"


def test_training_on_a_gpu_follows_that_on_a_cpu(runs):
    cpu, gpu = (metrics(out) for out in runs)
    assert [entry["episodes"] for entry in gpu["rounds"]] == [5, 3, 3]
    expected, found = ([entry["losses"] for entry in each["rounds"]] for each in (cpu, gpu))
    # the first round learns from the same demonstrations, later ones from the student's episodes
    assert found[0] == pytest.approx(expected[0], rel=0.05)
    assert np.isfinite(np.concatenate(found)).all()


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_policy_of_a_gpu_is_evaluated_on_either(runs, device, tmp_path):
    evaluated = evaluation(
        policy=str(runs[1] / "policy"), env=None, episodes=3, video_episodes=0, device=device
    )
    evaluate(evaluated, tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    expected = metrics(runs[1])["evaluation"]
    assert [entry["seed"] for entry in found["seeds"]] == [e["seed"] for e in expected["seeds"]]
