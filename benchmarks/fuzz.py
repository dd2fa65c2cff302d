"""Read damaged files with every public reader. No reader may crash, hang or use too much memory.

    python -m benchmarks.fuzz [INPUTS] [SEED] [WORKERS]

An input is a damaged copy of a valid file or folder: MP4, PNG, JPEG, safetensors, torch, npz,
parquet, JSON, an encoder folder, or a LeRobot folder. The damage flips, cuts, inserts, repeats or
zeroes bytes, or replaces numbers in a text header. A worker process must read an input within 20 s
and with 3 GiB of memory, in addition to the memory of the libraries. Readers may raise `ValueError`
and `FileNotFoundError`. Any other exception, the death of the process, or a time-out is a finding.
A finding is printed with the kind and the number of the input, and with the error.
``python -m benchmarks.fuzz 1 SEED 1 NUMBER`` repeats an input.
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

from benchmarks.fuzz_kinds import KINDS, update_hashes

LIMIT_S, LIMIT_BYTES = 20.0, 3 << 30
ALLOWED = (ValueError, FileNotFoundError)
SPECIAL = (0, 1, 0x7F, 0x80, 0xFF)
NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"99999999999", b"null", b"[]", b'"x"', b"{}", b"true")


@dataclass(frozen=True, slots=True)
class Finding:
    """An error that a reader must not have, such as a crash or a time-out."""

    kind: str
    number: int
    error: str


def main() -> None:
    """Run the readers on the inputs, and print the findings."""
    given = [int(text) for text in sys.argv[1:5]]
    inputs, seed, workers = (*given[:3], *(2000, 0, 2)[len(given[:3]) :])
    numbers = given[3:] or list(range(inputs))
    start = time.perf_counter()
    findings, outcomes, peak = run(numbers, seed, workers)
    for finding in findings:
        print(f"FOUND {finding.kind} seed {seed} number {finding.number}: {finding.error}")
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    print(
        f"{len(numbers)} inputs, seed {seed}, {time.perf_counter() - start:.0f} s: {counts}\n"
        f"findings: {len(findings)}; peak memory of a worker {peak / 2**20:.0f} MiB"
    )
    sys.exit(bool(findings))


def run(numbers: list[int], seed: int, workers: int) -> tuple[list[Finding], Counter[str], int]:
    """Read inputs in worker processes.

    Returns:
        The findings, the number of inputs for each outcome, and the peak memory in bytes.
    """
    findings, outcomes, peak = list[Finding](), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        originals = Path(folder) / "originals"
        make_originals(originals)
        rest = list(reversed(numbers))
        pool = [_Worker(originals, Path(folder) / f"worker-{index}") for index in range(workers)]
        busy: dict[_Worker, int] = {}
        try:
            while rest or busy:
                for worker in pool:
                    if rest and worker not in busy:
                        busy[worker] = rest.pop()
                        worker.begin(seed, busy[worker])
                wait([worker.pipe for worker in busy], timeout=0.5)
                for worker, number in list(busy.items()):
                    answer = worker.answer()
                    if answer is None:
                        continue
                    del busy[worker]
                    outcome, error, memory = answer
                    outcomes[outcome] += 1
                    peak = max(peak, memory)
                    if error is not None:
                        findings.append(Finding(kind_of(number), number, error))
        finally:
            for worker in pool:
                worker.end()
    return findings, outcomes, peak


class _Worker:
    """A process that reads inputs one by one. A process that dies or hangs is replaced."""

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
        """Send an input to the process."""
        if not self._ready:
            self.pipe.recv()  # wait for the imports of the process, which do not count as reading
            self._ready = True
        self.pipe.send((seed, number))
        self._began = time.monotonic()

    def answer(self) -> tuple[str, str | None, int] | None:
        """Return the outcome, the error of a finding (or None), and the peak memory in bytes.

        The result is None while the process is still reading.
        """
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
    """Read inputs in a loop until the process is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.PANIC)
    warnings.simplefilter("ignore")
    sys.stdout = io.StringIO()
    for (
        kind
    ) in KINDS.values():  # import all readers first, so that the limits apply only to reading
        for read in kind.reads.values():
            with contextlib.suppress(*ALLOWED):
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
            except ALLOWED:
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
    """Return the kind of file of the input with this number."""
    return list(KINDS)[number % len(KINDS)]


def make_originals(folder: Path) -> None:
    """Write a valid file of each kind."""
    for name, kind in KINDS.items():
        (folder / name).mkdir(parents=True)
        kind.make(folder / name)
        (file, *_) = sorted(path for path in (folder / name).glob(kind.damaged) if path.is_file())
        for read in kind.reads.values():
            read(folder / name if kind.whole else file)  # valid files must be readable


def damage(originals: Path, folder: Path, seed: int, number: int) -> Path:
    """Write the damaged copy of input `number`, and return the path that the readers open."""
    name = kind_of(number)
    kind = KINDS[name]
    shutil.copytree(originals / name, folder)
    random = np.random.default_rng((seed, number))
    files = sorted(path for path in folder.glob(kind.damaged) if path.is_file())
    file = files[int(random.integers(len(files)))]
    file.write_bytes(mutate(file.read_bytes(), random))
    if name.startswith("encoder"):
        update_hashes(folder)  # otherwise the wrong hash is detected before the file is read
    return folder if kind.whole else file


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Return a copy of the bytes with one or a few random changes."""
    changed = bytearray(data)
    for _ in range(int(random.geometric(0.6))):
        size = len(changed)
        if not size:
            break
        # half of the changes are near the beginning or the end, because headers are there
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
    """Replace a random number in the text of a header, in place."""
    found = list(re.finditer(rb"(?<=[:\[, ])-?\d+(\.\d+)?", bytes(changed[:65536])))
    if found:
        match = found[int(random.integers(len(found)))]
        changed[match.start() : match.end()] = NUMBERS[int(random.integers(len(NUMBERS)))]


if __name__ == "__main__":
    main()
