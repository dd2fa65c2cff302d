"""Measure vector environments: start-up, memory and steps/s of four kinds, and with an encoder.

    LP_NUM_THREADS=0 python -m benchmarks.vector_env [ENCODER]    # a shipped name or a checkpoint

    sync         Gymnasium's SyncVectorEnv: the main process only
    async        Gymnasium's AsyncVectorEnv with shared memory: a process per environment
    forkserver   the same, forked from a server that has imported the environment's packages
    workers      envs.vector.WorkerVectorEnv: a process per core

Start-up and memory are measured in a new process for each kind: the seconds to make, reset and step
the environments once, and the proportional set size (PSS) of that process, including torch, and its
children. Kinds take turns, and figures are medians over the rounds.

Steps/s are environment steps per wall second, with the ratio to SyncVectorEnv of as many
environments. All ways of a table are started first and then take turns; both figures are medians
over the rounds, so that other load on the machine affects all. With LP_NUM_THREADS=0 the software
renderer runs in the calling thread; otherwise each process would have a renderer thread per core.

With an encoder, two cameras are used, and torch has the number of threads that the line shows. More
than one thread needs idle cores: beside other programs, the threads wait for one another.

    then encode            all images in one call, after the step
    encoders in workers    every worker has its own encoder, and embeds the images of one
                           environment at a time
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
TURN_S = 0.3  # at least one step
NEEDED = ["envs.catalogue", "gymnasium", "mujoco"]  # what an environment imports


def main() -> None:
    """Print the tables; with a kind and a number of cameras, print the figures of one start."""
    if len(sys.argv) > 2:
        _start(sys.argv[1], CAMERAS[: int(sys.argv[2])])
        return
    name = sys.argv[1] if len(sys.argv) > 1 else "toto-nano"
    for cameras in ((), CAMERAS):
        _compare_starts(cameras)
    for cameras in ((), CAMERAS):
        _head(f"{_images(cameras)} a step")
        for num_envs in NUM_ENVS:
            _measure({kind: make(kind, cameras, num_envs) for kind in KINDS})
    _encode(name)


def _encode(name: str) -> None:
    """Print the rates with embeddings."""
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
    """Make a vector environment of a kind."""
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
    """Make an environment with the process's encoder."""
    from toto_robot import TotoObservation

    return TotoObservation(make_env(CAMERAS), _encoder_of_worker(name))


@cache
def _encoder_of_worker(name: str) -> Any:
    import torch

    from toto_robot import load_encoder

    torch.set_num_threads(1)
    return load_encoder(name)


def _compare_starts(cameras: tuple[str, ...]) -> None:
    """Print start-up and memory of each kind, with the ratios to `workers`."""
    command = [sys.executable, "-m", "benchmarks.vector_env"]
    figures = np.zeros((NUM_STARTS, len(KINDS), 2))
    for turns in figures:
        for index, kind in enumerate(KINDS):
            run = [*command, kind, str(len(cameras))]
            turns[index] = subprocess.check_output(run, text=True).split()
    ratios = np.median(figures / figures[:, -1:], axis=0)
    what = f"{max(NUM_ENVS)} environments, {_images(cameras)}"
    print(f"{what:<46}{'start s':>8}{'ratio':>7}{'GB':>7}{'ratio':>7}")
    for kind, (start, memory), (longer, more) in zip(
        KINDS, np.median(figures, axis=0), ratios, strict=True
    ):
        print(f"{kind:<46}{start:>8.1f}{longer:>7.2f}{memory:>7.2f}{more:>7.2f}", flush=True)


def _start(kind: str, cameras: tuple[str, ...]) -> None:
    """Print the seconds to the end of the first step, and the memory in GB after it."""
    import torch  # noqa: F401  # as in a training program

    before = time.perf_counter()
    envs = make(kind, cameras, max(NUM_ENVS))
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    print(time.perf_counter() - before, _memory_gb(os.getpid()))
    envs.close()


def _memory_gb(process: int) -> float:
    """Return the proportional set size of a process and its descendants, GB."""
    place = Path(f"/proc/{process}")
    (size_kb,) = re.findall(r"^Pss:\s+(\d+) kB", (place / "smaps_rollup").read_text(), re.MULTILINE)
    tasks = (place / "task").glob("*/children")
    below = [int(child) for task in tasks for child in task.read_text().split()]
    return int(size_kb) * 1024 / 1e9 + sum(map(_memory_gb, below))


def _images(cameras: tuple[str, ...]) -> str:
    return f"{len(cameras)} images of {IMAGE_SIZE} px" if cameras else "no images"


def _head(what: str) -> None:
    print(f"{what:<40}{'envs':>6}{'steps/s':>10}{'ratio':>8}", flush=True)


def _measure(ways: dict[str, VectorEnv], prepare: Callable[[str], None] = lambda way: None) -> None:
    """Measure the ways in turns, and print a line for each; the first is the baseline."""
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
