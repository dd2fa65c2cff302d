"""PPO from embeddings: `policies.train method=ppo`."""

import json

import numpy as np
import pytest
import torch

from policies import load_policy
from policies import report as reports
from policies.learning import reinforce as module
from policies.learning.config import TrainConfig
from policies.learning.learner import Learner
from policies.learning.reinforce import StudentTrainer
from policies.learning.training_episodes import make_environments
from policies.rollouts.evaluation import summarise
from policies.rollouts.rollout import RolloutSpec
from tests.command_lines import run
from tests.policies.fake_world import ENV
from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.encoders.pixels import PixelEncoder

pytest.importorskip("stable_baselines3")

WORDS = [
    "experiment=tiny", "method=ppo", "reinforcement=ppo", "env=franka_cabinet",
    "env.options.image_size=32", "env.options.cameras=[front]", "video_episodes=0",
    "reinforcement.ppo.num_envs=2", "reinforcement.ppo.num_steps=8", "reinforcement.ppo.epochs=2",
    "reinforcement.ppo.minibatches=2", "reinforcement.env_steps=40",
    "reinforcement.validate_every=1",
]  # fmt: skip


def train(out, *words):
    return run("policies.train", [*WORDS, f"out={out}", *words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("ppo") / "run"
    done = train(out, "encoder=pixels")
    assert done.code == 0, done.err
    assert "40 environment steps in 3 rounds" in done.out
    return out


def metrics(out):
    return json.loads((out / "metrics.json").read_text())


def test_its_results_are_those_of_other_methods(finished):
    rounds = metrics(finished)["rounds"]
    assert [one["env_steps"] for one in rounds] == [16, 32, 48]
    assert [one["gradient_steps"] for one in rounds] == [4, 8, 12]
    assert {one["validation"]["episodes"] for one in rounds} == {1}
    assert metrics(finished)["evaluation"]["episodes"] == 2
    assert len(list(finished.glob("rounds/*/train_state.pt"))) == 1
    policy = load_policy(finished, device="cpu")
    assert policy.interface.camera_names == ("front",)


def test_its_curve_and_times_are_those_of_ppo(finished):
    figures = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(reports, "_save", lambda figure, title, out: figures.append(figure))
        reports.draw_curve(finished, metrics(finished)["rounds"], None)
    by_round, _, losses = figures[0].axes
    assert by_round.get_xlabel() == "round of PPO"
    assert losses.get_ylabel() == "value loss"
    assert [line.get_xdata().tolist() for line in losses.get_lines()] == [[4], [8], [12]]
    assert [line.get_xdata().tolist() for line in by_round.get_lines()] == [[0, 1, 2]]
    seconds = json.loads((finished / "timings.json").read_text())
    assert min(seconds[name] for name in ("environments", "tokenizer", "transformer")) > 0


def test_without_validation_there_is_no_curve(finished, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(reports, "_save", lambda figure, title, out: figures.append(figure))
    nothing = summarise([])
    rounds = [one | {"validation": nothing} for one in metrics(finished)["rounds"]]
    reports.draw_curve(finished, rounds, None)
    by_round, by_step, _ = figures[0].axes
    assert not [*by_round.get_lines(), *by_step.get_lines()]


def test_its_gradient_steps_are_those_that_were_taken():
    trainer = trainer_of("encoder=none", "reinforcement.ppo.target_kl=1e-9")
    trainer.iterate(lambda _: None)
    taken = trainer.gradient_steps
    assert 1 <= taken < 4  # 2 epochs of 2 minibatches, stopped early
    trainer.iterate(lambda _: None)
    assert taken < trainer.gradient_steps < 8
    trainer.close()


def test_a_stopped_run_continues(finished, tmp_path, monkeypatch):
    right = module._run_round

    def stopped(number, *more):
        if number == 2:
            raise ValueError("no electricity")
        return right(number, *more)

    monkeypatch.setattr(module, "_run_round", stopped)
    assert "no electricity" in train(tmp_path, "encoder=pixels").err
    monkeypatch.setattr(module, "_run_round", right)
    before = (tmp_path / "rounds/01/round.json").stat().st_mtime_ns
    assert train(tmp_path, "encoder=pixels").code == 0
    assert (tmp_path / "rounds/01/round.json").stat().st_mtime_ns == before
    assert [one["env_steps"] for one in metrics(tmp_path)["rounds"]] == [16, 32, 48]
    assert metrics(tmp_path)["rounds"][:2] == metrics(finished)["rounds"][:2]


def config(*words):
    return from_dict(TrainConfig, compose("train", [*WORDS, *words], TrainConfig)[0])


def trainer_of(*words):
    found = config(*words)
    learner = Learner(
        vision=found.encoder, student=found.student, imitation=found.imitation, seed=0,
        memory_limit_gib=1.0, device="cpu",
    )  # fmt: skip
    spec = RolloutSpec(env=found.env, vision=found.encoder, privileged=False, device="cpu")
    metadata = learner.metadata(spec.interface(), found.env)
    return StudentTrainer(
        metadata, learner.encoder, found.reinforcement.ppo, found.env, seed=0, iterations=4,
        num_workers=0, device="cpu", state=None,
    )  # fmt: skip


@pytest.mark.parametrize("encoder", ["pixels", "cnn", "none", "state"])
def test_the_student_acts_as_the_actor_of_ppo(encoder):
    trainer = trainer_of(f"encoder={encoder}")
    before = trainer.student().state_dict()
    trainer.iterate(lambda _: None)
    student = trainer.student()
    changed = [
        name for name, now in student.state_dict().items() if not torch.equal(now, before[name])
    ]
    assert {"mlp.0.weight", "mlp.6.weight", "proprio_mean"} & set(changed) != set()
    assert any(name.startswith("mlp.") for name in changed)
    assert ("embedding_std" in changed) == (encoder == "pixels")
    inputs = torch.as_tensor(trainer._model._last_obs)
    expected = trainer._model.policy.get_distribution(inputs).mode()
    shape = student.embedding_mean.shape
    size = shape.numel()
    actions = student(inputs[:, :size].unflatten(1, shape), inputs[:, size:])
    assert torch.allclose(actions, expected, atol=1e-6)
    trainer.close()


def test_an_environment_needs_no_reward_terms():
    envs = make_environments(ENV, 1, seeds=(0, 0), timeouts_terminate=False, num_workers=0)
    envs.reset()
    for _ in range(12):
        *_, infos = envs.step(np.zeros((1, 2), np.float32))
    assert set(infos[0]["outcome"]) == {"steps", "reward", "success"}
    envs.close()


def test_each_frame_is_embedded_as_in_a_rollout():
    trainer = trainer_of("encoder=pixels")
    vectors = trainer._rewards.reset()
    frames = trainer._rewards.unwrapped.buf_obs["image_front"]
    expected = PixelEncoder()(frames).numpy().astype(np.float16)
    assert np.array_equal(vectors[:, :768], expected)
    assert np.array_equal(vectors[:, 768:], trainer._rewards.unwrapped.buf_obs["proprio"])
    trainer.close()


def test_its_settings_are_needed(tmp_path):
    done = run("policies.train", ["experiment=tiny", "method=ppo", f"out={tmp_path / 'out'}"])
    assert done.code != 0
    assert "method=ppo and reinforcement=ppo must be set together" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=dagger"], "must be set together"),
        (["env=gymnasium", "~env.options", "env.id=CartPole-v1"], "an environment with rewards"),
        (["expert=module:function"], "it needs expert=null teacher=null"),
        (["encoder=stream"], "needs an encoder of single frames"),
        (["student.chunk=2"], "needs student.chunk=1"),
        (["student.dropout=0.1", "demonstrations=0"], "needs student.dropout=0"),
        (["student.noise=0.1", "demonstrations=0"], "needs student.noise=0"),
        (["env.backend=mujoco"], "needs env.backend=null"),
    ],
)
def test_what_is_not_possible(words, message, tmp_path):
    done = train(tmp_path / "out", *words)
    assert done.code != 0
    assert message in done.err
