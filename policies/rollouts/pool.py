"""Distribute groups of episodes over worker processes, or run them in this process.

Each worker process has its own environments and its own copy of the encoder.
"""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import torch

from toto_robot.data.runners import end_with_parent
from toto_robot.device import num_cpus

from ..environment import is_batched
from .job import Rollout, RolloutJob, add_seconds
from .rollout import RolloutSpec, RolloutWorker


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """Settings for running episodes in worker processes.

    Attributes:
        num_workers: number of worker processes; 0: run in the main process; None: one per core.
        group: number of episodes that a worker runs in lockstep: one control step of each episode
            in turn, so that their frames are encoded in one batch.
    """

    num_workers: int | None
    group: int

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if self.group < 1:
            raise ValueError(f"group must be at least 1, got {self.group}")


class RolloutPool:
    """A pool of worker processes that run groups of episodes.

    Attributes:
        seconds: wall time of each phase so far, in seconds. While several workers run, the wall
            time is divided in proportion to the seconds that all workers spent in each phase.
        num_workers: number of worker processes; 0: the main process runs the episodes.
        group: number of episodes that a worker runs in lockstep.
        spec: environment, encoder and expert of the episodes.
    """

    def __init__(self, spec: RolloutSpec, config: RolloutConfig) -> None:
        self.seconds: dict[str, float] = {}
        self.num_workers = num_cpus() if config.num_workers is None else config.num_workers
        self.group = config.group
        if is_batched(spec.env):  # the worlds have their own threads or their own GPU
            self.num_workers, self.group = 0, spec.env.num_envs or config.group
        self.spec = spec
        self._executor: ProcessPoolExecutor | None = None
        self._local_worker: RolloutWorker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if self._executor is not None:
            if failed is not None:  # Ctrl-C: do not wait for running episodes
                for process in list((self._executor._processes or {}).values()):
                    process.kill()
            self._executor.shutdown(wait=failed is None, cancel_futures=True)
        if self._local_worker is not None:
            self._local_worker.close()

    def run(
        self, jobs: Sequence[RolloutJob], each: Callable[[list[Rollout]], None] = lambda _: None
    ) -> list[Rollout]:
        """Run groups of episodes, and return the results in the order of `jobs`.

        The returned results do not contain recorded episodes and embeddings, to save memory; only
        `each` receives them.

        Args:
            jobs: the groups of episodes.
            each: called once per group with its results, including recorded episodes and
                embeddings. The calls are in the order of `jobs`, as early as possible.
        """
        if not jobs:
            return []
        start, spent, everything = time.perf_counter(), dict[str, float](), list[Rollout]()
        for rollouts, seconds in self._map(jobs):
            add_seconds(spent, seconds)
            everything += [replace(rollout, episode=None, features=None) for rollout in rollouts]
            each(rollouts)
        wall, total = time.perf_counter() - start, sum(spent.values())
        add_seconds(self.seconds, {phase: wall * value / total for phase, value in spent.items()})
        return everything

    def seconds_since(self, before: Mapping[str, float]) -> dict[str, float]:
        """Return the seconds of each phase since `self.seconds` was equal to `before`."""
        return {phase: value - before.get(phase, 0.0) for phase, value in self.seconds.items()}

    def _map(self, jobs: Sequence[RolloutJob]) -> Iterator[tuple[list[Rollout], dict[str, float]]]:
        if self.num_workers == 0:
            if self._local_worker is None:
                self._local_worker = RolloutWorker(self.spec)
            yield from map(self._local_worker.run, jobs)
            return
        if self._executor is None:
            # spawn: neither EGL contexts nor torch's threads survive a fork
            self._executor = ProcessPoolExecutor(
                self.num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self.spec, time.time()),
            )
        before = signal.getsignal(signal.SIGINT)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:  # inherited by workers, which must ignore Ctrl-C: this process ends them
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            results = self._executor.map(_run_in_worker, jobs)
        finally:
            if in_main_thread:
                signal.signal(signal.SIGINT, before)
        yield from results


_worker: RolloutWorker | None = None
_start_up_s: float = 0.0


def _start_worker(spec: RolloutSpec, created_s: float) -> None:
    """Initialise a worker process: load the encoder and make the environments.

    Args:
        spec: environment, encoder and expert.
        created_s: time at which the main process started the worker, s.
    """
    global _worker, _start_up_s
    end_with_parent()
    torch.set_num_threads(1)
    _worker = RolloutWorker(spec)
    _start_up_s = time.time() - created_s


def _run_in_worker(job: RolloutJob) -> tuple[list[Rollout], dict[str, float]]:
    global _start_up_s
    assert _worker is not None
    rollouts, seconds = _worker.run(job)
    seconds["start-up"] += _start_up_s
    _start_up_s = 0.0
    return rollouts, seconds
