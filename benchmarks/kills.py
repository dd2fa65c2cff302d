"""Kill tiny runs of train, pretrain, tokenise and record at random times, and check the results.

    python -m benchmarks.kills [KILLS] [SEED] [JOBS, separated by commas]

First, each job runs once without a kill. Then the job is started repeatedly in another folder, and
killed with SIGKILL after a random share of the time of the first run. KILLS is the number of kills
of all jobs. After the last kill, the job runs to its end. A kill must not lose a finished part of
the result, and the result must be bit-identical to the result of the first run. The command needs a
checkout, because it uses the small environments of the tests.
"""

import hashlib
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

KILLS, EPISODES = 200, 12
PRELOADED = [  # imported before the timing: they take seconds, and a kill in them tests nothing
    "policies.train", "real_robot.recording", "tests.policies.test_train", "torch._dynamo",
    "tests.real_robot.records", "tests.toto_robot.training.test_training",
    "tests.toto_robot.data.test_tokenise", "toto_robot.analyses.members", "pandas",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """A command that can be killed.

    Attributes:
        prepare: function that writes the inputs into a folder.
        work: function that runs the command. Its arguments are the folder of the inputs and the
            folder of the results.
        finished: function that returns the names of the finished parts in the folder of the
            results. A kill must not lose them.
        result: function that returns the digests of the files to compare at the end, by name.
    """

    prepare: Callable[[Path], None]
    work: Callable[[Path, Path], None]
    finished: Callable[[Path], set[str]]
    result: Callable[[Path], dict[str, str]]


def main() -> None:
    """Kill the jobs, and print the findings."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    names = sys.argv[3].split(",") if len(sys.argv) > 3 else list(JOBS)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(names):
            share = kills // len(names) + (index < kills % len(names))
            faults += kill_one(name, share, seed, Path(folder) / name, context)
    print(f"{kills} kills, seed {seed}: {len(faults)} findings")
    sys.exit(bool(faults))


def kill_one(
    name: str, kills: int, seed: int, folder: Path, context: multiprocessing.context.BaseContext
) -> list[str]:
    """Kill one job `kills` times, and return the findings as text."""
    job = JOBS[name]
    given, whole, out = folder / "given", folder / "whole", folder / "killed"
    _run(context, name, "prepare", given, given)
    start = time.perf_counter()
    code = _run(context, name, "work", given, whole)
    length_s = undisturbed_s = time.perf_counter() - start
    if code:
        return [f"{name}: the undisturbed run ended with {code}"]
    random = np.random.default_rng((seed, *name.encode()))
    faults, seen, ends, number = list[str](), set[str](), 0, -1
    while (killed := number + 1 - ends) < kills and ends <= 4 * kills:
        number += 1
        after_s = random.uniform(0.02, 1.05) * length_s
        code = _run(context, name, "work", given, out, after_s)
        now = job.finished(out) if out.is_dir() else set()
        if lost := sorted(seen - now):
            faults.append(f"{name}, kill {number} after {after_s:.2f} s: lost {lost[:4]}")
        if code not in (0, -signal.SIGKILL):
            faults.append(f"{name}, kill {number}: the run ended with {code}")
        seen = now
        if code == 0:  # the job ended before the kill: compare the result, and start again
            ends += 1
            length_s *= 0.9  # this run was faster than the first run, so kill earlier
            faults += _compare(name, number, job, whole, out)
            out, seen = folder / f"killed-{number}", set()
    if _run(context, name, "work", given, out):
        faults.append(f"{name}: the last run failed")
    else:
        faults += _compare(name, kills, job, whole, out)
    for fault in faults:
        print(f"FOUND {fault}", flush=True)
    print(
        f"{name}: {undisturbed_s:.1f} s undisturbed, killed {killed} times, completed "
        f"{ends + 1} times, {len(faults)} findings",
        flush=True,
    )
    return faults


def _compare(name: str, number: int, job: Job, whole: Path, out: Path) -> list[str]:
    one, other = job.result(whole), job.result(out)
    wrong = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return [f"{name}, after kill {number}: {wrong[:4]} differ"] if wrong else []


def _run(
    context: multiprocessing.context.BaseContext,
    name: str,
    what: str,
    given: Path,
    out: Path,
    kill_after_s: float | None = None,
) -> int | None:
    """Run a function of a job in a process, and return the exit code.

    The process is killed after `kill_after_s` seconds. None lets it run to its end.
    """
    process = context.Process(target=_do, args=(name, what, given, out))  # type: ignore[attr-defined]
    process.start()
    process.join(600 if kill_after_s is None else kill_after_s)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        print((out.parent / f"{out.name}.txt").read_text()[-2000:])
    return process.exitcode


def _do(name: str, what: str, given: Path, out: Path) -> None:
    import torch

    torch.set_num_threads(1)
    log = out.parent / f"{out.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        os.dup2(file.fileno(), 2)
        if what == "prepare":
            given.mkdir(parents=True)
            JOBS[name].prepare(given)
        else:
            JOBS[name].work(given, out)


def _digests(folder: Path, *patterns: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in folder.glob(pattern)
    }


def _names(folder: Path, *patterns: str) -> set[str]:
    return {str(path.relative_to(folder)) for one in patterns for path in folder.glob(one)}


# The jobs. They import their packages only inside the functions, in their processes.


def _prepare_train(given: Path) -> None:
    from tests.policies.fake_world import save_tiny_encoder

    save_tiny_encoder(given / "tiny")


def _train(given: Path, out: Path) -> None:
    from policies.train import train
    from tests.policies.test_train import config

    train(config(given / "tiny"), out)


def _prepare_videos(given: Path) -> None:
    import torch

    from tests.toto_robot.data.fake_videos import noisy, write
    from tests.toto_robot.data.test_tokenise import LIGHT
    from toto_robot.checkpoint import save_checkpoint
    from toto_robot.config import to_dict

    torch.manual_seed(0)
    save_checkpoint(given / "light", "tokenizer", to_dict(LIGHT), LIGHT.build().state_dict())
    (given / "videos").mkdir()
    for number in range(12):
        write(given / "videos" / f"{number:02}.mp4", np.roll(noisy(40), 5 * number, axis=1))


def _tokenise(given: Path, out: Path) -> None:
    from tests.toto_robot.data.test_tokenise import config_of
    from toto_robot.data.tokenise import tokenise

    tokenise(config_of(given / "videos", given / "light", records_per_shard=1), out)


def _prepare_pretrain(given: Path) -> None:
    _prepare_videos(given)
    _tokenise(given, given / "tokens")


def _pretrain(given: Path, out: Path) -> None:
    from tests.toto_robot.training.test_training import ENGINE, MODEL, OPTIMIZER
    from toto_robot.training.pretrain import DataConfig, PretrainConfig, Stage, pretrain

    config = PretrainConfig(
        model=replace(MODEL, tokens_per_frame=4),
        tokenizer_from=str(given / "light"),
        image_size=None,
        start_from=None,
        data=(DataConfig(path=given / "tokens", weight=1.0),),
        optimizer=OPTIMIZER,
        stages=(Stage(steps=20, frames=2, batch=4, part=2),),
        engine=ENGINE,
        validation_sequences=1,
        frame_interval_s=0.2,
        golden_frames=0,
        seed=0,
    )
    pretrain(config, out)


def _steps(out: Path) -> set[str]:
    """Return all steps up to the newest checkpoint.

    Training deletes older checkpoints itself, so these do not count as lost.
    """
    newest = max((int(path.name[5:]) for path in out.glob("checkpoints/step-*")), default=0)
    damaged = _names(out, "checkpoints/damaged-*")
    return {f"step {number}" for number in range(newest + 1)} - damaged


def _record(given: Path, out: Path) -> None:
    del given
    from real_robot.recording import Recorder
    from tests.real_robot.records import interface, make_record

    with Recorder(out, interface()) as recorder:
        for index in range(recorder.num_episodes, EPISODES):
            recorder.save(make_record(steps=2 + index % 3, seed=index))


def _episodes(out: Path) -> dict[str, str]:
    """Return the digest of each complete episode, by name."""
    from policies.demonstrations.lerobot.reader import DatasetReader, is_dataset

    if not is_dataset(out):
        return {}
    found = {}
    with redirect_stdout(io.StringIO()):
        for index, one in enumerate(DatasetReader(out)):
            digest = hashlib.sha256(one.proprio.tobytes() + one.actions.tobytes())
            for name in sorted(one.images):
                digest.update(np.ascontiguousarray(one.images[name]).tobytes())
            found[f"episode {index}"] = digest.hexdigest()
    return found


JOBS = {
    "train": Job(
        _prepare_train,
        _train,
        lambda out: _names(out, "store/episodes/0*", "rounds/[0-9]*/round.json", "metrics.json"),
        lambda out: _digests(
            out, "metrics.json", "evaluation.json", "policy/*", "store/episodes/0*"
        ),
    ),
    "pretrain": Job(
        _prepare_pretrain,
        _pretrain,
        _steps,
        lambda out: _digests(out, "encoder/weights.safetensors", "log.jsonl"),
    ),
    "tokenise": Job(
        _prepare_videos,
        _tokenise,
        lambda out: _names(out, "clips-*", "manifest.json"),
        lambda out: _digests(out, "clips-*", "report.json", "records.jsonl"),
    ),
    "record": Job(lambda given: None, _record, lambda out: set(_episodes(out)), _episodes),
}


if __name__ == "__main__":
    main()
