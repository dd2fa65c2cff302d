"""Table 11 on the twin, and repeats of the first grasp, as typed; the four commands are replaced.

A replaced command is checked by its own `--dry-run`, and leaves what the real one leaves.
"""

import json
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from real_robot.evaluate import TrialsConfig
from real_robot.first_grasp import FirstGraspConfig, first_grasp
from real_robot.trials.plan import keep_plan, make_plan
from real_robot.trials.poses import Pose
from tests.command_lines import run
from tests.real_robot.trials.test_trial_report import results_of
from toto_robot.cli import configure
from toto_robot.files import write_json

# outcomes by training seed, pose by pose: of the first encoder and of the other
OUTCOMES = {
    0: ([1, 1, 1, 1], [1, 0, 0, 1]),
    1: ([1, 1, 1, 0], [1, 0, 0, 0]),
    2: ([1, 1, 0, 1], [0, 1, 0, 1]),
    3: ([1, 1, 1, 1], [0, 0, 1, 1]),
}


class Commands:
    """What runs in the place of the four commands; `fails` is the number of the call that fails."""

    def __init__(self):
        self.calls, self.fails, self.unchecked = [], None, set()

    def __call__(self, words, check):
        module, *rest = words[2:]
        self.calls.append((module, *rest))
        if self.fails == len(self.calls):
            return subprocess.CompletedProcess(words, 3)
        if module in self.unchecked:
            self.unchecked.remove(module)
            done = run(module, [*rest, "--dry-run"])
            assert done.code == 0, done.err
        given = dict(word.split("=", 1) for word in rest if not word.startswith("encoder."))
        out = Path(given["out"])
        if module == "real_robot.record":
            (out / "dataset").mkdir(parents=True, exist_ok=True)
        elif module == "policies.train":
            (out / "policy").mkdir(parents=True, exist_ok=True)
        elif module == "real_robot.deploy":
            out.mkdir(parents=True, exist_ok=True)
        else:
            leave_trials(out / "report", int(given["seed"]), paired="against" in given)
        return subprocess.CompletedProcess(words, 0)


def leave_trials(folder, seed, *, paired):
    ours, other = OUTCOMES[seed]
    results = results_of(ours, other if paired else None)
    poses = [Pose(x_m=0.5, y_m=0.0, yaw_rad=0.0)] * len(ours)
    rng = np.random.default_rng(seed)
    keep_plan(
        folder,
        {},
        lambda: make_plan(poses, paired=paired, rng=rng, settings={}, facts={"said": []}),
    )
    for result in results:
        write_json(folder / "trials" / result.trial.key / "result.json", asdict(result))
    (folder / "index.html").write_text("the trials")


@pytest.fixture
def commands(monkeypatch):
    replaced = Commands()
    monkeypatch.setattr("real_robot.pipeline.subprocess.run", replaced)
    return replaced


def compare(out, *words):
    """Compare two encoders that need no weights."""
    return run(
        "real_robot.compare_encoders",
        ["encoders=[random,pixels]", "demonstrations=4", "trials=4", f"out={out}", *words],
    )


def test_encoders_are_compared_over_training_seeds(commands, tmp_path) -> None:
    commands.unchecked = {"real_robot.record", "policies.train", "real_robot.evaluate"}
    done = compare(tmp_path / "out")
    assert done.code == 0, done.err
    modules = [module for module, *_ in commands.calls]
    one_seed = ["policies.train", "policies.train", "real_robot.evaluate"]
    assert modules == ["real_robot.record", *3 * one_seed]
    dataset = {word for call in commands.calls for word in call if word.startswith("data=")}
    assert dataset == {f"data={tmp_path}/out/record/dataset"}  # recorded once, for all
    assert "12 trials of each encoder" in done.out
    assert re.search(r"10 commands; 0 have finished, the others take about \d+ minutes", done.out)

    (group,) = json.loads((tmp_path / "out/results.json").read_text())["groups"]
    ours, other = group["policies"]["random"], group["policies"]["pixels"]
    assert (ours["successes"], other["successes"], ours["trials"]) == (10, 5, 12)
    assert group["pairs"]["only_a"] == 5
    assert group["pairs"]["only_b"] == 0
    diff = group["difference"]
    assert diff["by_seed"] == [0.5, 0.5, 0.25]
    # t(0.975, 2 degrees of freedom) = 4.3027; standard error of 3 differences: 0.0833; of the
    # episodes alone, by hand: sqrt(1/12 + 1/12 + 1/16) / 3 = 0.1595, which is larger
    assert diff["over_seeds"]["mean"] == pytest.approx(5 / 12)
    assert diff["over_seeds"]["low"] == pytest.approx(5 / 12 - 4.3027 * 0.15957, abs=1e-3)
    assert diff["over_trials"]["low"] == pytest.approx(5 / 12 - 1.95996 * 0.15957, abs=1e-3)
    # 83 % against 42 %, unpaired in the plan: between 16 and 30 poses
    assert 16 <= diff["pairs_needed"] <= 30
    assert diff["seeds_needed"] == 4  # power 0.6 with 3: mean / spread = 2.9

    text = (tmp_path / "out/report.md").read_text()
    assert "| random | 4/4 | 3/4 | 3/4 | 10/12 = 83.3% (Wilson 95 %: 55.2% to 95.3%) |" in text
    assert "random minus pixels: +41.7 points" in text
    assert "there is no clear difference between random and pixels" in text
    assert f"needs about {diff['pairs_needed']} poses (here: 12)" in text
    page = (tmp_path / "out/report.html").read_text()
    for link in re.findall(r'href="([^"]+)"', page) + re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / "out" / link).is_file(), link
    assert "-27.0 to +100.0 over 3 training seeds (t)" in page  # not above 100 points
    assert "no clear difference" in page
    assert "no clear difference" in done.out


