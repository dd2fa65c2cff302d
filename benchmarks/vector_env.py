"""Measure four kinds of vector environments: start-up time, memory, and steps per second.

    LP_NUM_THREADS=0 python -m benchmarks.vector_env [ENCODER]    # a shipped name or a checkpoint

    sync         Gymnasium's SyncVectorEnv, which has only the main process
    async        Gymnasium's AsyncVectorEnv with shared memory, one process per environment
    forkserver   AsyncVectorEnv, whose processes are forked from a server that has already imported
                 the packages of the environment
    workers      envs.vector.WorkerVectorEnv, one process per core

Start-up time and memory are measured in a new process for each kind. The start-up time is the time
to make, reset and step the environments once, s. The memory is the proportional set size (PSS) of
this process and its children, and includes torch. The kinds run alternately. Printed values are
medians over the rounds.

Steps/s are environment steps per second of wall time. The ratio is to SyncVectorEnv with the same
number of environments. All kinds of a table are started first, and then run alternately, so that
other load on the machine affects all of them. Both values are medians over the rounds. With
LP_NUM_THREADS=0, the software renderer runs in the calling thread. Otherwise each process would
have one renderer thread per core.

A second part measures the environments with an encoder and two cameras. Each line shows the number
of torch threads. More than one thread is useful only on idle cores. If other programs run, the
threads wait for each other.

    then encode            one encoder call for the images of all environments, after the step
    encoders in workers    each worker has an encoder, and embeds the images of one environment at a
                           time
"""

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from envs.vector import WorkerVectorEnv

# Workers import this module, so torch is imported only where it is needed.

ID = "envs:toto/FrankaPick-v0"
CAMERAS = ("hand", "front")
IMAGE_SIZE = 128
NUM_ENVS = (2, 4, 8)
NUM_ENVS_ENCODED = 8
NUM_ROUNDS = 5
NUM_STARTS = 3
TURN_S = 0.3  # duration of a measurement, s; at least one step is made
NEEDED = ["envs.catalogue", "gymnasium", "mujoco"]  # what an environment imports


def main() -> None:
    """Print the tables. With a kind and a number of cameras as arguments, measure one start."""
    if len(sys.argv) > 2:
        _start(sys.argv[1], CAMERAS[: int(sys.argv[2])])
        return
    name = sys.argv[1] if len(sys.argv) > 1 else "toto-nano"
    for cameras in ((), CAMERAS):
        _compare_starts(cameras)
    for cameras in ((), CAMERAS):
        _head(f"{images(cameras)} a step")
        for num_envs in NUM_ENVS:
            _measure({kind: make(kind, cameras, num_envs) for kind in KINDS})
    _encode(name)


def _encode(name: str) -> None:
    """Print the steps/s of environments with an encoder."""
    import torch

    from toto_robot import TotoVectorObservation, load_encoder

    cores = torch.get_num_threads()
    encoder: Any = load_encoder(name)
    makers = [partial(make_env, CAMERAS)] * NUM_ENVS_ENCODED
    sync = TotoVectorObservation(SyncVectorEnv(makers), encoder)
    after = TotoVectorObservation(WorkerVectorEnv(makers), encoder)
    embedding = WorkerVectorEnv([partial(make_embedding_env, name)] * NUM_ENVS_ENCODED)
    ways: dict[str, VectorEnv] = {
        "sync, then encode, 1 thread": sync,
        "workers, then encode, 1 thread": after,
        "encoders in workers, 1 thread each": embedding,
        f"sync, then encode, {cores} threads": sync,
        f"workers, then encode, {cores} threads": after,
    }
    _head(f"embedded by {name}")
    _measure(ways, lambda way: torch.set_num_threads(cores if way.endswith("threads") else 1))


def make(kind: str, cameras: tuple[str, ...], num_envs: int) -> VectorEnv:
    """Make a vector environment of one of the four kinds."""
    return KINDS[kind]([partial(make_env, cameras)] * num_envs)


def _from_forkserver(makers: list[Any]) -> VectorEnv:
    multiprocessing.set_forkserver_preload(NEEDED)
    return AsyncVectorEnv(makers, context="forkserver")


