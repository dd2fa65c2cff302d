import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toto_robot import cli, config_files

# The package without its __init__, which takes seconds to load torch.
PROGRAM = (
    f"""
import sys, types
sys.modules["toto_robot"] = types.ModuleType("toto_robot")
sys.modules["toto_robot"].__path__ = [{str(Path(cli.__file__).parent)!r}]
"""
    + """
from dataclasses import dataclass
from pathlib import Path
from toto_robot import cli, config_files
config_files.LIBRARY = Path("configs").absolute()

@dataclass(frozen=True, kw_only=True, slots=True)
class TryConfig:
    seed: int
    rate: float

def attempt(config: TryConfig, out: Path) -> None:
    print("RAN", config, out, Path.cwd().name)

main = cli.command("try", TryConfig)(attempt)
if __name__ == "__main__":
    main()
"""
)
TRY = """
defaults: [command, _self_]
out: runs/try
seed: 0
rate: 1e-3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/try.yaml").write_text(TRY)
    shared = (config_files.LIBRARY / "command.yaml").read_text()
    (tmp_path / "configs/command.yaml").write_text(shared)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_a_command_prints_its_config_and_runs_where_it_was_started(folder: Path) -> None:
    done = run(folder, "seed=3")
    assert done.returncode == 0, done.stderr
    assert "# try\nseed: 3\nrate: 0.001\nresults: runs/try\n" in done.stdout
    assert f"RAN TryConfig(seed=3, rate=0.001) runs/try {folder.name}" in done.stdout
    assert (folder / "runs/try/hydra/.hydra/overrides.yaml").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["configs", "program.py", "runs"]


def test_the_jobs_of_a_multirun_do_not_share_a_folder(folder: Path) -> None:
    done = run(folder, "-m", "seed=0,1", "out=runs/both")
    assert done.returncode == 0, done.stderr
    assert "rate=0.001) runs/both/seed=0 " in done.stdout
    assert "rate=0.001) runs/both/seed=1 " in done.stdout


def test_a_job_is_named_for_what_differs_and_a_path_makes_no_folders(folder: Path) -> None:
    program = (folder / "program.py").read_text()
    (folder / "program.py").write_text(program.replace("rate: float", "rate: float\n    data: str"))
    with (folder / "configs/try.yaml").open("a") as root:
        root.write("data: none\n")
    done = run(folder, "-m", "seed=3", "data=/a/b,'/a,(c)'", "out=runs/both")
    assert done.returncode == 0, done.stderr
    assert "data='/a/b') runs/both/data=-a-b-" in done.stdout
    assert "data='/a,(c)') runs/both/data=-a,(c)-" in done.stdout
    long = run(folder, "-m", f"data={'x' * 300},y", "out=runs/long")
    names = re.findall(r"^results: runs/long/(.*)$", long.stdout, re.MULTILINE)
    assert [len(name) for name in names] == [209, len("data=y")]


def test_a_job_goes_on_in_a_folder_named_for_all_settings(folder: Path) -> None:
    (folder / "runs/both/rate=2.0,seed=0").mkdir(parents=True)
    done = run(folder, "-m", "seed=0,1", "rate=2.0", "out=runs/both")
    places = re.findall(r"^results: (.*)$", done.stdout, re.MULTILINE)
    assert places == ["runs/both/rate=2.0,seed=0", "runs/both/seed=1"]


def test_a_wrong_value_of_a_later_job_shows_before_the_first_runs(folder: Path) -> None:
    done = run(folder, "-m", "seed=0,1", "rate=1.0,fast")
    assert done.returncode == 1
    assert done.stderr.strip() == "try: rate: expected float, got 'fast'"
    assert "RAN" not in done.stdout
    assert not (folder / "runs").exists()


def test_output_that_nobody_reads_is_no_traceback(folder: Path) -> None:
    call = f"{sys.executable} program.py | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", call], cwd=folder, capture_output=True, text=True)
    assert done.stdout == "1\n"
    assert done.stderr == "try: [Errno 32] Broken pipe\n"


def test_characters_that_the_terminal_lacks_are_escaped(folder: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    call = [sys.executable, "program.py", "out=runs/ü→"]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "results: runs/\\xfc\\u2192\n" in done.stdout


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=two", "try: seed: expected int, got 'two'"),
        ("seed=???", "try: seed= must be given; see --help"),
        ("out=null", "try: out: expected a folder, got 'null'"),
        ("rate=nan", "try: rate: expected a finite number, got nan"),
        ("sed=3", "try: unknown setting 'sed'; did you mean 'seed'?"),
        ("--seed=3", "try: unknown option '--seed'; settings have no dashes: seed=...; see --help"),
        (
            "seed=(",
            "try: cannot read seed=(; a list is [1,2], a mapping {a: 1}, and a text with = or : "
            """has quotation marks: 'settings=["seed=1"]'""",
        ),
        ("--dry-run=no", "try: --dry-run takes no value, got '--dry-run=no'"),
        ("--config-dir=gone", "try: --config-dir: there is no folder 'gone'"),
        ("--config-dir", "try: --config-dir: expected a value, got ''"),
        ("--cfg=jobs", "try: --cfg: expected one of job, hydra, all, got 'jobs'"),
        ("out=program.py", "try: out: program.py is a file, so program.py cannot be a folder"),
        ("out=program.py/x", "try: out: program.py is a file, so program.py/x cannot be a folder"),
        ("out=/proc/x", "try: [Errno 2] No such file or directory: '/proc/x'"),
        ("+speed=2", "try: TryConfig: unknown ['speed']; known: ['rate', 'seed']"),
    ],
)
def test_a_wrong_value_is_one_line(folder: Path, override: str, message: str) -> None:
    done = run(folder, override)
    assert done.returncode == 1
    assert done.stderr.strip() == message


def test_what_a_verb_cannot_do_is_one_line(folder: Path) -> None:
    program = (folder / "program.py").read_text()
    failing = program.replace(
        'print("RAN"', 'raise ValueError("a.mp4 is no video") if 1 else print("RAN"'
    )
    (folder / "program.py").write_text(failing)
    done = run(folder)
    assert done.returncode == 1
    assert done.stderr.strip() == "try: a.mp4 is no video"


def test_a_training_that_a_signal_stopped_has_not_succeeded(folder: Path) -> None:
    program = (folder / "program.py").read_text()
    stopped = program.replace(
        'print("RAN"', '__import__("toto_robot.runs").runs.stop_signals.append(15); print("RAN"'
    )
    (folder / "program.py").write_text(stopped)
    done = run(folder)
    assert "RAN" in done.stdout
    assert done.returncode == 128 + 15


def test_compose_gives_what_the_command_would_read(folder, monkeypatch) -> None:
    monkeypatch.setattr(config_files, "LIBRARY", folder / "configs")
    data, out = cli.compose("try", ["rate=2.0"])
    assert (data, out) == ({"seed": 0, "rate": 2.0}, Path("runs/try"))


def test_without_a_checkout_the_message_says_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(config_files, "CHECKOUT", tmp_path)
    with pytest.raises(SystemExit, match=r"there is no train\.yaml in .*runs from a checkout"):
        cli.command("train", object)(print)()


LONG = """
import time
from tqdm import tqdm