def test_a_stopped_comparison_continues_and_grows(commands, tmp_path) -> None:
    out = tmp_path / "out"
    commands.fails = 4
    stopped = compare(out, "training_seeds=2")
    assert stopped.code == 1
    assert "step 4 of 7 ended with status 3; the same command resumes there" in stopped.err
    commands.fails = None
    commands.calls.clear()
    done = compare(out, "training_seeds=2")
    assert done.code == 0, done.err
    assert [call[0] for call in commands.calls][:2] == ["real_robot.evaluate", "policies.train"]
    assert len(commands.calls) == 4
    assert "7 commands; 3 have finished" in done.out
    assert "an observation, no claim" in done.out  # two training seeds

    commands.calls.clear()
    more = compare(out, "training_seeds=4")
    assert more.code == 0, more.err
    assert len(commands.calls) == 6
    assert "random: 14/16" in more.out
    commands.calls.clear()
    again = compare(out, "training_seeds=4")
    assert again.code == 0
    assert commands.calls == []
    assert again.out.splitlines()[-3:] == more.out.splitlines()[-3:]

    (out / "train/pixels/seed_1/policy").rmdir()
    compare(out, "training_seeds=4")  # what is missing, and all that comes after it
    assert len(commands.calls) == 8
    other = compare(out, "training_seeds=4", "demonstrations=5")
    assert other.code == 1
    assert "demonstrations: 4 != 5" in other.err


def test_three_encoders_are_compared_with_the_first(commands, tmp_path) -> None:
    three = "encoders=[random,pixels,'random encoder.pool=mean']"
    done = compare(tmp_path / "out", three, "training_seeds=1")
    assert done.code == 0, done.err
    against = [word for call in commands.calls for word in call if word.startswith("against=")]
    folder = f"against={tmp_path}/out/train"
    assert against == [
        f"{folder}/pixels/seed_0/policy", f"{folder}/random_encoder.pool=mean/seed_0/policy",
    ]  # fmt: skip
    assert sum("encoder.pool=mean" in call for call in commands.calls) == 1
    text = (tmp_path / "out/report.md").read_text()
    assert "## random against pixels" in text
    assert "## random against random encoder.pool=mean" in text


def test_weights_that_changed_are_not_mixed(commands, tmp_path, monkeypatch) -> None:
    words = ["encoders=[nano,pixels]", "training_seeds=1"]
    assert compare(tmp_path / "out", *words).code == 0
    monkeypatch.setattr("toto_robot.runs._shipped", lambda: {"toto-nano": "f" * 64})
    done = compare(tmp_path / "out", *words)
    assert done.code == 1
    assert "encoder toto-nano of another version" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("encoders=[nano,nano]", "encoders: nano is there twice"),
        ("encoders=[nano]", "two or more are compared, got ['nano']"),
        ("encoders=[nano,nan0]", "nan0"),
        ("encoders=[nano,'mae_nano encoder.pol=mean']", "did you mean 'pool'"),
        ("trials=0", "trials must be at least 1, got 0"),
        ("training_seeds=0", "training_seeds must be at least 1, got 0"),
        ("demonstrations=1", "demonstrations must be at least 2"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    commands, tmp_path, words, message
) -> None:
    done = run("real_robot.compare_encoders", [words, f"out={tmp_path / 'out'}"])
    assert done.code == 1
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert commands.calls == []


@pytest.mark.parametrize("name", ["seed=0", "a,b", "run (2)", "it's"])
def test_the_folder_may_have_any_name(commands, tmp_path, name) -> None:
    out = tmp_path / name
    config = FirstGraspConfig(
        demonstrations=4, trials=4, seed=0, repeats=1, record=(), train=(), deploy=(), evaluate=()
    )
    first_grasp(config, out)
    _, *words = commands.calls[-1]
    found = configure("trials", TrialsConfig, words)
    assert found.demonstrations == (out / "record" / "dataset",)


def test_repeats_of_the_first_grasp_have_one_table(commands, tmp_path) -> None:
    commands.unchecked = {"real_robot.deploy", "real_robot.evaluate"}
    words = ["demonstrations=4", "trials=4", f"out={tmp_path / 'out'}"]
    once = run("real_robot.first_grasp", words)
    assert once.code == 0, once.err
    assert [module for module, *_ in commands.calls] == [
        "real_robot.record", "policies.train", "real_robot.deploy", "real_robot.evaluate",
    ]  # fmt: skip
    assert not (tmp_path / "out/report.md").exists()
    done = run("real_robot.first_grasp", [*words, "repeats=3"])
    assert done.code == 0, done.err
    assert len(commands.calls) == 12  # the first is not run again
    assert "seed=2" in commands.calls[-1]
    assert "the policy: 10/12 = 83.3% (Wilson 95 %: 55.2% to 95.3%)" in done.out
    text = (tmp_path / "out/report.md").read_text()
    assert "| the policy | 4/4 | 3/4 | 3/4 |" in text
    assert "[seed 1](seed_1/trials/report/index.html)" in text
    more = run("real_robot.first_grasp", [*words, "repeats=3", "demonstrations=8"])
    assert more.code == 1
    assert "demonstrations: 4 != 8" in more.err
    assert len(commands.calls) == 12
    refused = run("real_robot.first_grasp", [*words, "repeats=0"])
    assert "repeats must be at least 1" in refused.err
