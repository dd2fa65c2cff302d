"""Teachers: PPO learns a world of a few lines; what is kept of it, and who may use it."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest
import torch

from policies.demonstrations.store import DemoStore, read_header
from policies.environment import EnvConfig, make_env
from policies.learning.ppo import PpoConfig, PpoTrainer
from policies.learning.training_episodes import TrainingEpisodes
from policies.rollouts.pool import RolloutConfig
from policies.rollouts.seeds import EPISODES_PER_RUN, TRAINING_SEEDS, training_seed
from policies.teacher import TeacherConfig, teach
from policies.teacher_policy import (
    Normaliser,
    TeacherMetadata,
    TeacherPolicy,
    choose_expert,
    load_teacher,
)
from policies.train import train
from policies.vision import NoVision
from tests.policies.fake_world import ReachEnv
from tests.policies.test_train import config as train_config
from toto_robot.cli import compose
from toto_robot.config import from_dict, to_dict

pytest.importorskip("stable_baselines3")


class RewardedReach(ReachEnv):
    """The world of `fake_world`, with rewards and names; its state may get another name."""

    def __init__(self, last_name="goal_y", **options):
        super().__init__(**options)
        self.state_names = ("point_x", "point_y", "goal_x", last_name)

    def reset(self, *, seed=None, options=None):
        self.begun_with = seed
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        distance = np.abs(self._point - self._goal).sum()
        terms = {"near": -float(distance), "action": -0.01 * float(np.square(action).sum())}
        return (
            observation,
            sum(terms.values()),
            terminated,
            truncated,
            info | {"reward_terms": terms},
        )


if "fake/RewardedReach-v0" not in gymnasium.registry:
    gymnasium.register(id="fake/RewardedReach-v0", entry_point=RewardedReach, max_episode_steps=12)
ENV = EnvConfig(
    id="tests.policies.test_teacher:fake/RewardedReach-v0",
    options={"cameras": ["eye"]},
    teacher_options={"privileged": True},
    blind_options={"cameras": []},
)
SHRUNKEN = {
    "num_envs": 8, "num_steps": 48, "epochs": 6, "minibatches": 4, "learning_rate": 3e-3,
    "gamma": 0.9, "network": {"hidden": [16], "activation": "tanh"},
}  # fmt: skip


def ppo(**changes):
    data, _ = compose("teacher")
    plain = data["ppo"] | SHRUNKEN | changes
    plain["network"] = data["ppo"]["network"] | SHRUNKEN["network"] | changes.get("network", {})
    return from_dict(PpoConfig, plain)


def config(**changes):
    plain = TeacherConfig(
        seed=3,
        env=ENV,
        ppo=ppo(),
        env_steps=20 * 384,
        checkpoint_every=8,
        validation_episodes=10,
        evaluation_episodes=40,
        video_episodes=1,
        num_workers=0,
        rollout=RolloutConfig(num_workers=0, group=5),
        device="cpu",
    )
    return dataclasses.replace(plain, **changes)


def trainer(state=None, num_workers=0, env=ENV, **changes):
    return PpoTrainer(
        ppo(**changes), env, seed=3, iterations=20, num_workers=num_workers, device="cpu",
        state=state,
    )  # fmt: skip


def privileged_env(**options):
    return make_env(
        dataclasses.replace(ENV, options=ENV.options | options), with_images=True, privileged=True
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "teacher"
    teach(config(), out)
    return out


def metrics(out):
    return json.loads((out / "metrics.json").read_text())


def test_it_learns(run):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert rows[0]["success/training"] < 0.5
    assert rows[-1]["reward/near"] > 2 * rows[0]["reward/near"]  # both are negative
    assert rows[-1]["reward"] == pytest.approx(rows[-1]["reward/near"] + rows[-1]["reward/action"])
    final = metrics(run)["evaluation"]
    assert final["rate"] >= 0.9
    assert [entry["seed"] for entry in final["seeds"]] == list(range(2_000_000, 2_000_040))


def test_it_leaves_what_it_says(run):
    assert {path.name for path in run.iterdir()} == {
        "config.json", "log.jsonl", "checkpoints", "policy", "evaluation.json", "metrics.json",
        "curve.png", "rollout.mp4", "tensorboard",
    }  # fmt: skip
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["step-0000006144", "step-0000007680"]
    assert {path.name for path in (run / "policy").iterdir()} == {
        "config.json", "weights.safetensors",
    }  # fmt: skip
    found = metrics(run)
    assert [entry["env_steps"] for entry in found["validations"]] == [8 * 384, 16 * 384, 20 * 384]
    best = max(entry["rate"] for entry in found["validations"])
    metadata = json.loads((run / "policy/config.json").read_text())
    assert metadata["validation"]["rate"] == best
    assert metadata["env_steps"] == found["policy_env_steps"]


def test_a_finished_run_is_not_done_again(run, capsys):
    before = (run / "metrics.json").stat().st_mtime_ns
    teach(config(), run)
    assert (run / "metrics.json").stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    for word in ("complete already", "policy:  ", "curve:   ", "video:   ", "Wilson 95 %"):
        assert word in printed


def test_another_config_does_not_touch_a_run(run):
    with pytest.raises(ValueError, match=r"(?s)ppo.clip: 0.2 != 0.3.*seed: 3 != 4"):
        teach(config(seed=4, ppo=ppo(clip=0.3)), run)


def test_a_killed_run_goes_on_from_its_last_checkpoint(run, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    out = tmp_path / "killed"
    iterate, seen = PpoTrainer.iterate, []

    def count(self, progress):
        seen.append(self.iteration)
        if len(seen) == 12:
            raise Killed
        return iterate(self, progress)

    monkeypatch.setattr(PpoTrainer, "iterate", count)
    with pytest.raises(Killed):
        teach(config(), out)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-0000003072"]
    assert len((out / "log.jsonl").read_text().splitlines()) == 11
    teach(config(), out)
    assert seen == [*range(12), *range(8, 20)]
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["env_steps"] for row in rows] == [384 * (i + 1) for i in range(20)]
    # until the kill it is the run that was not killed, after it another one of the same kind
    whole = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[:8] == whole[:8]
    assert rows[-1]["ppo/learning_rate"] == whole[-1]["ppo/learning_rate"]
    assert metrics(out)["evaluation"]["rate"] >= 0.9


def test_a_resumed_trainer_is_the_one_that_was_kept(tmp_path):
    first = trainer()
    for _ in range(3):
        first.iterate(lambda _: None)
    torch.save(first.state(), tmp_path / "state.pt")
    second = trainer(torch.load(tmp_path / "state.pt", weights_only=True))
    one, two = first.state(), second.state()
    assert one["iteration"] == two["iteration"] == 3
    assert one["episodes"] == two["episodes"] > 0
    assert one["recent"] == two["recent"]
    assert one["returns"] == two["returns"]
    assert one["policy"].keys() == two["policy"].keys()
    assert all(torch.equal(one["policy"][name], two["policy"][name]) for name in one["policy"])
    moments = [state["optimizer"]["state"][0]["exp_avg"] for state in (one, two)]
    assert torch.equal(*moments)
    assert moments[0].abs().max() > 0


def test_equal_seeds_give_equal_runs_and_others_others(run):
    again, other = trainer(), None
    row = again.iterate(lambda _: None)
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert {name: first[name] for name in row} == row
    other = PpoTrainer(
        ppo(), ENV, seed=4, iterations=20, num_workers=0, device="cpu", state=None
    )  # fmt: skip
    assert other.iterate(lambda _: None)["reward"] != row["reward"]


@pytest.mark.slow  # a process with torch
def test_environments_in_a_worker_give_the_same_numbers():
    here, there = trainer(), trainer(num_workers=1)
    rows = [[one.iterate(lambda _: None) for _ in range(2)] for one in (here, there)]
    there.close()
    assert rows[0] == rows[1]


def test_a_checkpoint_gives_equal_actions(run, tmp_path):
    rng = np.random.default_rng(0)
    states = rng.normal(0, 2, (50, 4)).astype(np.float32)
    teacher = load_teacher(run / "policy")
    teacher.save(tmp_path / "copy")
    again = load_teacher(tmp_path / "copy")
    actions = teacher.act({"state": states})
    assert actions.dtype == np.float32
    assert np.abs(actions).max() == 1.0  # cut to the limits
    np.testing.assert_array_equal(again.act({"state": states}), actions)
    single = teacher.act({"state": states[7], "proprio": np.zeros(3)})
    np.testing.assert_allclose(single, actions[7], atol=1e-6)
    assert teacher.metadata.env == ENV
    assert teacher.normaliser.count == teacher_steps(run)


def teacher_steps(run):
    return json.loads((run / "policy/config.json").read_text())["env_steps"]


def test_a_teacher_acts_as_the_mean_of_what_was_learned():
    learner = trainer()
    for _ in range(2):
        learner.iterate(lambda _: None)
    env = privileged_env(cameras=[])
    metadata = TeacherMetadata(
        network=ppo().network,
        interface=env.get_wrapper_attr("interface"),
        state_names=env.get_wrapper_attr("state_names"),
        env=ENV,
    )
    teacher = TeacherPolicy(metadata)
    learner.fill(teacher)
    states = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    expected, _ = learner._model.predict(states, deterministic=True)
    np.testing.assert_allclose(teacher.act({"state": states}), expected, atol=1e-6)
    assert np.abs(expected).max() > 0


def test_a_damaged_or_foreign_checkpoint_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_teacher(tmp_path)
    teacher = load_teacher(run / "policy")
    teacher.save(tmp_path / "copy")
    weights = tmp_path / "copy/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="damaged"):
        load_teacher(tmp_path / "copy")


def test_another_interface_or_state_is_refused_and_cameras_are_not(run, monkeypatch):
    folder = run / "policy"
    assert choose_expert("x", folder, privileged_env()).act({"state": np.zeros(4)}).shape == (2,)
    with pytest.raises(ValueError, match="element 3: goal_y != goal_z"):
        choose_expert("x", folder, privileged_env(last_name="goal_z"))
    slow = privileged_env()
    slow.unwrapped.interface = dataclasses.replace(slow.unwrapped.interface, rate_hz=5.0)
    with pytest.raises(ValueError, match=r"(?s)policy.*rate_hz: 10.0 != 5.0"):
        choose_expert("x", folder, slow)
    nameless = privileged_env()
    del nameless.unwrapped.state_names
    monkeypatch.delattr(ReachEnv, "state_names")
    with pytest.raises(ValueError, match="state_names"):
        choose_expert("x", folder, nameless)
    with pytest.raises(ValueError, match="no expert for"):
        choose_expert("fake/RewardedReach-v0", None, privileged_env())


def test_a_wrong_observation_is_refused(run):
    teacher = load_teacher(run / "policy")
    with pytest.raises(ValueError, match="needs 'state', got proprio"):
        teacher.act({"proprio": np.zeros(3)})
    with pytest.raises(ValueError, match=r"must be \[4\]"):
        teacher.act({"state": np.zeros(5)})


def test_dagger_asks_the_teacher(run, tmp_path):
    """There is no scripted expert for this environment, so the labels can be nobody else's."""
    folder = run / "policy"
    plain = train_config(
        tmp_path, env=ENV, encoder=NoVision(), teacher=folder, video_episodes=0,
        validation_episodes=1, evaluation_episodes=1,
    )  # fmt: skip
    train(plain, tmp_path / "student")
    folder_of_episodes = tmp_path / "student/store"
    store = DemoStore(folder_of_episodes, read_header(folder_of_episodes))
    assert len(store) == 5 + 2 * 3
    teacher = load_teacher(folder)
    for episode in store:
        env = privileged_env()
        observation, _ = env.reset(seed=episode.seed)
        for step, executed in enumerate(episode.executed):
            np.testing.assert_array_equal(episode.labels[step], teacher.act(observation))
            observation, *_ = env.step(executed)
    assert not all(episode.acted_by_expert.all() for episode in store)


