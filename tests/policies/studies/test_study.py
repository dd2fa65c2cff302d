"""A whole study through the command line, in a world of a few lines."""

import contextlib
import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policies.studies import cell as one_cell
from policies.studies import report
from tests.command_lines import run
from tests.policies.fake_world import ENV_ID, save_tiny_encoder
from tests.policies.test_evaluate import NAMED, save_teacher
from toto_robot import locks

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

STUDY = """# @package _global_
rows:
  blind: {settings: [encoder=none]}
  toto: {settings: [encoder=ENCODER]}
  mean: {settings: [encoder=ENCODER, encoder.pool=mean], seeds: [0]}
columns:
  reach:
    settings:
      - env.id=WORLD
      - "env.options.cameras=[eye]"
      - "~env.options.image_size"
seeds: [0, 1, 2]
settings: [experiment=tiny, demonstrations=3, evaluation_episodes=4]
suite_episodes: 2
videos: false
baseline: blind
"""

METHODS = """# @package _global_
rows:
  dagger: {settings: [method=dagger]}
  bc: {settings: [method=bc]}
  ppo: {settings: [method=ppo, reinforcement=ppo, reinforcement.ppo.num_envs=4,
        reinforcement.ppo.num_steps=100, reinforcement.ppo.epochs=1,
        reinforcement.validate_every=2, reinforcement.env_steps=1600]}
columns:
  cabinet: {settings: [env=franka_cabinet, encoder=none]}
seeds: [0]
settings: [experiment=tiny]
suite_episodes: 2
videos: false
baseline: dagger
"""


def run_here(words, log):
    """Run a cell in this process: a new one would import torch for each."""
    try:
        one_cell.main(words[:1])
    except SystemExit as stop:
        log.write_text(f"{stop.code}\n")
        return 1
    return 0


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr("policies.study._run_cell", run_here)


