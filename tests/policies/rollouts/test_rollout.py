import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from policies.demonstrations.features import FeatureCache
from policies.demonstrations.store import StoreHeader, create_store
from policies.learning.dagger import Round, collect
from policies.rollouts.job import RolloutJob
from policies.rollouts.pool import RolloutConfig, RolloutPool
from policies.rollouts.rollout import RolloutSpec, RolloutWorker
from policies.student import StudentPolicy
from policies.vision import NoVision, embed_episode
from tests.policies.demonstrations.episodes import same
from tests.policies.fake_world import (
    ENV,
    ReachExpert,
    ReusingReach,
    embed_all,
    metadata,
    save_tiny_encoder,
    toto,
)
from toto_robot import StreamConfig

JOB = RolloutJob(
    seeds=(0, 1, 2),
    policy=None,
    beta=1.0,
    mixing="step",
    mixing_seeds=((0,), (1,), (2,)),
    recorded=True,
    steps_after_success=2,
    round=0,
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
    return RolloutSpec(env=ENV, vision=toto(folder), privileged=True, device="cpu")


@pytest.fixture(scope="module")
def stage(spec):
    return RolloutWorker(spec)


@pytest.fixture(scope="module")
def policy(stage, spec, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student") / "policy"
    StudentPolicy(metadata(stage.encoder, spec.vision)).save(folder)
    return folder


def mixed(policy, beta, **changes):
    return dataclasses.replace(JOB, policy=policy, beta=beta, **changes)


ROUND = Round(
    number=0, first=0, episodes=5, beta=1.0, mixing="step", seed=3, steps_after_success=2
)  # fmt: skip


def new_store(folder, stage):
    header = StoreHeader(
        env=ENV.id,
        interface=stage.interface,
        tokenizer_hash=stage.encoder.codes.fingerprint,
        tokens_per_frame=16,
    )
    return create_store(folder, header)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mixing", ["step", "episode"])
def test_labels_are_the_experts_at_every_step_whoever_acted(
    stage, policy, beta, mixing, monkeypatch
):
    said = []

    def act(self, observation):
        action = (observation["state"][2:] - observation["state"][:2]) / 0.3
        said.append((observation["proprio"].tobytes(), action.clip(-1, 1)))
        return action

    monkeypatch.setattr(ReachExpert, "act", act)
    rollouts, _ = stage.run(mixed(policy, beta, mixing=mixing))
    total = 0
    for one in rollouts:
        words = dict(said)
        for step in range(one.num_steps):
            label = words[one.episode.proprio[step].tobytes()]
            np.testing.assert_array_equal(one.episode.labels[step], label)
        total += one.num_steps
    assert len(said) == total  # asked at every step
    share = np.concatenate([one.episode.acted_by_expert for one in rollouts])
    if beta in (0.0, 1.0):
        assert (share == bool(beta)).all()
    if mixing == "episode":
        assert all(len(set(one.episode.acted_by_expert)) == 1 for one in rollouts)


def test_an_environment_may_reuse_its_arrays(stage, policy, spec, monkeypatch):
    job = mixed(policy, 0.5)
    expected, _ = stage.run(job)
    monkeypatch.setattr(gymnasium.registry["fake/Reach-v0"], "entry_point", ReusingReach)
    found, _ = RolloutWorker(spec).run(job)
    for one, other in zip(found, expected, strict=True):
        assert same(one.episode, other.episode)


def test_beta_one_is_plain_expert_collection(stage, policy):
    alone, _ = stage.run(JOB)
    with_student, _ = stage.run(mixed(policy, 1.0))
    assert all(same(one.episode, two.episode) for one, two in zip(alone, with_student, strict=True))


def test_beta_is_the_share_of_steps_that_the_expert_does(stage, policy):
    seeds = tuple(range(40))
    job = mixed(policy, 0.3, seeds=seeds, mixing_seeds=tuple((7, seed) for seed in seeds))
    rollouts, _ = stage.run(job)
    acted = np.concatenate([one.episode.acted_by_expert for one in rollouts])
    assert len(acted) > 300
    assert acted.mean() == pytest.approx(0.3, abs=0.08)


def test_who_acts_is_drawn_anew_in_each_step_or_once(stage, policy):
    seeds = tuple(range(40))
    job = mixed(policy, 0.5, seeds=seeds, mixing_seeds=tuple((7, seed) for seed in seeds))
    whole, _ = stage.run(dataclasses.replace(job, mixing="episode"))
    first = [one.episode.acted_by_expert[0] for one in whole]
    assert 8 < sum(first) < 32
    steps, _ = stage.run(job)
    assert any(len(set(one.episode.acted_by_expert)) == 2 for one in steps)


def test_the_student_sees_nothing_privileged(stage, policy, monkeypatch):
    seen = set()
    act = StudentPolicy.act

    def spy(self, observation):
        seen.update(observation)
        return act(self, observation)

    monkeypatch.setattr(StudentPolicy, "act", spy)
    stage.run(mixed(policy, 0.0))
    stage.run(mixed(policy, 0.0, recorded=False))
    assert seen == {"embedding_eye", "proprio"}


def test_the_students_actions_do_not_depend_on_the_privileged_state(stage, policy, spec):
    without = RolloutWorker(dataclasses.replace(spec, privileged=False))
    job = mixed(policy, 0.0, recorded=False)
    assert "state" not in without._envs.example.observation_space.spaces
    one, two = stage.run(job)[0], without.run(job)[0]
    assert [(a.success, a.num_steps) for a in one] == [(b.success, b.num_steps) for b in two]


def test_each_frame_is_tokenised_once_and_embedded_once(stage, policy, monkeypatch):
    counts = {"compress": 0, "embed": 0}
    for name in counts:
        original = getattr(type(stage.encoder), name)

        def counted(encoder, frames, name=name, original=original):
            counts[name] += len(frames)
            return original(encoder, frames)

        monkeypatch.setattr(type(stage.encoder), name, counted)
    rollouts, _ = stage.run(mixed(policy, 0.5))
    frames = sum(one.num_steps + 1 for one in rollouts)
    assert counts == {"compress": frames, "embed": frames}


def test_a_kept_embedding_is_that_of_the_kept_tokens(stage, policy):
    rollouts, _ = stage.run(mixed(policy, 0.0))
    for one in rollouts:
        again = embed_all(stage.encoder, one.episode.tokens)
        np.testing.assert_allclose(one.features, again, rtol=2e-3, atol=1e-3)


def test_an_episode_goes_on_for_so_many_steps_after_success(stage):
    (short, *_), _ = stage.run(dataclasses.replace(JOB, steps_after_success=0))
    (longer, *_), _ = stage.run(JOB)
    assert short.success
    assert longer.num_steps == short.num_steps + 2


def test_a_group_depends_on_nothing_that_ran_before(stage, spec, policy):
    job = mixed(policy, 0.5)
    stage.run(mixed(policy, 0.0, seeds=(9, 8, 7)))
    one, two = stage.run(job)[0], RolloutWorker(spec).run(job)[0]
    assert all(same(a.episode, b.episode) for a, b in zip(one, two, strict=True))


def test_a_worker_process_gives_the_same_and_ends(spec, policy):
    jobs = [mixed(policy, 0.5), mixed(policy, 0.0, seeds=(5, 6, 7))]
    kept = {0: [], 1: []}
    for workers, episodes in kept.items():
        with RolloutPool(spec, RolloutConfig(num_workers=workers, group=3)) as pool:
            pool.run(jobs, episodes.extend)
            assert sum(pool.seconds.values()) > 0
    for one, two in zip(kept[0], kept[1], strict=True):
        assert same(one.episode, two.episode)
        assert np.array_equal(one.features, two.features)


def test_without_eyes_nothing_is_drawn(spec):
    blind = RolloutWorker(dataclasses.replace(spec, vision=NoVision()))
    assert blind.interface.cameras == ()
    rollouts, seconds = blind.run(JOB)
    assert rollouts[0].episode.tokens.shape == (rollouts[0].num_steps + 1, 0, 0)
    assert "tokenizer" not in seconds


def test_the_expert_needs_a_privileged_stage(spec):
    stage = RolloutWorker(dataclasses.replace(spec, privileged=False))
    with pytest.raises(ValueError, match="needs the expert: set RolloutSpec"):
        stage.run(JOB)


def test_an_interrupted_collection_goes_on_to_the_same_store(spec, stage, tmp_path):
    stores = []
    for name, stops in (("whole", (5,)), ("parts", (1, 2, 3, 5))):
        store = new_store(tmp_path / name, stage)
        for stop in stops:
            with RolloutPool(spec, RolloutConfig(num_workers=0, group=2)) as pool:
                done = []

                def stop_there(count, done=done, stop=stop):
                    done.append(count)
                    if sum(done) == stop < 5:
                        raise KeyboardInterrupt

                try:
                    cache = FeatureCache(store, stage.encoder)
                    collect(pool, store, cache, ROUND, None, stop_there)
                except KeyboardInterrupt:
                    store = new_store(tmp_path / name, stage)
            assert len(store) == stop
        stores.append(store)
    assert all(same(one, two) for one, two in zip(*stores, strict=True))
    whole, parts = (
        [path.read_bytes() for path in sorted(store.folder.glob("features-*/*"))]
        for store in stores
    )
    assert whole == parts


@pytest.mark.parametrize("mode", ["rolling", "staggered"])
def test_streamed_eyes_see_each_episode_as_a_stored_one(spec, policy, mode):
    """Episodes that end at different steps, and a student between: the same embeddings."""
    eyes = dataclasses.replace(spec.vision, stream=StreamConfig(mode=mode))
    stage = RolloutWorker(dataclasses.replace(spec, vision=eyes))
    torch.manual_seed(0)
    folder = policy.parent / mode
    StudentPolicy(metadata(stage.encoder, eyes)).save(folder)
    rollouts, _ = stage.run(mixed(folder, 0.5, steps_after_success=0))
    assert len({one.num_steps for one in rollouts}) > 1
    for one in rollouts:
        expected = embed_episode(stage.encoder, one.episode.tokens)
        np.testing.assert_allclose(one.features, expected, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match=r"past: none != .* frames, every 1"):
        stage.run(mixed(policy, 0.5))