def test_training_episodes_have_training_seeds_only():
    env = TrainingEpisodes(privileged_env(cameras=[]), (2, 9_998, 1), False)
    begun = []
    for _ in range(3):
        env.reset()
        begun.append(env.unwrapped.begun_with)
    assert begun == [training_seed(2, 9_998), training_seed(2, 9_999), training_seed(2, 0)]
    assert set(begun) <= set(TRAINING_SEEDS)
    with pytest.raises(ValueError, match="choose their own seeds"):
        env.reset(seed=2_000_000)
    assert EPISODES_PER_RUN == 10_000


def test_environments_share_the_seeds_out():
    learner = trainer()
    rounds = []
    for _ in range(2):
        learner._rewards.reset()
        rounds.append([env.unwrapped.begun_with for env in learner._rewards.venv.envs])
    flat = [seed for row in rounds for seed in row]
    assert len(set(flat)) == 16
    assert set(flat) == {training_seed(3, number) for number in range(8, 24)}


@pytest.mark.parametrize("end_everything", [True, False])
def test_an_episode_is_summed_up_at_its_end(end_everything):
    env = TrainingEpisodes(privileged_env(cameras=[]), (0, 0, 1), end_everything)
    observation, info = env.reset()
    assert env.observation_space.contains(observation)
    assert info == {}
    rewards = []
    for step in range(12):
        _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        rewards.append(reward)
        assert (terminated or truncated) == (step == 11)
        assert bool(info) == (step == 11)
    assert (terminated, truncated) == (end_everything, not end_everything)
    outcome = info["outcome"]
    assert outcome["reward"] == pytest.approx(np.mean(rewards))
    assert outcome["reward/near"] == pytest.approx(np.mean(rewards))
    assert outcome["steps"] == 12
    assert outcome["success"] == 0.0


