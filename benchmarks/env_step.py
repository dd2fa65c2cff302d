"""Measure the cost of the environment classes over direct calls of MuJoCo, and the steps/s.

    OMP_NUM_THREADS=1 python -m benchmarks.env_step [ENVIRONMENT ...]    # default: all environments

An episode is recorded once. `layer` replays its actions with `env.step`. The baseline `bare`
replays the servo targets of the episode with `mj_step`, on the same model from the same state. For
each camera, it calls `mujoco.Renderer.update_scene` and `render`. The two run alternately, and the
fastest run of each counts. The cost of `layer` is CPU time of all threads of the process, which
other programs hardly affect. Steps/s are steps per second of wall time. With two processes, both
run the whole measurement at the same time.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import gymnasium
import numpy as np

import envs
from envs.experts import EXPERTS
from envs.manipulation import ManipulationEnv
from envs.simulation.mujoco_backend import MujocoSimulator

NUM_STEPS = 50
NUM_TURNS = 5
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An environment and its settings to measure."""

    env_id: str
    protocol: str
    cameras: tuple[str, ...]
    image_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The mean wall time and CPU time of a control step, seconds."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Measure all cases, and print a table of costs and steps/s."""
    # A software renderer has one thread, because one process per core is faster than threads.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    env_ids = sys.argv[1:] or envs.ENVIRONMENTS
    print(
        f"{'environment':<24}{'protocol':<9}{'cameras':<13}{'px':>4}{'processes':>10}"
        f"{'steps/s':>9}{'bare':>7}{'CPU ms':>8}{'bare':>7}{'layer':>8}"
    )
    for env_id in env_ids:
        for case in cases(env_id):
            for num_processes in (1, 2):
                _print(case, num_processes, _run(case, num_processes))


def cases(env_id: str) -> list[Case]:
    """Return the measured cases of an environment: with and without cameras."""
    none = [
        Case(env_id=env_id, protocol=protocol, cameras=(), image_size=128)
        for protocol in ("pixmc", "robot")
    ]
    return none + [
        Case(env_id=env_id, protocol="robot", cameras=cameras, image_size=image_size)
        for image_size in (128, 224)
        for cameras in (("hand",), ("hand", "front"))
    ]


def measure(case: Case, barrier: Barrier | None = None) -> tuple[Cost, Cost]:
    """Return the cost of a control step with the environment classes, and without them."""
    env = gymnasium.make(
        f"envs:{case.env_id}",
        protocol=case.protocol,
        cameras=case.cameras,
        image_size=case.image_size,
        privileged=True,
        disable_env_checker=True,
    ).unwrapped
    assert isinstance(env, ManipulationEnv)
    simulator = env.simulator
    assert isinstance(simulator, MujocoSimulator)
    actions, targets = _record(env, case)
    env.reset(seed=SEED)
    state = env.save()
    bare = _bare(simulator, case, env.design.num_substeps)
    turns: tuple[list[Cost], list[Cost]] = ([], [])
    for _ in range(NUM_TURNS):
        if barrier is not None:
            barrier.wait()
        env.restore(state)
        turns[0].append(_time(env.step, actions))
        env.restore(state)
        turns[1].append(_time(bare, targets))
    env.close()
    layer, plain = (
        Cost(
            wall_s=min(cost.wall_s for cost in costs),
            cpu_s=min(cost.cpu_s for cost in costs),
        )
        for costs in turns
    )
    return layer, plain


def _record(env: ManipulationEnv, case: Case) -> tuple[list[Any], list[Any]]:
    """Return the actions of an episode, and the servo targets of each action.

    The targets of an action are an array [n servos]: n substeps, one column per servo.
    """
    rng, actions, targets = np.random.default_rng(SEED), [], []
    simulator, follow = env.simulator, env.simulator.follow

    def record(values: np.ndarray, num_steps: int) -> None:
        targets.append(list(values))
        follow(values, num_steps)

    simulator.follow = record  # pyrefly: ignore  # during this episode
    expert = EXPERTS[case.env_id]() if case.protocol == "robot" else None
    observation, _ = env.reset(seed=SEED)
    for _ in range(NUM_STEPS):
        if expert is None:
            action = rng.uniform(-0.1, 0.1, len(env.interface.action)).astype(np.float32)
        else:
            action = expert.act(observation)
        observation, *_ = env.step(action)
        actions.append(action)
    del simulator.follow
    return actions, targets


def _bare(simulator: MujocoSimulator, case: Case, num_substeps: int) -> Callable[[Any], object]:
    import mujoco

    model, data, actuators = simulator._model, simulator._data, simulator._actuators
    (renderer,) = simulator._renderers._renderers.values()  # all images have one size

    def step(targets: list[np.ndarray]) -> None:
        for values in targets:
            data.ctrl[actuators] = values
            mujoco.mj_step(model, data, num_substeps)
        for camera in case.cameras:
            renderer.update_scene(data, camera=camera)
            renderer.render()

    return step


def _time(call: Callable[[Any], object], inputs: list[Any]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    for values in inputs:
        call(values)
    return Cost(
        wall_s=(time.perf_counter() - wall) / len(inputs),
        cpu_s=(time.process_time() - cpu) / len(inputs),
    )


def _run(case: Case, num_processes: int) -> list[tuple[Cost, Cost]]:
    if num_processes == 1:
        return [measure(case)]
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(num_processes) as pool:
        barrier: Any = manager.Barrier(num_processes)
        return pool.starmap(measure, [(case, barrier)] * num_processes, chunksize=1)


def _print(case: Case, num_processes: int, costs: list[tuple[Cost, Cost]]) -> None:
    rate, bare_rate = (sum(1 / pair[which].wall_s for pair in costs) for which in (0, 1))
    cpu_ms, bare_ms = (
        float(np.mean([pair[which].cpu_s for pair in costs])) * 1e3 for which in (0, 1)
    )
    print(
        f"{case.env_id:<24}{case.protocol:<9}{' + '.join(case.cameras) or 'none':<13}"
        f"{case.image_size if case.cameras else '':>4}{num_processes:>10}"
        f"{rate:>9.0f}{bare_rate:>7.0f}{cpu_ms:>8.2f}{bare_ms:>7.2f}{cpu_ms / bare_ms - 1:>+8.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