def words(encoder, out, *more):
    """Write the study to a folder of the user's own, as `study/mine.yaml`."""
    folder = out.with_name(f"{out.name}_configs")
    (folder / "study").mkdir(parents=True, exist_ok=True)
    text = STUDY.replace("ENCODER", str(encoder)).replace("WORLD", ENV_ID)
    (folder / "study/mine.yaml").write_text(text)
    return ["--config-dir", str(folder), "study=mine", f"out={out}", *more]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def finished(encoder, tmp_path_factory):
    """A finished study, to read from or to copy, and what the command printed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("policies.study._run_cell", run_here)
        done = study(encoder, out)
    assert done.code == 0, done.err
    return out, done.out


def study(encoder, out, *more):
    return run("policies.study", words(encoder, out, *more))


def test_help_works():
    assert run("policies.study", "--help").code == 0


def test_a_study(finished):
    out, printed = finished
    assert "3 rows x 1 columns, 7 cells; 7 to run here" in printed
    assert "(minutes_per_cell)" in printed
    assert printed.rstrip().endswith(f"report:  {out / 'report.html'}")
    with (out / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 7
    # the two rows with one tokenizer share three stores, one per seed; blind rows have their own
    assert len(list((out / "demonstrations").glob("*/store.json"))) == 6
    compared = json.loads((out / "comparisons.json").read_text())
    by_row = {one["row"]: one for one in compared}
    assert by_row["blind"]["verdict"] == "the baseline"
    assert by_row["mean"]["verdict"] == "one training seed: an observation, not a claim"
    toto = by_row["toto"]
    rates = {row: [float(c["rate"]) for c in cells if c["row"] == row] for row in ("toto", "blind")}
    assert toto["episodes"] == 12
    assert toto["rate_mean"] == pytest.approx(sum(rates["toto"]) / 3)
    expected = sum(one - two for one, two in zip(rates["toto"], rates["blind"], strict=True)) / 3
    assert toto["against_mean"] == pytest.approx(expected)
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for row in ("blind", "toto", "mean"):
        assert f"<td>{row}</td>" in page
        assert f"| {row} | " in text
    assert "data:image/png;base64," in page
    assert "](figures/reach.png)" in text
    assert (out / "figures/reach.png").is_file()


MY_ROBOT = f"""
id: {ENV_ID}
options: {{cameras: [eye]}}
teacher_options: {{privileged: true}}
blind_options: {{cameras: []}}
"""


def test_an_environment_of_the_user_s_own_folder(tmp_path, monkeypatch):
    """The folder is named relative to the working directory."""
    given = words("", tmp_path / "out", "seeds=[0]", "~rows.toto", "~rows.mean")
    (tmp_path / "out_configs/env").mkdir()
    (tmp_path / "out_configs/env/my_robot.yaml").write_text(MY_ROBOT)
    given[1] = "out_configs"
    monkeypatch.chdir(tmp_path)
    done = run("policies.study", [*given, "columns.reach.settings=['env=my_robot']"])
    assert done.code == 0, done.err
    assert (tmp_path / "out/cells/reach/blind/seed_0/result.json").is_file()


def test_the_time_of_a_cell_is_that_of_all_its_starts(encoder, tmp_path):
    more = ("~rows.toto", "~rows.mean", "seeds=[0]")
    assert study(encoder, tmp_path / "out", *more).code == 0
    result = tmp_path / "out/cells/reach/blind/seed_0/result.json"
    before = json.loads(result.read_text())["seconds"]
    result.unlink()  # as if it was killed after the training
    assert "1 to run here" in study(encoder, tmp_path / "out", *more).out
    found = json.loads(result.read_text())
    assert found["seconds"] == before > sum(found["phases"].values())  # also the demonstrations


def test_without_an_array_a_slurm_study_only_writes_the_report(
    finished, encoder, tmp_path, monkeypatch
):
    out = shutil.copytree(finished[0], tmp_path / "out")
    shutil.rmtree(out / "cells/reach/toto/seed_1")
    (out / "report.md").unlink()
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    done = study(encoder, out, "runner=slurm")
    assert done.code == 0, done.err
    assert "no cell is run" in done.out
    assert "- reach/toto/seed_1" in (out / "report.md").read_text()
    assert not (out / "cells/reach/toto/seed_1").exists()


def test_finished_cells_are_not_run_again(finished, encoder, tmp_path):
    out = shutil.copytree(finished[0], tmp_path / "out")
    again = study(encoder, out)
    assert "0 to run here" in again.out
    assert "mean of 7 cells" in again.out
    assert (out / "comparisons.csv").read_bytes() == (finished[0] / "comparisons.csv").read_bytes()


def test_a_stopped_study_continues_and_equals_another(finished, encoder, tmp_path):
    for row in ("blind", "mean"):
        shutil.copytree(finished[0] / f"cells/reach/{row}", tmp_path / f"out/cells/reach/{row}")
    done = study(encoder, tmp_path / "out")
    assert "3 to run here" in done.out
    for name in ("comparisons.json", "comparisons.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (finished[0] / name).read_bytes()


def processes_with(word):
    """Return the numbers of the processes that have `word` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_until(true, seconds):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


def test_no_cell_runs_on_after_ctrl_c(encoder, tmp_path):
    """Its worker ignores Ctrl-C and is killed; the cell, which is a child of it, ends too."""
    out = tmp_path / "out"
    settings = "settings=['experiment=tiny','imitation.last_steps=10000000']"
    more = ("~rows.toto", "~rows.mean", "seeds=[0,1]", "runner.workers=2", settings)
    command = [sys.executable, "-m", "policies.study", *words(encoder, out, *more)]
    cells = f"{out}/cells/".encode()
    with subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # a job in the background of a shell ignores Ctrl-C, and its children inherit this
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as started:
        try:
            assert wait_until(lambda: len(processes_with(cells)) == 2, 200)
            started.send_signal(signal.SIGINT)
            assert started.wait(100)
            assert wait_until(lambda: not processes_with(cells), 100)
        finally:
            for number in (started.pid, *processes_with(cells)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)