def test_the_end_of_time_is_bootstrapped_or_not():
    """With a value of 1 everywhere, only bootstrapping adds to the last reward of an episode."""
    last = {}
    for bootstrap in (True, False):
        learner = trainer(
            bootstrap_timeouts=bootstrap, normalise_rewards=False, num_steps=12, epochs=1
        )
        learner._model.policy.predict_values = lambda states: torch.ones(len(states), 1)
        rewards = []
        monkey = learner._model.rollout_buffer
        add = monkey.add
        monkey.add = lambda *row, add=add, rewards=rewards: (
            rewards.append(row[2].copy()),
            add(*row),
        )
        learner.iterate(lambda _: None)
        last[bootstrap] = np.stack(rewards)
    np.testing.assert_array_equal(last[True][:-1], last[False][:-1])
    np.testing.assert_allclose(last[True][-1] - last[False][-1], 0.9, atol=1e-5)


def test_advantages_are_normalised_over_the_rollout_if_asked(monkeypatch):
    from stable_baselines3 import PPO

    seen = {}
    for kind in ("rollout", "minibatch"):
        learner = trainer(normalise_advantages=kind)

        def spy(self, kind=kind):
            seen[kind] = (self.rollout_buffer.advantages.copy(), self.normalize_advantage)
            values = self.logger.name_to_value
            for name in ("value_loss", "approx_kl", "clip_fraction", "explained_variance", "std"):
                values[f"train/{name}"] = 0.0

        monkeypatch.setattr(PPO, "train", spy)
        learner.iterate(lambda _: None)
    assert seen["rollout"][0].mean() == pytest.approx(0, abs=1e-5)
    assert seen["rollout"][0].std() == pytest.approx(1, abs=1e-4)
    assert not seen["rollout"][1]
    assert seen["minibatch"][0].std() != pytest.approx(1, abs=1e-2)
    assert seen["minibatch"][1]