def attempt(config: TryConfig, out: Path) -> None:
    (out / NAME).write_text("{}")
    with tqdm(total=56, unit="episode", initial=40) as bar:
        with tqdm(total=3, unit="step", leave=False, position=1) as inner:
            inner.update()
            print("BUSY", flush=True)
            time.sleep(100)

main = cli.command("try", TryConfig)(attempt)
if __name__ == "__main__":
    main()
"""
BARE = """
import time

def attempt(config: TryConfig, out: Path) -> None:
    print("BUSY", flush=True)
    time.sleep(100)

main = cli.command("try", TryConfig)(attempt)
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            LONG.replace("NAME", "'config.json'"),
            "try: stopped after episode 40 of 56; run the same command to continue",
        ),
        (
            LONG.replace("NAME", "'other'"),
            "try: stopped after episode 40 of 56; run the same command to start again",
        ),
        (BARE, "try: stopped"),
    ],
)
def test_ctrl_c_ends_with_one_line_and_quickly(folder: Path, body: str, told: str) -> None:
    head = PROGRAM[: PROGRAM.index("def attempt")]
    (folder / "program.py").write_text(head + body)
    with subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=folder,
        # a job that a shell started in the background ignores Ctrl-C, and so do its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "BUSY" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 20  # a machine may be starved; it is a tenth of a second
    assert process.returncode == 130
    assert errors.rstrip().endswith(told)
    assert "Traceback" not in errors