KINDS: dict[str, Callable[[list[Any]], VectorEnv]] = {
    "sync": SyncVectorEnv,
    "async": partial(AsyncVectorEnv, context="spawn"),
    "forkserver": _from_forkserver,
    "workers": WorkerVectorEnv,
}


def make_env(cameras: tuple[str, ...]) -> gymnasium.Env[Any, Any]:
    """Make an environment."""
    return gymnasium.make(ID, cameras=cameras, image_size=IMAGE_SIZE)


def make_embedding_env(name: str) -> gymnasium.Env[Any, Any]:
    """Make an environment that embeds its images with the encoder of this process."""
    from toto_robot import TotoObservation

    return TotoObservation(make_env(CAMERAS), _encoder_of_worker(name))


@cache
def _encoder_of_worker(name: str) -> Any:
    import torch

    from toto_robot import load_encoder

    torch.set_num_threads(1)
    return load_encoder(name)


def _compare_starts(cameras: tuple[str, ...]) -> None:
    """Print the start-up time and the memory of each kind, with the ratios to `workers`."""
    command = [sys.executable, "-m", "benchmarks.vector_env"]
    figures = np.zeros((NUM_STARTS, len(KINDS), 2))
    for turns in figures:
        for index, kind in enumerate(KINDS):
            run = [*command, kind, str(len(cameras))]
            turns[index] = subprocess.check_output(run, text=True).split()
    ratios = np.median(figures / figures[:, -1:], axis=0)
    what = f"{max(NUM_ENVS)} environments, {images(cameras)}"
    print(f"{what:<46}{'start s':>8}{'ratio':>7}{'GB':>7}{'ratio':>7}")
    for kind, (start, memory), (longer, more) in zip(
        KINDS, np.median(figures, axis=0), ratios, strict=True
    ):
        print(f"{kind:<46}{start:>8.1f}{longer:>7.2f}{memory:>7.2f}{more:>7.2f}", flush=True)


def _start(kind: str, cameras: tuple[str, ...]) -> None:
    """Print the time from the start to the end of the first step (s), and the memory then (GB)."""
    import torch  # noqa: F401  # a training program imports torch too, so its memory counts

    before = time.perf_counter()
    envs = make(kind, cameras, max(NUM_ENVS))
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    print(time.perf_counter() - before, memory_gb(os.getpid()))
    envs.close()


def memory_gb(process: int) -> float:
    """Return the memory (proportional set size) of a process and its descendants, GB."""
    place = Path(f"/proc/{process}")
    (size_kb,) = re.findall(r"^Pss:\s+(\d+) kB", (place / "smaps_rollup").read_text(), re.MULTILINE)
    tasks = (place / "task").glob("*/children")
    below = [int(child) for task in tasks for child in task.read_text().split()]
    return int(size_kb) * 1024 / 1e9 + sum(map(memory_gb, below))


def images(cameras: tuple[str, ...]) -> str:
    """Return a text with the number and the size of the images."""
    return f"{len(cameras)} images of {IMAGE_SIZE} px" if cameras else "no images"


def _head(what: str) -> None:
    print(f"{what:<40}{'envs':>6}{'steps/s':>10}{'ratio':>8}", flush=True)


def _measure(ways: dict[str, VectorEnv], prepare: Callable[[str], None] = lambda way: None) -> None:
    """Measure vector environments alternately, and print a line for each.

    The first one is the baseline of the ratios.
    """
    for envs in ways.values():
        envs.reset(seed=0)
        envs.action_space.seed(0)
        envs.step(envs.action_space.sample())
    rates = np.zeros((NUM_ROUNDS, len(ways)))
    for turns in rates:
        for index, (way, envs) in enumerate(ways.items()):
            prepare(way)
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < TURN_S:
                envs.step(envs.action_space.sample())
                count += envs.num_envs
            turns[index] = count / (time.perf_counter() - start)
    ratios = np.median(rates / rates[:, :1], axis=0)
    for (way, envs), rate, ratio in zip(
        ways.items(), np.median(rates, axis=0), ratios, strict=True
    ):
        print(f"{way:<40}{envs.num_envs:>6}{rate:>10.1f}{ratio:>8.2f}", flush=True)
        envs.close()


if __name__ == "__main__":
    main()