def test_the_normaliser_has_the_statistics_of_all_it_was_shown():
    states = torch.randn(700, 3, generator=torch.Generator().manual_seed(0)) * 3 + 5
    states[:, 2] = 0.25  # never moves
    normaliser = Normaliser(3, clip=2.0)
    untouched = normaliser(states[:4])
    torch.testing.assert_close(untouched, states[:4].clamp(-2, 2))
    for chunk in states.split([1, 99, 600]):
        normaliser.update(chunk)
    torch.testing.assert_close(normaliser.mean, states.mean(0))
    torch.testing.assert_close(normaliser.std, states.std(0, unbiased=False), atol=1e-6, rtol=1e-5)
    out = normaliser(states)
    assert out.abs().max() <= 2.0
    torch.testing.assert_close(out[:, 2], torch.zeros(700))
    assert normaliser(torch.tensor([5.0, 5.0, 0.251]))[2] == pytest.approx(0.1, rel=1e-3)


def test_without_normalising_the_state_is_only_cut():
    learner = trainer(network={"normalise": False})
    learner.iterate(lambda _: None)
    assert learner._normaliser.count == 0
    assert torch.equal(learner._normaliser.std, torch.ones(4))


def test_the_learning_rate_falls_along_a_cosine():
    plan = ppo(learning_rate=1e-3, final_lr_fraction=0.1)
    assert plan.learning_rate_at(0, 100) == 1e-3
    assert plan.learning_rate_at(50, 100) == pytest.approx(0.55e-3)
    assert plan.learning_rate_at(100, 100) == pytest.approx(1e-4)


