"""Measure worlds on threads of one process against worker processes, alternately in one run.

    LP_NUM_THREADS=0 python -m benchmarks.batch_env

    async        Gymnasium's AsyncVectorEnv with shared memory, one process per environment
    workers      envs.vector.WorkerVectorEnv, one process per core
    batch        envs.batch_manipulation.BatchManipulationEnv on the backend `mujoco`

The tables are those of `benchmarks.vector_env`: steps/s are environment steps per second of wall
time, and the ratio is to AsyncVectorEnv with the same number of environments. CPU ms is the CPU
time of this process and its children per environment step; other programs hardly change it.
Start-up time and memory are measured in a new process for each kind; memory per world is the
difference between 2 and 34 worlds, divided by 32. Values are medians over the rounds.

The last table compares ways to run the physics of 16 worlds on all cores, CPU ms per control step:

    batch            `MujocoBatch.follow`, then the poses of cube and hand, which rewards need
    mujoco.rollout   `mujoco.rollout.Rollout`, the physics only
    mujoco.batch     `mujoco.batch.Batch.rollout`, the physics only
"""

import os
import sys
import time
from pathlib import Path
from subprocess import check_output

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from envs.catalogue import make_vec, variant
from envs.simulation.mujoco_batch import MujocoBatch
from envs.simulation.scene import Appearance
from envs.vector import WorkerVectorEnv

from .vector_env import CAMERAS, IMAGE_SIZE, images, make_env, memory_gb

NUM_ENVS = (2, 8)
NUM_ROUNDS = 9
NUM_STARTS = 2
TURN_S = 0.4
MORE_WORLDS = 32
NUM_WORLDS = 16


def main() -> None:
    """Print the tables. With kind, cameras and worlds as arguments, measure one start."""
    if len(sys.argv) > 1:
        _start(sys.argv[1], CAMERAS[: int(sys.argv[2])], int(sys.argv[3]))
        return
    for cameras in ((), CAMERAS):
        for num_envs in NUM_ENVS:
            _measure(cameras, num_envs)
    for cameras in ((), CAMERAS):
        _compare_starts(cameras)
    _compare_physics()


def make(kind: str, cameras: tuple[str, ...], num_envs: int) -> VectorEnv:
    """Make a vector environment of one of the three kinds."""
    if kind == "batch":
        return make_vec(
            env_id="toto/FrankaPick-v0", num_envs=num_envs, cameras=cameras, image_size=IMAGE_SIZE
        )
    makers = [lambda: make_env(cameras)] * num_envs
    if kind == "workers":
        return WorkerVectorEnv(makers)
    return AsyncVectorEnv(makers, context="spawn")


KINDS = ("async", "workers", "batch")


def _measure(cameras: tuple[str, ...], num_envs: int) -> None:
    """Measure the kinds alternately, and print a line for each."""
    each = {kind: make(kind, cameras, num_envs) for kind in KINDS}
    for envs in each.values():
        envs.reset(seed=0)
        envs.action_space.seed(0)
        envs.step(envs.action_space.sample())
    rates, cpu_ms = np.zeros((2, NUM_ROUNDS, len(KINDS)))
    for turn in range(NUM_ROUNDS):
        for index, envs in enumerate(each.values()):
            start, cpu_s, count = time.perf_counter(), _cpu_s(os.getpid()), 0
            while time.perf_counter() - start < TURN_S:
                envs.step(envs.action_space.sample())
                count += num_envs
            rates[turn, index] = count / (time.perf_counter() - start)
            cpu_ms[turn, index] = 1e3 * (_cpu_s(os.getpid()) - cpu_s) / count
    ratios = np.median(rates / rates[:, :1], axis=0)
    print(f"{images(cameras):<40}{'envs':>6}{'steps/s':>10}{'ratio':>8}{'CPU ms':>8}")
    for values in zip(each, np.median(rates, 0), ratios, np.median(cpu_ms, 0), strict=True):
        kind, rate, ratio, ms = values
        print(f"{kind:<40}{num_envs:>6}{rate:>10.1f}{ratio:>8.2f}{ms:>8.2f}", flush=True)
        each[kind].close()


