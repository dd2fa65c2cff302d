"""Damaged files given to every public reader: no crash, no hang, bounded memory.

    python -m benchmarks.fuzz [inputs] [seed] [workers]

An input is a good file of one kind (MP4, PNG, JPEG, safetensors, torch, npz, parquet, JSON, an
encoder's folder, a LeRobot folder) with bytes flipped, cut, inserted, repeated or zeroed, or with
numbers of a header replaced by others. It is read by a process that may be killed, within 20 s and
with 3 GiB of memory beyond what the libraries take. `ValueError` and `FileNotFoundError` are what
readers promise; any other exception, a death by signal or a time-out is a finding, printed with the
kind, the number that makes the input again, and the error. The input of a number depends on the
seed alone: ``python -m benchmarks.fuzz 1 SEED 1 NUMBER`` gives it again.
"""

import contextlib
import io
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import torch

from benchmarks.fuzz_kinds import KINDS, forget_hashes

LIMIT_S, LIMIT_BYTES = 20.0, 3 << 30
PROMISED = (ValueError, FileNotFoundError)
SPECIAL = (0, 1, 0x7F, 0x80, 0xFF)
NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"99999999999", b"null", b"[]", b'"x"', b"{}", b"true")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a reader did that it does not promise."""

    kind: str
    number: int
    error: str


def main() -> None:
    """Return the inputs to the readers, and print what was found."""
    given = [int(text) for text in sys.argv[1:5]]
    inputs, seed, workers = (*given[:3], *(2000, 0, 2)[len(given[:3]) :])
    numbers = given[3:] or list(range(inputs))
    start = time.perf_counter()
    findings, outcomes, peak = run(numbers, seed, workers)
    for finding in findings:
        print(f"FOUND {finding.kind} seed {seed} number {finding.number}: {finding.error}")
    told = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    print(
        f"{len(numbers)} inputs, seed {seed}, {time.perf_counter() - start:.0f} s: {told}\n"
        f"findings: {len(findings)}; peak memory of a worker {peak / 2**20:.0f} MiB"
    )
    sys.exit(bool(findings))


def run(numbers: list[int], seed: int, workers: int) -> tuple[list[Finding], Counter[str], int]:
    """Read the inputs of these numbers in workers; return findings, outcomes and peak bytes."""
    findings, outcomes, peak = list[Finding](), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        originals = Path(folder) / "originals"
        make_originals(originals)
        left = list(reversed(numbers))
        hands = [_Worker(originals, Path(folder) / f"worker-{index}") for index in range(workers)]
        busy: dict[_Worker, int] = {}
        try:
            while left or busy:
                for hand in hands:
                    if left and hand not in busy:
                        busy[hand] = left.pop()
                        hand.begin(seed, busy[hand])
                wait([hand.pipe for hand in busy], timeout=0.5)
                for hand, number in list(busy.items()):
                    answer = hand.answer()
                    if answer is None:
                        continue
                    del busy[hand]
                    outcome, error, memory = answer
                    outcomes[outcome] += 1
                    peak = max(peak, memory)
                    if error is not None:
                        findings.append(Finding(kind_of(number), number, error))
        finally:
            for hand in hands:
                hand.end()
    return findings, outcomes, peak


class _Worker:
    """A process that reads one input after another, and is replaced when it dies or hangs."""

    def __init__(self, originals: Path, folder: Path) -> None:
        self._originals, self._folder = originals, folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(
            target=_work, args=(other, self._originals, self._folder), daemon=True
        )
        self._process.start()
        other.close()
        self._ready = False

    def begin(self, seed: int, number: int) -> None:
        """Hand over an input."""
        if not self._ready:
            self.pipe.recv()  # its imports are no input's fault
            self._ready = True
        self.pipe.send((seed, number))
        self._began = time.monotonic()

    def answer(self) -> tuple[str, str | None, int] | None:
        """Return the outcome, the error of a finding and the peak memory; None: not yet."""
        if self.pipe.poll():
            try:
                return self.pipe.recv()
            except EOFError:
                pass
        elif self._process.is_alive() and time.monotonic() - self._began < LIMIT_S:
            return None
        hung = self._process.is_alive() and time.monotonic() - self._began >= LIMIT_S
        self.end()
        code = self._process.exitcode or 0
        self._start()
        if hung:
            return "hung", f"no answer in {LIMIT_S:.0f} s", 0
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return "died", f"the process died: {name}", 0

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _work(pipe: Connection, originals: Path, folder: Path) -> None:
    """Read inputs until killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.PANIC)
    warnings.simplefilter("ignore")
    sys.stdout = io.StringIO()
    for kind in KINDS.values():  # import all, so that the limit holds the reading alone
        for read in kind.reads.values():
            with contextlib.suppress(*PROMISED):
                read(folder / "nothing")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES, size + LIMIT_BYTES))
    pipe.send(None)
    while True:
        seed, number = pipe.recv()
        shutil.rmtree(folder, ignore_errors=True)
        given = damage(originals, folder, seed, number)
        outcome, error = "read", None
        for name, read in KINDS[kind_of(number)].reads.items():
            try:
                read(given)
            except PROMISED:
                outcome = "refused"
            except BaseException as wrong:
                places = traceback.extract_tb(wrong.__traceback__)
                mine = [p for p in places if "site-packages" not in p.filename][-1]
                outcome = "failed"
                error = (
                    f"{name}: {type(wrong).__name__}: {str(wrong)[:200]!r} at "
                    f"{Path(mine.filename).name}:{mine.lineno}"
                )
        pipe.send((outcome, error, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def kind_of(number: int) -> str:
    """Return the kind of the input of a number."""
    return list(KINDS)[number % len(KINDS)]


def make_originals(folder: Path) -> None:
    """Write a good file of each kind."""
    for name, kind in KINDS.items():
        (folder / name).mkdir(parents=True)
        kind.make(folder / name)
        (file, *_) = sorted(path for path in (folder / name).glob(kind.damaged) if path.is_file())
        for read in kind.reads.values():
            read(folder / name if kind.whole else file)  # what is undamaged is read


def damage(originals: Path, folder: Path, seed: int, number: int) -> Path:
    """Write the input of a number, and return what a reader is given."""
    name = kind_of(number)
    kind = KINDS[name]
    shutil.copytree(originals / name, folder)
    random = np.random.default_rng((seed, number))
    files = sorted(path for path in folder.glob(kind.damaged) if path.is_file())
    file = files[int(random.integers(len(files)))]
    file.write_bytes(mutate(file.read_bytes(), random))
    if name.startswith("encoder"):
        forget_hashes(folder)  # with them, every change would be refused unread
    return folder if kind.whole else file


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Damage bytes in one way, or a few."""
    changed = bytearray(data)
    for _ in range(int(random.geometric(0.6))):
        size = len(changed)
        if not size:
            break
        # headers are where readers decide: half of the places are near the beginning or the end
        near = int(random.integers(min(size, 256)))
        place = (int(random.integers(size)), near, size - 1 - near, near)[int(random.integers(4))]
        length = int(random.integers(1, 64))
        match int(random.integers(8)):
            case 0:
                changed[place] ^= 1 << int(random.integers(8))
            case 1:
                changed[place] = SPECIAL[int(random.integers(len(SPECIAL)))]
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = random.bytes(length)
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                changed[place : place + length] = bytes(min(length, size - place))
            case 6:
                width = (2, 4, 8)[int(random.integers(3))]
                value = (0, 1 << (8 * width - 1), (1 << 8 * width) - 1)[int(random.integers(3))]
                order: Literal["big", "little"] = "big" if random.integers(2) else "little"
                changed[place : place + width] = value.to_bytes(width, order)
            case _:
                if b"{" in changed[:64]:
                    _replace_number(changed, random)
                else:
                    del changed[max(1, size - 16 * length) :]
    return bytes(changed)


def _replace_number(changed: bytearray, random: np.random.Generator) -> None:
    """Put another value in the place of one of the numbers in a text."""
    found = list(re.finditer(rb"(?<=[:\[, ])-?\d+(\.\d+)?", bytes(changed[:65536])))
    if found:
        match = found[int(random.integers(len(found)))]
        changed[match.start() : match.end()] = NUMBERS[int(random.integers(len(NUMBERS)))]


if __name__ == "__main__":
    main()