def test_pixmc_is_pixmc():
    """The numbers of MVP's PixMC (arXiv 2203.06173 and its code) for policies on the state."""
    data, _ = compose("teacher", ["ppo=pixmc"])
    assert data["ppo"] == {
        "num_envs": 256,
        "num_steps": 32,
        "epochs": 10,
        "minibatches": 4,
        "learning_rate": 1e-3,
        "final_lr_fraction": 0.0,
        "adam_epsilon": 1e-8,  # torch's own
        "max_gradient_norm": 1.0,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip": 0.1,
        "value_coefficient": 2.0,
        "entropy_coefficient": 0.0,
        "target_kl": None,
        "normalise_advantages": "rollout",
        "normalise_rewards": False,
        "bootstrap_timeouts": False,
        "initial_log_std": 0.0,
        "network": {
            "hidden": [256, 128, 64],
            "activation": "selu",
            "normalise": False,
            "clip": 5.0,
        },
    }
    plan = from_dict(PpoConfig, data["ppo"])
    assert plan.batch == 8192
    assert plan.batch // plan.minibatches == 2048


def test_pixmcs_network_is_pixmcs():
    """Separate actor and critic, SELU; orthogonal weights, sqrt(2), at the end 0.01 and 1."""
    data, _ = compose("teacher", ["ppo=pixmc"])
    plan = from_dict(PpoConfig, data["ppo"] | {"num_envs": 1, "num_steps": 8})
    learner = PpoTrainer(
        plan, ENV, seed=0, iterations=1, num_workers=0, device="cpu", state=None
    )  # fmt: skip
    policy = learner._model.policy
    actor, critic = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    for net in (actor, critic):
        assert [type(layer).__name__ for layer in net] == ["Linear", "SELU"] * 3
        assert [layer.out_features for layer in net[::2]] == [256, 128, 64]
        for layer in net[2::2]:
            singular = torch.linalg.svdvals(layer.weight)
            torch.testing.assert_close(singular, torch.full_like(singular, 2**0.5))
            assert not layer.bias.any()
    assert actor[0] is not critic[0]
    torch.testing.assert_close(
        torch.linalg.svdvals(policy.action_net.weight), torch.full((2,), 0.01)
    )
    torch.testing.assert_close(torch.linalg.svdvals(policy.value_net.weight), torch.ones(1))
    assert not policy.log_std.any()
    (group,) = policy.optimizer.param_groups
    assert (type(policy.optimizer).__name__, group["eps"]) == ("Adam", 1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minibatches": 7}, "8 environments x 48 steps = 384 steps cannot be divided into 7"),
        ({"minibatches": 384}, "more than one step"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"network": {"hidden": []}}, "hidden must be positive and not empty"),
        ({"network": {"clip": -1.0}}, "clip must be positive"),
        ({"network": {"activation": "relu"}}, r"activation: 'relu' is not one of \['selu'"),
        ({"normalise_advantages": "never"}, "normalise_advantages"),
    ],
)
def test_a_wrong_ppo_config_is_told(change, message):
    with pytest.raises(ValueError, match=message):
        ppo(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_steps": 0}, "env_steps"),
        ({"seed": 100}, r"seed must be in \[0, 100\)"),
        ({"validation_episodes": 0}, "must be at least 1"),
        ({"evaluation_episodes": 2_000_000}, "seeds would overlap"),
        ({"video_episodes": 41}, "video_episodes"),
        ({"num_workers": -1}, "num_workers must not be negative"),
    ],
)
def test_a_wrong_config_is_told(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_an_environment_without_a_state_is_told():
    unprivileged = dataclasses.replace(ENV, teacher_options={})
    with pytest.raises(ValueError, match="a teacher needs 'state' in the observation"):
        trainer(env=unprivileged)


def test_the_config_says_everything():
    data, _ = compose("teacher")
    assert to_dict(from_dict(TeacherConfig, data)) == data