def _compare_starts(cameras: tuple[str, ...]) -> None:
    """Print the start-up time and the memory of each kind."""
    few, many = min(NUM_ENVS), min(NUM_ENVS) + MORE_WORLDS
    print(f"{images(cameras):<40}{'envs':>6}{'start s':>10}{'MB':>8}{'MB per world':>14}")
    for kind in KINDS:
        # 34 processes would need several GB, so AsyncVectorEnv is measured with 2 and 10.
        sizes = (few, few + MORE_WORLDS // 4 if kind == "async" else many)
        figures = [
            np.median([_started(kind, cameras, size) for _ in range(NUM_STARTS)], axis=0)
            for size in sizes
        ]
        growth = (figures[1][1] - figures[0][1]) / (sizes[1] - sizes[0])
        for size, (start_s, memory) in zip(sizes, figures, strict=True):
            print(
                f"{kind:<40}{size:>6}{start_s:>10.1f}{1e3 * memory:>8.0f}{1e3 * growth:>14.1f}",
                flush=True,
            )


def _started(kind: str, cameras: tuple[str, ...], num_envs: int) -> list[float]:
    arguments = [kind, str(len(cameras)), str(num_envs)]
    printed = check_output([sys.executable, "-m", "benchmarks.batch_env", *arguments], text=True)
    return [float(value) for value in printed.split()]


def _start(kind: str, cameras: tuple[str, ...], num_envs: int) -> None:
    """Print the time until the end of the first step (s), and the memory then (GB)."""
    before = time.perf_counter()
    envs = make(kind, cameras, num_envs)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    print(time.perf_counter() - before, memory_gb(os.getpid()))
    envs.close()


def _compare_physics() -> None:
    """Print the CPU time of three ways to run the physics of many worlds."""
    import mujoco
    import mujoco.batch
    import mujoco.rollout

    chosen = variant("toto/FrankaPick-v0")
    scene, arm, rng = chosen.task.scene(chosen.arm), chosen.arm, np.random.default_rng(0)
    batch = MujocoBatch(NUM_WORLDS)
    batch.build(scene, arm)
    starts = [chosen.task.sample_start(arm, rng) for _ in range(NUM_WORLDS)]
    batch.reset(None, starts, [Appearance()] * NUM_WORLDS)
    first = np.stack([np.concatenate([start.arm_rad, start.hand]) for start in starts])
    targets = np.stack([first + 0.003 * step for step in range(chosen.protocol.num_targets)])
    substeps = round(1 / (chosen.protocol.rate_hz * scene.timestep_s * len(targets)))
    models = [world._model for world in batch._worlds]
    controls = np.zeros((NUM_WORLDS, len(targets) * substeps, models[0].nu))
    controls[..., batch._worlds[0]._actuators] = targets.repeat(substeps, axis=0).swapaxes(0, 1)
    full = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
    states = np.zeros((NUM_WORLDS, mujoco.mj_stateSize(models[0], full)))
    for world, state in zip(batch._worlds, states, strict=True):
        mujoco.mj_getState(world._model, world._data, state, full)
    rollout = mujoco.rollout.Rollout(nthread=batch.num_threads)
    data = [mujoco.MjData(models[0]) for _ in range(batch.num_threads)]
    sims = mujoco.batch.Batch(models[0], NUM_WORLDS, nthread=batch.num_threads)
    sims.set_models(models)

    def follow() -> None:
        batch.follow(targets, substeps)
        batch.bodies(("cube", "hand"))

    ways = {
        "batch": follow,
        "mujoco.rollout": lambda: rollout.rollout(models, data, states, controls),
        "mujoco.batch": lambda: sims.rollout(controls.shape[1], controls),
    }
    cpu_ms = np.zeros((NUM_ROUNDS, len(ways)))
    for turn in cpu_ms:
        for index, call in enumerate(ways.values()):
            before = time.process_time()
            call()
            turn[index] = 1e3 * (time.process_time() - before) / NUM_WORLDS
    for way, ms in zip(ways, np.median(cpu_ms, axis=0), strict=True):
        print(f"{way:<40}{NUM_WORLDS:>6}{ms:>26.2f}", flush=True)
    batch.close()


def _cpu_s(process: int) -> float:
    """Return the CPU time that a process and its descendants have used so far, s."""
    place = Path(f"/proc/{process}")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    tasks = (place / "task").glob("*/children")
    below = [int(child) for task in tasks for child in task.read_text().split()]
    own_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own_s + sum(map(_cpu_s, below))


if __name__ == "__main__":
    main()
