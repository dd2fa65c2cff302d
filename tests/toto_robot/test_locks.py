"""A run's folder belongs to one process at a time, and says to whom."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from toto_robot import locks
from toto_robot.locks import LOCK, lock
from toto_robot.runs import claim

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Config:
    seed: int = 0


HOLDER = """
import sys, time
from pathlib import Path
from tests.toto_robot.test_locks import Config
from toto_robot.runs import claim
claim(Path(sys.argv[1]), Config())
print("held", flush=True)
time.sleep(60)
"""


def start(code, *words):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("how", ["term", "kill"])
def test_another_process_is_named_and_its_end_frees_the_folder(tmp_path, how) -> None:
    out = tmp_path / "run"
    with start(HOLDER, out) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match=f"written to by another process .process {holder.pid}"
        ):
            claim(out, Config())
        with pytest.raises(ValueError, match="process"):
            claim(out / ".." / "run", Config(seed=1))
        link = tmp_path / "link"
        link.symlink_to(out)
        with pytest.raises(ValueError, match="process"):
            claim(link, Config())
        claim(tmp_path / "other", Config())
        holder.send_signal(signal.SIGTERM if how == "term" else signal.SIGKILL)
        holder.wait(10)
    claim(out, Config())
    claim(link, Config())  # the same process, the same folder
    assert [path.name for path in out.iterdir()] == ["config.json"]
    (out / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="seed: 0 != 1"):
        claim(out, Config(seed=1))


RACE = """
import os, sys, time
from pathlib import Path
from tests.toto_robot.test_locks import Config
from toto_robot.runs import claim
out, num, begin_s = Path(sys.argv[1]), int(sys.argv[2]), time.monotonic() + 0.3
children, (answers, answered), (wait, release) = [], os.pipe(), os.pipe()
for index in range(num):
    if not (pid := os.fork()):
        time.sleep(max(0.0, begin_s - time.monotonic()))
        try:
            claim(out, Config(index))
            answer = 0
        except ValueError as error:
            answer = 1 if "another process" in str(error) else 3
        except BaseException as error:
            print(repr(error), flush=True)
            answer = 2
        os.write(answered, b".")
        os.close(release)
        os.read(wait, 1)  # nobody ends before all have tried
        os._exit(answer)
    children.append(pid)
tried = b""
while len(tried) < num:
    tried += os.read(answers, num)
os.close(release)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children], flush=True)
"""


def test_of_many_that_claim_a_folder_at_once_one_gets_it(tmp_path) -> None:
    for turn in range(4):
        with start(RACE, tmp_path / str(turn) / "deep", 20) as race:
            told, _ = race.communicate(timeout=30)
        codes = [int(code) for code in re.findall(r"\d+", told.splitlines()[-1])]
        assert sorted(codes) == [0] + [1] * 19, told


WORKER = """
import errno
import os
if not os.fork():
    time.sleep(8)
    os._exit(0)
time.sleep(1)  # so that the worker has begun
os._exit(0)
"""


def test_a_forked_worker_does_not_keep_its_parent_s_folder(tmp_path) -> None:
    code = HOLDER.replace("time.sleep(60)", WORKER)
    with start(code, tmp_path / "run") as holder:
        assert "held" in holder.stdout.readline()
        holder.wait(10)
        begun_s = time.monotonic()
        claim(tmp_path / "run", Config())
        assert time.monotonic() - begun_s < 4.0  # the worker is still there


def test_a_lock_is_for_as_long_as_its_file_is_open(tmp_path) -> None:
    (tmp_path / "set").mkdir()
    first = lock(tmp_path / "set")
    with pytest.raises(ValueError, match=f"process {os.getpid()} on "):
        lock(tmp_path / "set")
    first.close()
    lock(tmp_path / "set").close()
    assert (tmp_path / "set" / LOCK).is_file()


@pytest.mark.usefixtures("no_folder_locks")
def test_a_file_system_that_locks_no_folders_has_a_file(tmp_path, monkeypatch) -> None:
    claim(tmp_path / "run", Config())
    claim(tmp_path / "run", Config())
    monkeypatch.setattr(locks, "_claimed", {})  # as another process, which has none
    with pytest.raises(ValueError, match=f"process {os.getpid()} on "):
        claim(tmp_path / "run", Config())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_note(tmp_path, monkeypatch, capsys, number):
    def flock(where, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    claim(tmp_path / "run", Config())
    lock(tmp_path).close()
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    expected = f"cannot lock files ({os.strerror(number)}); make sure that only one process writes"
    assert all(expected in note for note in notes)


def test_an_error_of_the_disk_is_not_taken_for_another_process(tmp_path, monkeypatch):
    def flock(where, operation):
        raise OSError(errno.EIO, "as of a broken disk")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(OSError, match="as of a broken disk"):
        lock(tmp_path)
