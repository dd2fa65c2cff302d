"""The whole of a training, small; and what a kill -9 at any moment changes: nothing."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal

import av
import numpy as np
import pytest

from policies.evaluate import EvaluateConfig, evaluate, on_suite
from policies.learning import imitate
from policies.learning.config import TrainConfig
from policies.learning.dagger import DaggerConfig, IndicatorBeta, LinearBeta
from policies.learning.fit import ImitationConfig
from policies.rollouts.pool import RolloutConfig
from policies.student import StudentConfig
from policies.train import train
from policies.vision import NoVision
from tests.policies.fake_world import ENV, save_tiny_encoder, toto
from toto_robot.training.optimizer import OptimizerConfig

IN_PROCESS = RolloutConfig(num_workers=0, group=2)


def config(encoder_folder, **changes):
    plain = TrainConfig(
        method="dagger",
        seed=0,
        env=ENV,
        encoder=toto(encoder_folder),
        teacher=None,
        data=None,
        data_episodes="successful",
        demonstrations=5,
        steps_after_success=1,
        dagger=DaggerConfig(rounds=2, episodes=3, beta=LinearBeta(rounds=2), mixing="step"),
        student=StudentConfig(projection=16, hidden=(16,), dropout=0.1, smallest_std=0.02),
        imitation=ImitationConfig(
            optimizer=OptimizerConfig(
                lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01, warmup_steps=2,
                final_lr_fraction=0.0, clip_norm=1.0,
            ),
            batch=16,
            steps=10,
            last_steps=20,
            log_every=5,
        ),
        validation_episodes=2,
        evaluation_episodes=3,
        video_episodes=1,
        rollout=IN_PROCESS,
        memory_limit_gib=1.0,
        device="cpu",
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def run(encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "train"
    train(config(encoder), out)
    return out


def metrics(out):
    return json.loads((out / "metrics.json").read_text())


def test_it_leaves_what_it_says(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "store", "rounds", "policy", "evaluation.json", "metrics.json",
        "timings.json", "curve.png", "rollout.mp4", "tensorboard",
    }  # fmt: skip
    found = metrics(run)
    assert [entry["round"] for entry in found["rounds"]] == [0, 1, 2]
    assert [entry["beta"] for entry in found["rounds"]] == [1.0, 0.5, 0.0]
    assert [entry["episodes"] for entry in found["rounds"]] == [5, 3, 3]
    assert [entry["gradient_steps"] for entry in found["rounds"]] == [10, 20, 40]
    assert found["evaluation"]["episodes"] == 3
    seeds = {entry["seed"] for entry in found["evaluation"]["seeds"]}
    assert seeds == {2_000_000, 2_000_001, 2_000_002}


def test_the_video_can_be_played(run):
    with av.open(str(run / "rollout.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert frames[0].shape == (384, 2 * 384, 3)
    assert 3 <= len(frames) <= 25


def test_tensorboard_has_each_scalar_once(run):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("success/by_round")] == [0, 1, 2]
    losses = accumulator.Scalars("loss/imitation")
    assert [event.step for event in losses] == [5, 10, 15, 20, 25, 30, 35, 40]


def test_a_finished_run_is_not_done_again(run, encoder, capsys):
    before = (run / "metrics.json").stat().st_mtime_ns
    train(config(encoder), run)
    assert (run / "metrics.json").stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert "complete already" in printed
    for word in ("curve:   ", "video:   ", "success: ", "Wilson 95 %", "encoder: ", "tokenizer"):
        assert word in printed


def test_another_config_does_not_touch_a_run(run, encoder):
    changed = config(encoder, seed=1, demonstrations=6)
    with pytest.raises(ValueError, match=r"(?s)demonstrations: 5 != 6.*seed: 0 != 1"):
        train(changed, run)


def test_behaviour_cloning_is_round_zero(run, encoder, tmp_path):
    imitation = dataclasses.replace(config(encoder).imitation, last_steps=10)
    train(config(encoder, method="bc", imitation=imitation), tmp_path / "bc")
    (cloned,) = metrics(tmp_path / "bc")["rounds"]
    first = metrics(run)["rounds"][0]
    assert cloned == first


def test_it_begins_with_demonstrations_that_are_there(run, encoder, tmp_path):
    dagger = DaggerConfig(rounds=1, episodes=2, beta=IndicatorBeta(), mixing="step")
    train(config(encoder, data=run / "store", dagger=dagger), tmp_path / "more")
    first, second = metrics(tmp_path / "more")["rounds"]
    assert first["episodes"] == 11
    assert first["env_steps"] == metrics(run)["rounds"][-1]["env_steps"]
    assert second["episodes"] == 2
    assert len(list((tmp_path / "more/store/episodes").iterdir())) == 2


@pytest.mark.parametrize("finished", [True, False])
def test_demonstrations_that_changed_are_not_those_of_the_run(run, encoder, tmp_path, finished):
    store, out = shutil.copytree(run / "store", tmp_path / "store"), tmp_path / "out"
    dagger = DaggerConfig(rounds=1, episodes=2, beta=IndicatorBeta(), mixing="step")
    settings = config(encoder, data=store, dagger=dagger, video_episodes=0)
    train(settings, out)
    if not finished:
        (out / "metrics.json").unlink()
        shutil.rmtree(out / "rounds/01")
    (store / "features-abc").mkdir()  # a cache
    train(settings, out)  # its own store grew
    episodes = store / "episodes"
    shutil.copyfile(episodes / "000000.safetensors", episodes / "000011.safetensors")
    with pytest.raises(ValueError, match=f"the content of {store} has changed"):
        train(settings, out)
    shutil.rmtree(store)
    if finished:
        train(settings, out)  # is not needed any more


def test_demonstrations_of_another_tokenizer_are_refused(run, tmp_path):
    other = save_tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="another tokenizer"):
        train(config(other, data=run / "store"), tmp_path / "out")


def test_the_blind_learn_from_proprioception(tmp_path, encoder):
    train(config(encoder, encoder=NoVision(), video_episodes=0), tmp_path / "none")
    assert not list((tmp_path / "none/store").glob("features-*"))
    assert not (tmp_path / "none/rollout.mp4").exists()
    assert metrics(tmp_path / "none")["evaluation"]["episodes"] == 3


def test_what_makes_no_sense_is_refused(encoder):
    with pytest.raises(ValueError, match="training episodes must be in"):
        config(encoder, demonstrations=20_000)
    with pytest.raises(ValueError, match="demonstrations must be at least 1"):
        config(encoder, demonstrations=0)
    with pytest.raises(ValueError, match="video_episodes"):
        config(encoder, video_episodes=9)


def evaluation(**changes):
    plain = EvaluateConfig(
        policy="expert", env=ENV, encoder=None, suite="nominal", episodes=5,
        first_seed=2_000_000, video_episodes=1, rollout=IN_PROCESS, device="cpu",
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_unknown_suite_lists_the_known_ones():
    with pytest.raises(ValueError, match="'hard'; known: nominal, appearance, camera"):
        evaluation(suite="hard")


def test_a_suite_takes_the_place_of_what_was_varied_in_training():
    varied = dataclasses.replace(ENV, options={"randomise": ["colours"]})
    assert on_suite(varied, "nominal").options == {}
    assert on_suite(varied, "camera").options == {"randomise": {"camera": {}}}
    assert evaluation(env=varied, suite=None).env == varied
    with pytest.raises(ValueError, match="either suite or"):
        evaluation(env=varied, suite="camera")


def test_the_expert_is_evaluated_like_any_policy(tmp_path, capsys):
    evaluate(evaluation(), tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["successes"] == found["episodes"] == 5
    assert found["wilson_95"] == pytest.approx([0.5655, 1.0], abs=1e-3)
    assert (tmp_path / "rollout-success-2000000.mp4").stat().st_size > 1000
    assert "success: 5/5 = 100.0%" in capsys.readouterr().out


def test_a_checkpoint_is_evaluated_where_it_was_trained(run, tmp_path):
    evaluate(evaluation(policy=str(run / "policy"), env=None, episodes=3), tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    expected = metrics(run)["evaluation"]
    assert found["seeds"] == expected["seeds"]


def test_an_encoder_that_moved_is_given_anew(run, encoder, tmp_path):
    moved = shutil.copytree(encoder, tmp_path / "moved")
    evaluated = evaluation(policy=str(run / "policy"), env=None, episodes=1, video_episodes=0)
    evaluate(dataclasses.replace(evaluated, encoder=toto(moved)), tmp_path / "a")
    other = save_tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="another encoder"):
        evaluate(dataclasses.replace(evaluated, encoder=toto(other)), tmp_path / "b")


def test_an_evaluation_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        evaluate(evaluation(policy=str(tmp_path / "nothing")), tmp_path)
    with pytest.raises(ValueError, match="policy=expert needs an environment"):
        evaluation(env=None)


def train_and_die(encoder, out, after):
    """Train, and be killed by SIGKILL before the `after`-th file is renamed into its place."""
    replace, count = os.replace, 0

    def deadly(*paths):
        nonlocal count
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    os.replace = deadly
    imitate.draw_curve = lambda *_: None  # most of the seconds, and tested elsewhere
    imitate.write_tensorboard = lambda *_: None
    train(config(encoder), out)


@pytest.mark.slow  # nine processes
@pytest.mark.timeout(300)
def test_a_kill_at_any_moment_changes_no_number(run, encoder, tmp_path):
    context = multiprocessing.get_context("forkserver")
    # torch.optim imports torch._dynamo when it is first used: seconds for each child
    context.set_forkserver_preload(["policies.train", "tests.policies.fake_world", "torch._dynamo"])

    def child(out, after):
        process = context.Process(target=train_and_die, args=(encoder, out, after))
        process.start()
        process.join(60)
        return process.exitcode

    # 1 config, 2 store, 3.. demonstrations (embeddings, episode), then policy, round and so on;
    # each kill lets the run come a little farther than the one before
    out, deaths = tmp_path / "killed", 0
    for after in (1, 4, 9, 3, 7, 5, 4, 7):
        deaths += child(out, after) == -signal.SIGKILL
        assert not (out / "metrics.json").exists()
    assert deaths == 8
    assert child(out, 10**9) == 0
    assert (out / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()
    for name in ("policy/weights.safetensors", "evaluation.json"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    stored = [
        {path.name: path.read_bytes() for path in (folder / "store/episodes").iterdir()}
        for folder in (run, out)
    ]
    assert stored[0] == stored[1]
    assert np.all([not path.name.startswith(".") for path in out.iterdir()])
