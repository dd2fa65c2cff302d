"""Run a large job in slices, with local processes, a Slurm array, or a Ray cluster.

A job is a callable that computes one slice of the result. It reads files that all workers can read.
The result does not depend on the runner, so a job may start with one runner and resume with
another.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar

from tqdm import tqdm

__all__ = ["Job", "Local", "Plan", "RayCluster", "Runner", "Slurm", "end_with_parent", "run_slices"]

Job = Callable[[int], None]
_TASK = "SLURM_ARRAY_TASK_ID"


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """Worker processes on this machine.

    Attributes:
        workers: number of worker processes. With 1, the job runs in the main process.
    """

    kind: ClassVar[str] = "local"
    workers: int

    def __post_init__(self) -> None:
        """Check that there is at least one worker."""
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def run(self, job: Job, slices: Sequence[int]) -> None:
        """Process the slices.

        Raises:
            RuntimeError: a worker process died. It is raised after the other workers have finished
                all other slices.
        """
        workers = min(self.workers, len(slices))
        if workers <= 1:
            for number in tqdm(slices, desc="slices", unit="slice"):
                job(number)
            return
        # "spawn", because a forked child would inherit the state of torch's threads
        context = multiprocessing.get_context("spawn")
        left, processes, waiting = iter(slices), [], []
        for _ in range(workers):
            here, there = context.Pipe()
            processes.append(context.Process(target=_work, args=(job, there), daemon=True))
            processes[-1].start()
            there.close()  # so that the pipe ends when the worker dies
            waiting.append(here)
        try:
            with tqdm(total=len(slices), desc="slices", unit="slice") as progress:
                while waiting:
                    ready = wait(waiting)
                    for connection in [one for one in waiting if one in ready]:
                        try:
                            progress.update(connection.recv())
                            connection.send(next(left, None))
                        except (EOFError, OSError):
                            waiting.remove(connection)
            for process in processes:
                process.join()
        except BaseException:  # such as Ctrl-C. An unfinished slice leaves no file.
            for process in processes:
                process.kill()
            raise
        if codes := [process.exitcode for process in processes if process.exitcode]:
            raise RuntimeError(f"{len(codes)} of {workers} workers ended with {codes}; run again")


def _work(job: Job, parent: Connection) -> None:
    """Process the slices that the parent process sends, until it sends None or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and ends its workers
    end_with_parent()
    parent.send(0)  # number of slices that were finished
    while (number := parent.recv()) is not None:
        job(number)
        parent.send(1)


def end_with_parent() -> None:
    """End this worker process of `multiprocessing` when its parent process ends, even by kill -9.

    A thread waits for the end of the parent process.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@dataclass(frozen=True, kw_only=True, slots=True)
class Slurm:
    """One task of a Slurm job array.

    First write the plan with ``runner=plan``. Then start the tasks with
    ``sbatch --array=0-<tasks - 1>``.

    Attributes:
        slices_per_task: number of slices of each task. Task n begins with slice
            n * slices_per_task.
    """

    kind: ClassVar[str] = "slurm"
    slices_per_task: int

    def __post_init__(self) -> None:
        """Check that a task has at least one slice."""
        if self.slices_per_task < 1:
            raise ValueError(f"slices_per_task must be at least 1, got {self.slices_per_task}")

    @property
    def is_task(self) -> bool:
        """Whether this process is a task of a job array."""
        return _TASK in os.environ

    def mine(self, slices: int) -> range:
        """Return the numbers of the slices that this task processes.

        Args:
            slices: number of slices of the job.

        Raises:
            ValueError: the process is not a task of a job array, or its number is too high.
        """
        text = os.environ.get(_TASK)
        if text is None or not text.isdigit():
            raise ValueError(
                f"runner=slurm is for tasks of a job array: {_TASK} is "
                + ("not set" if text is None else repr(text))
            )
        first = int(text) * self.slices_per_task
        if first >= slices:
            tasks = -(-slices // self.slices_per_task)
            raise ValueError(f"task {text} has no slice: use --array=0-{tasks - 1}")
        return range(first, min(first + self.slices_per_task, slices))

    def run(self, job: Job, slices: Sequence[int]) -> None:
        """Process the slices in this process."""
        Local(workers=1).run(job, slices)


@dataclass(frozen=True, kw_only=True, slots=True)
class RayCluster:
    """Workers of a Ray cluster, used through Ray Data.

    All machines of the cluster must have the files under the same paths.

    Attributes:
        address: address of the cluster, such as ``auto``. null starts Ray on this machine.
        workers: number of workers that run at the same time.
        cpus_per_worker: number of CPU cores that Ray reserves for each worker.
        gpus_per_worker: number of GPUs that Ray reserves for each worker, which may be a fraction.
    """

    kind: ClassVar[str] = "ray"
    address: str | None
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float

    def run(self, job: Job, slices: Sequence[int]) -> None:
        """Process the slices.

        Raises:
            ImportError: Ray is not installed.
        """
        if not slices:
            return  # Ray does not accept an empty list
        # no usage statistics are sent, unless the user has set this variable
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ImportError("runner=ray needs Ray: pip install 'toto-robot[ray]'") from error
        mine = not ray.is_initialized()
        if mine:
            here: dict[str, Any] = {
                "num_cpus": max(1, round(self.workers * self.cpus_per_worker)),
                "include_dashboard": False,
            }
            ray.init(address=self.address, **(here if self.address is None else {}))
        try:
            ray.data.from_items(
                [{"slice": number} for number in slices], override_num_blocks=len(slices)
            ).map_batches(
                _RayWorker,
                fn_constructor_args=(job,),
                batch_size=1,
                concurrency=self.workers,
                num_cpus=self.cpus_per_worker,
                num_gpus=self.gpus_per_worker,
            ).materialize()
        finally:
            if mine:
                ray.shutdown()


class _RayWorker:
    """A Ray worker that keeps the job between slices, so the tokenizer is loaded only once."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for number in batch["slice"]:
            self._job(int(number))
        return batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A runner without workers. Only the plan is written, and a Slurm array processes it later."""

    kind: ClassVar[str] = "plan"

    def run(self, job: Job, slices: Sequence[int]) -> None:
        """Do nothing, because a Slurm array processes the slices later."""


Runner = Local | Slurm | RayCluster | Plan


def run_slices(runner: Runner, unfinished: Sequence[int], slices: int) -> list[int]:
    """Return the unfinished slices that this run must process.

    Args:
        runner: the runner.
        unfinished: numbers of all unfinished slices.
        slices: number of all slices of the job.

    Raises:
        ValueError: no slice belongs to this task of a Slurm array (see `Slurm.mine`).
    """
    if isinstance(runner, Plan):
        return []
    if isinstance(runner, Slurm):
        mine = runner.mine(slices)
        return [number for number in unfinished if number in mine]
    return list(unfinished)
