"""Cloning from data sets with images: with the environment they come from, and without one."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from policies.demonstrations.features import Dataset
from policies.demonstrations.lerobot.reader import DatasetReader
from policies.demonstrations.lerobot.writer import DatasetWriter
from policies.demonstrations.store import DemoStore, StoreHeader, open_store, read_header
from policies.demonstrations.tokenised import choose, tokenise_episode, tokenised
from policies.evaluate import evaluate
from policies.learning.behaviour_cloning import HELD_OUT, _error, _Split
from policies.learning.fit import chunk_labels
from policies.student import StudentPolicy, load_student, read_metadata
from policies.train import train
from tests.policies.demonstrations.demonstrations import FACTS, noise, reach
from tests.policies.fake_world import ENV, ReachEnv, metadata, save_tiny_encoder
from tests.policies.test_train import config, evaluation, metrics
from toto_robot import load_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos") / "set"
    with DatasetWriter(folder, ReachEnv().interface) as writer:
        for seed in range(10):
            writer.append(reach(seed))
        cut = dataclasses.replace(reach(10), facts={"complete": False, "reason": "reflex"})
        writer.append(cut)
        writer.append(dataclasses.replace(reach(11), facts={**FACTS, "success": False}))
    return folder


def cloning(encoder, folder, **changes):
    values = {"method": "bc", "env": None, "data": folder, **changes}
    return config(encoder, **values)


@pytest.fixture(scope="module")
def cloned(encoder, demos, tmp_path_factory):
    out = tmp_path_factory.mktemp("cloned") / "run"
    imitation = dataclasses.replace(config(encoder).imitation, last_steps=150, log_every=50)
    train(cloning(encoder, demos, imitation=imitation), out)
    return out


def test_it_leaves_what_it_says(cloned):
    assert {path.name for path in cloned.iterdir()} == {
        "config.json", "data", "policy", "metrics.json", "timings.json", "curve.png", "tensorboard",
    }  # fmt: skip
    found = metrics(cloned)
    assert found["episodes"] == 10
    assert len(found["held_out"]) == 10 * HELD_OUT
    assert found["fitted_steps"] == 9 * 8
    assert len(found["losses"]) == len(found["held_out_errors"]) == 3
    assert found["losses"][-1] < found["losses"][0]


def test_its_policy_belongs_to_no_environment(cloned, encoder):
    assert read_metadata(cloned / "policy").env is None
    eyes = load_encoder(encoder)
    student = load_student(cloned / "policy", eyes, ReachEnv().interface)
    assert student.act(
        {"embedding_eye": np.zeros(eyes.dim, np.float32), "proprio": np.zeros(3, np.float32)}
    ).shape == (2,)


@pytest.mark.parametrize("chunk", [1, 3])
def test_the_mean_action_is_an_error_of_one(encoder, cloned, tmp_path, chunk):
    store = DemoStore(cloned / "data", read_header(cloned / "data"))
    fitted, held_out = (
        Dataset([store], None, 2**30, tmp_path / "scratch", only) for only in ((0, 1, 2), (3,))
    )
    lessons = _Split(fitted=fitted, held_out=held_out, numbers=[3])
    plain = metadata(None)
    sizes = dataclasses.replace(plain.student, chunk=chunk)
    student = StudentPolicy(dataclasses.replace(plain, student=sizes))
    last = student.mlp[-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(fitted.labels.mean(0).repeat(chunk))
        assert _error(student, lessons) == pytest.approx(1.0, abs=1e-5)
        last.bias.add_(10.0)
        assert _error(student, lessons) > 1.2


def test_a_finished_run_is_not_done_again(cloned, encoder, demos, capsys):
    imitation = dataclasses.replace(config(encoder).imitation, last_steps=150, log_every=50)
    before = (cloned / "metrics.json").stat().st_mtime_ns
    train(cloning(encoder, demos, imitation=imitation), cloned)
    assert (cloned / "metrics.json").stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert "complete already" in printed
    assert "held out: 1 of 10 episodes; error " in printed


def test_a_finished_run_does_not_pass_for_one_of_more_episodes(cloned, encoder, demos, tmp_path):
    grown = shutil.copytree(demos, tmp_path / "grown")
    out = shutil.copytree(cloned, tmp_path / "out")
    (out / "config.json").unlink()  # of the other path
    imitation = dataclasses.replace(config(encoder).imitation, last_steps=150, log_every=50)
    with DatasetWriter(grown, ReachEnv().interface) as writer:
        writer.append(reach(12))
    with pytest.raises(ValueError, match=r"is complete, but .*grown has 1 more episodes now"):
        train(cloning(encoder, grown, imitation=imitation), out)


def test_a_run_that_was_stopped_goes_on_to_the_same(cloned, encoder, demos, tmp_path):
    """Half of the episodes are tokenised, and the data set has grown since."""
    grown = shutil.copytree(demos, tmp_path / "grown")
    out = shutil.copytree(cloned, tmp_path / "out")
    for name in ("metrics.json", "config.json"):
        (out / name).unlink()
    for index in range(5, 10):
        (out / "data" / "episodes" / f"{index:06d}.safetensors").unlink()
    with DatasetWriter(grown, ReachEnv().interface) as writer:
        writer.append(reach(12))
    imitation = dataclasses.replace(config(encoder).imitation, last_steps=150, log_every=50)
    train(cloning(encoder, grown, imitation=imitation), out)
    assert metrics(out) == metrics(cloned)
    weights = "policy/weights.safetensors"
    assert (out / weights).read_bytes() == (cloned / weights).read_bytes()


def test_a_store_is_cloned_without_its_environment(encoder, tmp_path, demos, cloned):
    imitation = dataclasses.replace(config(encoder).imitation, last_steps=150, log_every=50)
    train(cloning(encoder, cloned / "data", imitation=imitation), tmp_path / "again")
    assert metrics(tmp_path / "again") == metrics(cloned)


def test_with_its_environment_it_is_evaluated_there(encoder, demos, tmp_path):
    out = tmp_path / "run"
    train(config(encoder, method="bc", data=demos, video_episodes=0), out)
    found = metrics(out)
    assert found["rounds"][0]["episodes"] == 10
    assert found["evaluation"]["episodes"] == 3
    other = dataclasses.replace(ENV, options={"cameras": ["eye", "other"]})
    with pytest.raises(ValueError, match=r"(?s)different interfaces.*cameras.*env=none"):
        train(config(encoder, method="bc", env=other, data=demos), tmp_path / "other")


def test_what_makes_no_sense_is_refused(encoder, demos):
    for changes in ({"method": "dagger"}, {"data": None}, {"teacher": demos}):
        with pytest.raises(ValueError, match="env=none needs method=bc"):
            cloning(encoder, demos, **changes)


def test_episodes_that_were_cut_short_are_left_out_unless_asked(demos):
    reader = DatasetReader(demos)
    assert choose(reader, "successful") == list(range(10))
    assert choose(reader, "complete") == [*range(10), 11]
    assert choose(reader, "all") == list(range(12))


def test_nothing_to_learn_from_is_said(tmp_path):
    with DatasetWriter(tmp_path, noise().interface) as writer:
        writer.append(noise(facts={"complete": False, "reason": "reflex"}))
        writer.append(noise(facts={"complete": False, "reason": "camera"}))
    with pytest.raises(ValueError, match="skipped: 1 reflex, 1 camera"):
        choose(DatasetReader(tmp_path), "complete")


def test_tokens_are_those_of_the_images(demos, encoder, tmp_path):
    eyes = load_encoder(encoder)
    header = StoreHeader(
        env=None,
        interface=ReachEnv().interface,
        tokenizer_hash=eyes.codes.fingerprint,
        tokens_per_frame=16,
    )
    store = tokenised(DatasetReader(demos), tmp_path / "store", header, eyes, "successful")
    for index in (0, 9):
        expected = reach(index)
        episode = store[index]
        tokens = eyes.tokenize(expected.images["eye"]).numpy()
        assert np.array_equal(episode.tokens[:, 0], tokens)
        assert np.array_equal(episode.proprio, expected.proprio)
        assert np.array_equal(episode.labels, expected.actions[:-1])
        assert episode.acted_by_expert.all()
        assert (episode.seed, episode.success) == (index, True)
    assert read_header(tmp_path / "store").env is None
    with pytest.raises(ValueError, match="recorded in no environment, but this run uses fake"):
        open_store(tmp_path / "store", dataclasses.replace(header, env="fake"))


def test_only_what_has_a_label_and_a_frame_after_it_is_learned():
    def given(*labelled, **changes):
        steps = len(labelled)
        demonstration = noise(steps, labelled=np.array(labelled, np.bool_), **changes)
        return demonstration, tokenise_episode(demonstration, None, 7)

    whole, episode = given(1, 1, 1, 1)
    assert np.array_equal(episode.labels, whole.actions[:3])
    assert np.array_equal(episode.proprio, whole.proprio)
    assert (episode.seed, episode.tokens.shape) == (0, (4, 0, 0))
    late, episode = given(0, 1, 1, 0, 1, facts={})
    assert np.array_equal(episode.labels, late.actions[1:3])
    assert np.array_equal(episode.proprio, late.proprio[1:4])
    assert (episode.seed, episode.success) == (7, False)
    with pytest.raises(ValueError, match="no labelled action is followed by a frame"):
        given(0, 0, 1)
    executed = np.full((3, 2), np.nan, np.float32)
    executed[0] = 0.25
    mixed, episode = given(1, 1, 1, columns={"executed": executed})
    assert np.array_equal(episode.executed[1], mixed.actions[1])
    assert episode.acted_by_expert.tolist() == [False, True]


def test_chunks_are_learned_and_deployed(encoder, demos, tmp_path):
    """In simulation as well: the first action of each chunk is taken."""
    student = dataclasses.replace(config(encoder).student, chunk=4)
    train(
        config(encoder, method="bc", data=demos, student=student, video_episodes=0),
        tmp_path / "run",
    )
    assert read_metadata(tmp_path / "run" / "policy").student.chunk == 4
    assert metrics(tmp_path / "run")["evaluation"]["episodes"] == 3
    train(cloning(encoder, demos, student=student), tmp_path / "clone")
    assert 0 < metrics(tmp_path / "clone")["held_out_errors"][-1] < 2


def test_a_chunk_ends_with_its_episode(encoder, demos, tmp_path):
    train(cloning(encoder, demos), tmp_path / "run")
    folder = tmp_path / "run" / "data"
    store = DemoStore(folder, read_header(folder))
    data = Dataset([store], None, 2**30, tmp_path / "scratch", only=(1, 3))
    assert len(data) == 16
    rows = torch.tensor([0, 6, 7, 8, 15])
    labels, counts = chunk_labels(data, rows, 4)
    assert counts.sum(1).tolist() == [4, 2, 1, 4, 1]
    assert np.array_equal(labels[0].numpy(), store[1].labels[:4])
    assert np.array_equal(labels[1, :2].numpy(), store[1].labels[6:])
    assert np.array_equal(labels[3].numpy(), store[3].labels[:4])
    assert json.loads((folder / "chosen.json").read_text()) == list(range(10))


def test_a_policy_of_no_environment_is_evaluated_where_one_says(cloned, tmp_path):
    evaluated = evaluation(policy=str(cloned / "policy"), env=None, episodes=2, video_episodes=0)
    with pytest.raises(
        ValueError, match="without an environment; choose one for the evaluation: env="
    ):
        evaluate(evaluated, tmp_path)
    evaluate(dataclasses.replace(evaluated, env=ENV), tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["episodes"] == 2
