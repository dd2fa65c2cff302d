"""Measure how quick the Franka pick is: steps and pictures per second on one core.

    OMP_NUM_THREADS=1 LP_NUM_THREADS=0 python -m benchmarks.env_step

Prints CPU time (of the process, all threads) beside wall time: the first does not move when other
programs share the machine. The baseline of rendering is what MuJoCo does by default: shadows and
four samples a pixel, measured in the same run.
"""

import time
from collections.abc import Callable

import gymnasium
import numpy as np

from envs.arms import FRANKA_PANDA
from envs.experts import FrankaPickExpert
from envs.mujoco_backend import MujocoSimulator
from envs.scene import Appearance
from envs.tasks.pick import PickTask

SIZES_PX = (64, 128, 224)
NUM_STEPS = 240
NUM_PICTURES = 100


def main() -> None:
    """Print one table."""
    print(f"{'what':<44}{'per s':>9}{'wall ms':>9}{'cpu ms':>9}")
    for cameras in ((), ("hand",), ("hand", "front")):
        env = gymnasium.make("envs:toto/FrankaPick-v0", cameras=cameras, privileged=True)
        _steps(env)
        env.close()
    expert = FrankaPickExpert()
    env = gymnasium.make("envs:toto/FrankaPick-v0", cameras=(), privileged=True)
    observation, _ = env.reset(seed=0)
    _report("the expert's action", 200, lambda: expert.act(observation))
    env.close()

    task, simulator = PickTask(), MujocoSimulator()
    simulator.build(task.scene(FRANKA_PANDA), FRANKA_PANDA)
    start = task.sample_start(FRANKA_PANDA, np.random.default_rng(0))
    joints = dict(zip(FRANKA_PANDA.joint_names, start.joint_positions, strict=True))
    simulator.reset(joints, start.box_poses, Appearance())
    for size in SIZES_PX:
        for camera in ("hand", "front"):
            cpu_ms = {
                fine: _report(
                    f"{camera} {size} px, {'shadows, 4 samples' if fine else 'plain'}",
                    NUM_PICTURES,
                    lambda camera=camera, size=size, fine=fine: simulator.render(
                        camera, size, size, fine=fine
                    ),
                )
                for fine in (False, True)
            }
            print(f"    plain is {cpu_ms[True] / cpu_ms[False]:.1f} times as quick")
    simulator.close()


def _steps(env: gymnasium.Env) -> None:
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    count = 0

    def step() -> None:
        nonlocal count
        action = rng.uniform(-0.3, 0.3, 8).astype(np.float32)
        _, _, terminated, truncated, _ = env.step(action)
        count += 1
        if terminated or truncated:
            env.reset()

    cameras = env.unwrapped.interface.camera_names  # pyrefly: ignore  # ours has an interface
    _report(f"step, cameras: {', '.join(cameras) or 'none'}", NUM_STEPS, step)


def _report(what: str, repeats: int, call: Callable[[], object]) -> float:
    """Print what one call costs, and give its CPU time in ms."""
    call()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    wall_ms = (time.perf_counter() - wall) / repeats * 1e3
    cpu_ms = (time.process_time() - cpu) / repeats * 1e3
    print(f"{what:<44}{1e3 / wall_ms:>9.0f}{wall_ms:>9.2f}{cpu_ms:>9.2f}", flush=True)
    return cpu_ms


if __name__ == "__main__":
    main()
