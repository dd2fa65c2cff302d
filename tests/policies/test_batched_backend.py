"""`env.backend=mujoco`: what training and evaluation get is what they get from worker processes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.environment import EnvConfig, make_batch
from policies.evaluate import EvaluateConfig, evaluate
from policies.learning.training_episodes import make_environments
from policies.rollouts.job import RolloutJob
from policies.rollouts.pool import RolloutConfig, RolloutPool
from policies.rollouts.rollout import RolloutSpec, RolloutWorker
from policies.student import StudentConfig, StudentMetadata, StudentPolicy
from policies.vision import NoVision, encoder_id
from tests.policies import fake_world
from tests.policies.demonstrations.episodes import same
from tests.policies.fake_world import save_tiny_encoder, toto
from toto_robot.cli import compose
from toto_robot.config import from_dict

ENV = EnvConfig(
    id="envs:toto/FrankaPick-v0",
    options={"cameras": ["hand", "front"], "image_size": 32, "num_steps": 30},
    teacher_options={"privileged": True},
    blind_options={"cameras": []},
)
BATCHED = replace(ENV, backend="mujoco", num_envs=3)


def job(policy, **changes):
    seeds = (3, 1, 8)
    plain = RolloutJob(
        seeds=seeds,
        policy=policy,
        beta=0.5,
        mixing="step",
        mixing_seeds=tuple((seed,) for seed in seeds),
        recorded=True,
        steps_after_success=0,
        round=1,
    )
    return replace(plain, **changes)


# Rollouts


@pytest.mark.parametrize("recorded", [True, False])
def test_rollouts_of_a_group_are_those_of_separate_environments(tmp_path, recorded):
    vision = toto(save_tiny_encoder(tmp_path / "tiny"))
    spec = RolloutSpec(env=ENV, vision=vision, privileged=True, device="cpu")
    workers = [RolloutWorker(spec), RolloutWorker(replace(spec, env=BATCHED))]
    student = StudentPolicy(
        StudentMetadata(
            student=StudentConfig(projection=8, hidden=(8,), dropout=0.0, smallest_std=0.02),
            interface=workers[0].interface,
            env=ENV,
            vision=vision,
            encoder=encoder_id(workers[0].encoder),
        )
    )
    student.save(tmp_path / "policy")
    one, other = (worker.run(job(tmp_path / "policy", recorded=recorded))[0] for worker in workers)
    assert len(one) == len(other) == 3
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left.actions, right.actions)
        assert left.success == right.success
        if recorded:
            same(left.episode, right.episode)
            np.testing.assert_array_equal(left.features, right.features)
    # fewer episodes than worlds, then more
    for seeds in ((5,), (5, 6, 7, 8)):
        some = job(None, beta=1.0, seeds=seeds, mixing_seeds=((0,),) * len(seeds))
        rollouts = [worker.run(some)[0] for worker in workers]
        for left, right in zip(*rollouts, strict=True):
            same(left.episode, right.episode)
            assert left.success == right.success
    assert {rollout.success for rollout in rollouts[0]} == {True, False}
    assert len({len(rollout.actions) for rollout in rollouts[0]}) > 1
    for worker in workers:
        worker.close()


def test_group_is_the_number_of_worlds_and_runs_in_this_process():
    spec = RolloutSpec(env=BATCHED, vision=NoVision(), privileged=True, device="cpu")
    config = RolloutConfig(num_workers=2, group=5)
    pool = RolloutPool(spec, config)
    assert (pool.num_workers, pool.group) == (0, 3)
    pool = RolloutPool(replace(spec, env=replace(BATCHED, num_envs=None)), config)
    assert pool.group == 5


# PPO


@pytest.mark.parametrize("timeouts_terminate", [True, False])
def test_episodes_of_ppo_are_those_of_separate_environments(timeouts_terminate):
    env = replace(ENV, options={"num_steps": 4, "protocol": "pixmc"})
    venvs = [
        make_environments(
            one, 3, seeds=(2, 9_998), timeouts_terminate=timeouts_terminate, num_workers=0
        )
        for one in (env, replace(env, backend="mujoco"))
    ]
    one, other = (venv.reset() for venv in venvs)
    np.testing.assert_array_equal(one, other)
    rng = np.random.default_rng(0)
    num_outcomes = 0
    for _ in range(9):
        actions = rng.uniform(-1, 1, (3, *venvs[0].action_space.shape)).astype(np.float32)
        one, other = (venv.step(actions) for venv in venvs)
        for left, right in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(left, right)
        for left, right in zip(one[3], other[3], strict=True):
            assert left.get("outcome") == right.get("outcome")
            assert left["TimeLimit.truncated"] == right["TimeLimit.truncated"]
            num_outcomes += "outcome" in left
            if "outcome" in left:
                last = [info["terminal_observation"] for info in (left, right)]
                np.testing.assert_array_equal(*last)
    assert num_outcomes == 6
    for venv in venvs:
        venv.close()


# Commands


def command(name, *overrides):
    """Run a command as typed; return the finished process."""
    run = [sys.executable, "-m", f"policies.{name}", *overrides]
    return subprocess.run(run, capture_output=True, text=True, cwd=Path(__file__).parents[2])


PICK = ("video_episodes=0", "env=franka_pick")
SHORT = (*PICK, "+env.options.num_steps=12")


def test_evaluation_counts_the_same_with_a_backend(tmp_path):
    overrides = ("policy=expert", "episodes=3", *PICK, "+env.options.num_steps=30")
    batched = ("env.backend=mujoco", "env.num_envs=2", f"out={tmp_path / 'batched'}")
    done = command("evaluate", *overrides, *batched)
    assert done.returncode == 0, done.stderr
    data, _ = compose("evaluate", [*overrides, "rollout.num_workers=0"])
    evaluate(from_dict(EvaluateConfig, data), tmp_path / "separate")
    found = [
        json.loads((tmp_path / name / "evaluation.json").read_text())["seeds"]
        for name in ("batched", "separate")
    ]
    assert len(found[0]) == 3
    assert found[0] == found[1]
    assert any(row["success"] for row in found[0])


def test_training_collects_and_validates_with_a_backend(tmp_path):
    done = command(
        "train",
        *(*SHORT, "encoder=none", "env.backend=mujoco", "env.num_envs=2", "demonstrations=3"),
        *("dagger.rounds=1", "dagger.episodes=2", "imitation.steps=2", "imitation.last_steps=2"),
        *("validation_episodes=1", "evaluation_episodes=2", f"out={tmp_path / 'run'}"),
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [entry["env_steps"] for entry in metrics["rounds"]] == [36, 60]
    assert metrics["evaluation"]["episodes"] == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["env.num_envs=4"],
            "env.num_envs and env.backend_options need env.backend, one of mujoco",
        ),
        (["env.backend=bullet"], "unknown backend 'bullet'; known: mujoco"),
        (["env.backend=mujoco", "env.num_envs=0"], "env.num_envs must be at least 1, got 0"),
    ],
)
def test_wrong_setting_is_an_error_that_says_what_is_valid(tmp_path, overrides, message):
    data, _ = compose("evaluate", ["policy=expert", "episodes=1", *SHORT, *overrides])
    with pytest.raises(ValueError, match=message):
        evaluate(from_dict(EvaluateConfig, data), tmp_path / "out")
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_backend_needs_an_environment_of_this_project():
    env = replace(fake_world.ENV, backend="mujoco")
    with pytest.raises(ValueError, match="mujoco needs an environment of this project"):
        make_batch(env, 2, with_images=False, privileged=True)