def test_a_file_system_without_locks_is_used(encoder, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    done = study(encoder, tmp_path / "out", "~rows.toto", "~rows.mean", "seeds=[0]")
    assert done.code == 0, done.err
    assert "cannot lock files" in done.err


def test_a_video_shows_the_outcome_that_its_name_says(encoder, tmp_path, monkeypatch):
    """Here all evaluated episodes succeed, and none succeeds when it is filmed."""
    right = one_cell.train

    def lucky(config, folder):
        right(config, folder)
        metrics = json.loads((folder / "metrics.json").read_text())
        for one in metrics["evaluation"]["seeds"]:
            one["success"] = True
        (folder / "metrics.json").write_text(json.dumps(metrics))
        monkeypatch.setattr(
            "tests.policies.fake_world.ReachEnv.step",
            lambda self, _: (self._observe(), 0.0, False, False, {"success": False}),
        )

    monkeypatch.setattr(one_cell, "train", lucky)
    more = ("~rows.toto", "~rows.mean", "seeds=[0]", "videos=true")
    assert study(encoder, tmp_path / "out", *more).code == 0
    cell = tmp_path / "out/cells/reach/blind/seed_0"
    assert (cell / "result.json").is_file()
    assert not [*cell.glob("*.mp4"), *cell.glob(".*.mp4")]


def test_another_setting_does_not_touch_a_result(finished, encoder, tmp_path):
    out = shutil.copytree(finished[0], tmp_path / "out")
    settings = "settings=['experiment=tiny','demonstrations=4','evaluation_episodes=4']"
    done = study(encoder, out, settings)
    assert done.code != 0
    assert "has a result of other settings" in done.err


def test_results_of_other_weights_are_not_mixed_with_new_ones(finished, encoder, tmp_path):
    out = shutil.copytree(finished[0], tmp_path / "out")
    cell = next(out.glob("cells/reach/mean/*/train"))
    (cell / "weights.json").write_text(json.dumps({"toto-nano": "0" * 64}))
    done = study(encoder, out)
    assert done.code != 0
    assert f"{cell} holds a run with the encoder toto-nano of another version" in done.err


def test_a_teacher_that_was_trained_again_is_another_expert(tmp_path, monkeypatch):
    """Neither its demonstrations nor the results of its students are mixed with earlier ones."""
    teacher, out, folder = tmp_path / "teacher", tmp_path / "out", tmp_path / "configs/study"
    folder.mkdir(parents=True)
    text = STUDY.replace("encoder=ENCODER", "encoder=none").replace("WORLD", NAMED.id)
    (folder / "mine.yaml").write_text(text)
    settings = f"settings=['experiment=tiny','method=bc','demonstrations=2','teacher={teacher}']"
    words = [
        *("--config-dir", str(folder.parent), "study=mine", "seeds=[0]", f"out={out}"),
        *("~rows.toto", "~rows.mean", settings),
    ]
    save_teacher(teacher)
    assert run("policies.study", words).code == 0
    save_teacher(teacher, speed=2.0)
    done = run("policies.study", words)
    assert done.code != 0
    assert f"the content of {teacher} has changed since the run in {out}/cells/" in done.err
    shutil.rmtree(out / "cells")
    assert run("policies.study", words).code == 0
    assert len(list((out / "demonstrations").glob("*/store.json"))) == 2


def test_a_cell_that_fails_does_not_stop_the_others(finished, encoder, tmp_path, monkeypatch):
    out = shutil.copytree(finished[0], tmp_path / "out")
    shutil.rmtree(out / "cells/reach/toto/seed_1")
    right = one_cell.train

    def wrong(config, folder):
        raise ValueError("the disk is full")

    monkeypatch.setattr(one_cell, "train", wrong)
    done = study(encoder, out)
    assert done.code != 0
    assert "the disk is full" in done.err
    assert "1 of 1 cells failed" in done.err
    assert "- reach/toto/seed_1" in (out / "report.md").read_text()
    monkeypatch.setattr(one_cell, "train", right)
    assert "1 to run here" in study(encoder, out).out
    assert "Cells without a result" not in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["baseline=other"], "baseline must be one of blind, toto, mean"),
        (["seeds=[0,0]"], "seeds must be different numbers"),
        (["settings=['seed=3']"], "the study sets seed"),
        (["settings=['demonstration=3']"], "demonstration"),
        (["~columns.reach", "+columns.x={settings:['method=bc','env=none','data=x']}"],
         "the study sets seed, data, out"),
        (["+columns.reach.suites=[moon]"], "unknown suite 'moon'"),
        (["+columns.reach.suites=[camera]"],
         ", suite camera: tests.policies.fake_world:fake/Reach-v0 with"),
        (["+columns.x={settings:['env=gymnasium','env.id=CartPole-v1'],suites:[nominal]}"],
         ", suite nominal: suite=nominal needs an environment of this project"),
        (["+rows.more={settings:['evaluation_episodes=77']}"], "same held-out episodes"),
        (["+rows.B={settings:[]}"], "names are a to z"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(encoder, tmp_path, change, message):
    done = study(encoder, tmp_path / "out", *change)
    assert done.code != 0
    assert message in done.err
    assert not list((tmp_path / "out").glob("cells/*"))


def test_rows_with_x_are_a_plot_over_layers(finished, encoder, tmp_path, monkeypatch):
    drawn = []
    right = report._draw_over_x

    def noted(plot, finals, config):
        right(plot, finals, config)
        drawn.append(plot)

    monkeypatch.setattr(report, "_draw_over_x", noted)
    out = shutil.copytree(finished[0], tmp_path / "out")
    done = study(encoder, out, "rows.toto.x=2", "rows.mean.x=5", "x_label=depth")
    assert "0 to run here" in done.out
    (plot,) = drawn
    assert plot.get_xlabel() == "depth"
    rates = {
        one["row"]: one["rate_mean"] for one in json.loads((out / "comparisons.json").read_text())
    }
    curve, *others = plot.get_lines()
    assert curve.get_xdata().tolist() == [2, 5]
    assert curve.get_ydata().tolist() == [rates["toto"], rates["mean"]]
    assert [one.get_label() for one in others if one.get_label() == "blind"] == ["blind"]


def written(out, row, seed, steps, successes, validated=2):
    """Write the result of a cell by hand: its learning curve, and its successes of 4 episodes."""
    folder = out / f"cells/reach/{row}/seed_{seed}"
    folder.mkdir(parents=True)
    seeds = [{"seed": n, "success": n < successes, "steps": 5} for n in range(4)]
    result = {
        "row": row, "column": "reach", "seed": seed,
        "settings": ["experiment=tiny", *SETTINGS[row]],
        "curve": [{"env_steps": n, "labelled_episodes": n, "successes": validated // 2,
                   "episodes": validated} for n in steps],
        "evaluation": {"seeds": seeds, "successes": successes, "episodes": 4,
                       "rate": successes / 4},
        "suites": {}, "encoder": None, "frames": 0, "seconds": 1.0, "phases": {},
        "config": {"teacher": None}, "config_sha256": "",
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


SETTINGS = {"a": ["encoder=none"], "b": ["encoder=pixels"]}
BY_HAND = """# @package _global_
rows:
  a: {settings: [encoder=none], x: 2}
  b: {settings: [encoder=pixels], x: 2}
columns: {reach: {settings: []}}
seeds: [0]
settings: [experiment=tiny]
suite_episodes: 2
videos: false
baseline: a
"""


@pytest.mark.parametrize(("steps", "shared"), [([40, 80], True), ([80, 120], False)])
def test_an_area_needs_steps_that_all_curves_share(steps, shared, tmp_path):
    """The two rows also have the same x and the same success rate."""
    out, folder = tmp_path / "out", tmp_path / "configs/study"
    folder.mkdir(parents=True)
    (folder / "hand.yaml").write_text(BY_HAND)
    written(out, "a", 0, [20, 60], 2)
    written(out, "b", 0, steps, 2)
    done = run("policies.study", ["--config-dir", str(folder.parent), "study=hand", f"out={out}"])
    assert done.code == 0, done.err
    compared = json.loads((out / "comparisons.json").read_text())
    assert [one["rate_mean"] for one in compared] == [0.5, 0.5]
    assert [one["area_mean"] for one in compared] == ([0.5, 0.5] if shared else ["", ""])


@pytest.mark.parametrize("rows", ["a", "ab"])
def test_without_validation_there_is_neither_curve_nor_area(tmp_path, monkeypatch, rows):
    """With `validation_episodes=0`, in one row or in both."""
    out, folder = tmp_path / "out", tmp_path / "configs/study"
    folder.mkdir(parents=True)
    (folder / "hand.yaml").write_text(BY_HAND)
    for row in "ab":
        written(out, row, 0, [20, 60], 2, validated=0 if row in rows else 2)
    curves = []
    right = report._on_grid

    def noted(given):
        curves.extend(given)
        return right(given)

    monkeypatch.setattr(report, "_on_grid", noted)
    done = run("policies.study", ["--config-dir", str(folder.parent), "study=hand", f"out={out}"])
    assert done.code == 0, done.err
    assert curves == ([([20, 60], [0.5, 0.5])] * 2 if rows == "a" else [])  # over two x axes
    compared = json.loads((out / "comparisons.json").read_text())
    assert [(one["rate_mean"], one["area_mean"]) for one in compared] == [(0.5, "")] * 2


def test_no_rate_and_no_area_has_an_interval_outside_0_to_1(tmp_path):
    """With two seeds and four episodes, a t interval is wider than 1."""
    out, folder = tmp_path / "out", tmp_path / "configs/study"
    folder.mkdir(parents=True)
    (folder / "hand.yaml").write_text(BY_HAND)
    for row in "ab":
        for seed in (0, 1):
            written(out, row, seed, [20, 60], 2)
    words = ["--config-dir", str(folder.parent), "study=hand", "seeds=[0,1]", f"out={out}"]
    done = run("policies.study", words)
    assert done.code == 0, done.err
    for one in json.loads((out / "comparisons.json").read_text()):
        assert [one[f"{name}_{end}"] for name in ("rate", "area") for end in ("low", "high")] == [
            0, 1, 0, 1
        ]  # fmt: skip


def test_methods_are_rows(tmp_path):
    folder = tmp_path / "configs/study"
    folder.mkdir(parents=True)
    (folder / "ways.yaml").write_text(METHODS)
    words = ["--config-dir", str(folder.parent), "study=ways", f"out={tmp_path / 'out'}"]
    done = run("policies.study", words)
    assert done.code == 0, done.err
    with (tmp_path / "out/cells.csv").open() as file:
        curves = {one["row"]: json.loads(one["curve"]) for one in csv.DictReader(file)}
    assert [steps for steps, _, _ in curves["ppo"]] == [800, 1600]
    assert len(curves["bc"]) == 1
    assert curves["bc"][0][0] == curves["dagger"][0][0]  # the same two demonstrations
    assert len(list((tmp_path / "out/demonstrations").glob("*/store.json"))) == 1
    assert (tmp_path / "out/figures/cabinet.png").is_file()
    compared = json.loads((tmp_path / "out/comparisons.json").read_text())
    assert {one["area_mean"] for one in compared} == {""}  # no range of steps is shared


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_opens_in_a_browser(finished, tmp_path):
    page = (finished[0] / "report.html").as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command = [CHROMIUM, *flags, "--dump-dom", page]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as opened:
        dom = opened.communicate(timeout=120)[0].decode()
    assert opened.returncode == 0
    assert len(re.findall(r"<tr>", dom)) > 8
    assert "Learning curves of reach" in dom
