"""The commands that damage files and kill runs: they find what is there, and do it again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fuzz, kills

ROOT = Path(__file__).parents[1]


def test_an_input_depends_on_its_number_and_seed_alone():
    data = bytes(range(256)) * 40
    made = [fuzz.mutate(data, np.random.default_rng((seed, 7))) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    assert made[0] != data
    assert fuzz.mutate(b"", np.random.default_rng(0)) == b""


def test_what_a_killed_run_lost_or_changed_is_found(tmp_path):
    job = kills.JOBS["tokenise"]
    for name, text in (("whole", "right"), ("killed", "wrong")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clips-0").write_text(text)
    found = kills._compare("tokenise", 3, job, tmp_path / "whole", tmp_path / "killed")
    assert found == ["tokenise, after kill 3: ['clips-0'] differ"]
    assert kills._compare("tokenise", 3, job, tmp_path / "whole", tmp_path / "whole") == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fuzz", "52", "0", "1"), "52 inputs, seed 0"),
        (("kills", "4", "0", "tokenise,record"), "4 kills, seed 0: 0 findings"),
    ],
)
def test_the_commands_find_nothing(arguments, told):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout
