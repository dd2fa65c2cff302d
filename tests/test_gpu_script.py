"""`make gpu`: its steps run on a CPU, it goes on where it stopped, and tells of faults."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_steps import STEPS, Step

ROOT = Path(__file__).parents[1]
CPU = ("--device", "cpu", "--tiny")


def steps_of(out):
    return json.loads((out / "summary.json").read_text())["steps"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("no GPU: device 'cuda' cannot be used")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # a minute and a half, all steps
@pytest.mark.timeout(580)
def test_every_step_runs_on_a_cpu(tmp_path, capsys):
    assert gpu.main([*CPU, "--out", str(tmp_path)]) == 0, capsys.readouterr()
    found = steps_of(tmp_path)
    assert {name: one["result"] for name, one in found.items()} == dict.fromkeys(STEPS, "done")
    (tests,) = found["library_tests"]["tables"]["tests"]
    assert " passed" in tests["result"]
    for row in found["encoder"]["tables"]["against the CPU in float32"]:
        if row["where"] == "cpu float32":  # the same computation
            assert row["share of equal tokens"] == 1.0
    assert (tmp_path / "train" / "rollout.mp4").is_file()
    page = (tmp_path / "summary.md").read_text()
    assert page.startswith("# On CPU (cpu)")
    assert "| times the CPU |" in page
    assert gpu.main([*CPU, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("done (from an earlier call)") == len(STEPS)
    assert steps_of(tmp_path) == found


@pytest.fixture
def steps(monkeypatch):
    """Put two steps in the place of all; a child knows none of them, and so takes the real ones."""

    def put(**changes):
        missing = Step(title="x", limit_s=9.0, needs=("no_such_package",), run=lambda *_: {})
        monkeypatch.setattr(gpu, "STEPS", {"missing": missing, **changes})

    return put


def test_a_step_whose_packages_are_missing_is_named_and_left_out(steps, tmp_path, capsys):
    steps()
    assert gpu.main([*CPU, "--out", str(tmp_path)]) == 0
    assert steps_of(tmp_path)["missing"]["result"] == "skipped"
    assert "not installed: no_such_package" in capsys.readouterr().out


def test_a_step_that_fails_costs_no_other_and_is_done_again(steps, tmp_path, capsys):
    broken = Step(title="x", limit_s=60.0, needs=(), run=lambda *_: {})
    steps(broken=broken)
    assert gpu.main([*CPU, "--out", str(tmp_path)]) == 1  # argparse of the child: no such step
    found = steps_of(tmp_path)
    assert found["broken"]["result"] == "failed"
    assert "exit code 2: " in found["broken"]["why"]
    assert found["missing"]["result"] == "skipped"
    machine = gpu._machine("cpu", True)
    result = {"machine": machine, "seconds": 1.0, "tables": {"t": [{"a|b": 0.5}]}}
    (tmp_path / "broken.json").write_text(json.dumps(result))
    assert gpu.main([*CPU, "--out", str(tmp_path)]) == 0
    assert "from an earlier call" in capsys.readouterr().out
    other = {**result, "machine": {**machine, "device": "another"}}
    (tmp_path / "broken.json").write_text(json.dumps(other))
    assert gpu.main([*CPU, "--out", str(tmp_path)]) == 1


def test_a_step_without_time_is_left_to_the_next_call(steps, tmp_path, monkeypatch):
    steps(late=Step(title="x", limit_s=9.0, needs=(), run=lambda *_: {}))
    monkeypatch.setattr(gpu, "_ALL_S", 1.0)
    assert gpu.main([*CPU, "--out", str(tmp_path)]) == 1
    assert steps_of(tmp_path)["late"]["result"] == "no time left"


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path):
    child = "import time; open('{}', 'w').close(); time.sleep(600)".format(tmp_path / "began")
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    began = time.monotonic()
    why = gpu.run_limited([sys.executable, "-c", parent], tmp_path / "log", 15.0)
    assert why == "it took longer than 15 s"
    assert time.monotonic() - began < 45
    assert (tmp_path / "began").exists()
    while any(str(tmp_path / "began").encode() in line for line in command_lines()):
        assert time.monotonic() - began < 45
        time.sleep(0.05)


def command_lines():
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (process / "cmdline").read_bytes()


def test_a_crash_is_told_with_its_last_line(tmp_path):
    code = "import os; print('CUDA error: an illegal access', flush=True); os.abort()"
    why = gpu.run_limited([sys.executable, "-c", code], tmp_path / "log", 60.0)
    assert why == "exit code -6: CUDA error: an illegal access"
