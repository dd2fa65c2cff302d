"""Measure vector environments: steps a second of three kinds, and with an encoder.

    LP_NUM_THREADS=0 python -m benchmarks.vector_env [ENCODER]    # a shipped name or a checkpoint

Every figure is environment steps a second of wall time, with the ratio to gymnasium's SyncVectorEnv
of as many environments. The ways of a table are all started first and then take turns, and both
figures are medians over the rounds, so that what else runs on the machine troubles all alike.
LP_NUM_THREADS=0 has the software renderer draw in the process that asked, not in threads of its
own, of which each process would have one a core.

    sync       gymnasium's SyncVectorEnv: this process alone
    async      gymnasium's AsyncVectorEnv, with shared memory: a process for each environment
    workers    envs.vector.WorkerVectorEnv: a process for each core

With an encoder, on the pictures of two cameras; torch has as many threads as the line says. It
needs cores to itself for more than one: beside other programs, its threads wait for one another.

    then encode            all pictures in one call, after the step
    encode n early         `envs_per_call=n`: n environments' pictures are encoded as soon as they
                           are there, while the others step
    encoders in workers    every worker has an encoder of its own, and embeds one environment's
                           pictures at a time

The last table has a stand-in that sleeps instead of computing, as this process does while an
encoder runs on a graphics card: what early calls gain where they take no core.
"""

import sys
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from envs.vector import WorkerVectorEnv
from toto_robot import TotoObservation, TotoVectorObservation, load_encoder

ID = "envs:toto/FrankaPick-v0"
CAMERAS = ("hand", "front")
IMAGE_SIZE = 128
NUM_ENVS = (2, 4, 8)
NUM_ENVS_ENCODED = 8
NUM_ROUNDS = 5
TURN_S = 0.3  # at least one step
SLEEP_S = 1e-3


def main() -> None:
    """Print the tables."""
    name = sys.argv[1] if len(sys.argv) > 1 else "toto-nano"
    for cameras in ((), CAMERAS):
        _head(f"{len(cameras)} pictures of {IMAGE_SIZE} px a step" if cameras else "no pictures")
        for num_envs in NUM_ENVS:
            makers = [partial(make_env, cameras)] * num_envs
            _measure(
                {
                    "sync": SyncVectorEnv(makers),
                    "async": AsyncVectorEnv(makers, context="spawn"),
                    "workers": WorkerVectorEnv(makers),
                }
            )
    cores = torch.get_num_threads()
    encoder: Any = load_encoder(name)
    makers = [partial(make_env, CAMERAS)] * NUM_ENVS_ENCODED
    workers, one_worker = WorkerVectorEnv(makers), WorkerVectorEnv(makers, num_workers=1)
    sync = TotoVectorObservation(SyncVectorEnv(makers), encoder)
    after = TotoVectorObservation(workers, encoder)
    early = TotoVectorObservation(workers, encoder, 4)
    ways: dict[str, VectorEnv] = {
        "sync, then encode, 1 thread": sync,
        "workers, then encode, 1 thread": after,
        "workers, encode 1 early, 1 thread": TotoVectorObservation(workers, encoder, 1),
        "workers, encode 4 early, 1 thread": early,
        "one worker, encode 2 early, 1 thread": TotoVectorObservation(one_worker, encoder, 2),
        "encoders in workers, 1 thread each": WorkerVectorEnv(
            [partial(make_seeing_env, name)] * NUM_ENVS_ENCODED
        ),
        f"sync, then encode, {cores} threads": sync,
        f"workers, then encode, {cores} threads": after,
        f"workers, encode 4 early, {cores} threads": early,
    }
    _head(f"embedded by {name}")
    _measure(ways, lambda way: torch.set_num_threads(cores if way.endswith("threads") else 1))
    workers = WorkerVectorEnv(makers)
    _head(f"a stand-in, {SLEEP_S * 1e3:.0f} ms a picture")
    _measure(
        {
            "sync, then encode": TotoVectorObservation(SyncVectorEnv(makers), Sleeper()),
            "workers, then encode": TotoVectorObservation(workers, Sleeper()),
            "workers, encode 1 early": TotoVectorObservation(workers, Sleeper(), 1),
            "workers, encode 4 early": TotoVectorObservation(workers, Sleeper(), 4),
        }
    )


class Sleeper:
    """Take time and no processor."""

    dim = 8

    def __call__(self, frames: NDArray[np.uint8], /) -> torch.Tensor:
        """Give nothing, late."""
        time.sleep(SLEEP_S * len(frames))
        return torch.zeros(len(frames), self.dim)


def make_env(cameras: tuple[str, ...]) -> gymnasium.Env[Any, Any]:
    """Make what is measured."""
    return gymnasium.make(ID, cameras=cameras, image_size=IMAGE_SIZE)


def make_seeing_env(name: str) -> gymnasium.Env[Any, Any]:
    """Make the same with an encoder, of which a process has one."""
    return TotoObservation(make_env(CAMERAS), _encoder_of_worker(name))


@cache
def _encoder_of_worker(name: str) -> Any:
    torch.set_num_threads(1)
    return load_encoder(name)


def _head(what: str) -> None:
    print(f"{what:<40}{'envs':>6}{'steps/s':>10}{'ratio':>8}", flush=True)


def _measure(ways: dict[str, VectorEnv], prepare: Callable[[str], None] = lambda way: None) -> None:
    """Let the ways take turns, and print a line for each; the first is the baseline."""
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
