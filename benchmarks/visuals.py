"""Measure the time to render an image with simple shapes, and with the published meshes of the arm.

    python -m benchmarks.visuals [FOLDER ...]

The folders contain published meshes (see envs/arms/meshes.py). Without folders, the meshes of
installed packages are used. If there are none, the command fails. All settings render the same
episode of a scripted expert. They run alternately. The fastest run of each setting counts, in CPU
time.
"""

import os
import sys
import time

from envs.arms.meshes import find_meshes
from envs.catalogue import make
from envs.experts import EXPERTS
from envs.manipulation import EnvState, ManipulationEnv
from envs.simulation.scene import Quality

IMAGE_SIZE = 128
CAMERAS = ("hand", "front")
NUM_STATES, EVERY = 8, 3
NUM_TURNS = 5
ENVIRONMENTS = ("toto/FrankaPick-v0", "toto/KukaPick-v0")
QUALITIES = {
    "plain": Quality(),
    "shadows": Quality(shadows=True),
    "4 samples": Quality(samples=4),
    "both": Quality(shadows=True, samples=4),
}


def main() -> None:
    """Print the times to render an image, for each setting and arm."""
    # A software renderer has one thread, because one process per core is faster than threads.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    folders = {env_id: _folder(env_id, sys.argv[1:]) for env_id in ENVIRONMENTS}
    print(
        f"{'environment':<22}{'visuals':<9}{'quality':<11}{'CPU ms':>8}{'frames/s':>10}{'cost':>8}"
    )
    for env_id, folder in folders.items():
        _measure(env_id, folder)


def _folder(env_id: str, folders: list[str]) -> str | None:
    """Return the folder with the arm's meshes, or None for the installed package.

    Raises:
        SystemExit: no meshes were found. The message explains how to get them.
    """
    arm = make(env_id=env_id, cameras=()).arm.name
    reasons = []
    for folder in folders or [None]:
        try:
            find_meshes(arm, folder)
        except ValueError as error:
            reasons.append(str(error))
        else:
            return folder
    sys.exit("\n".join(reasons))


def _measure(env_id: str, folder: str | None) -> None:
    worlds: dict[str, ManipulationEnv] = {
        "light": make(env_id=env_id, cameras=(), privileged=True),
        "mesh": make(env_id=env_id, cameras=(), privileged=True, visuals="mesh", meshes=folder),
    }
    states = _record(worlds["light"], env_id)
    costs: dict[tuple[str, str], float] = {}
    for _ in range(NUM_TURNS):
        for visuals, env in worlds.items():
            for name, quality in QUALITIES.items():
                cost = _draw(env, states, quality)
                costs[visuals, name] = min(cost, costs.get((visuals, name), cost))
    for (visuals, name), cost_s in costs.items():
        ratio = cost_s / costs["light", "plain"]
        row = f"{env_id:<22}{visuals:<9}{name:<11}{cost_s * 1e3:>8.2f}{1 / cost_s:>10.0f}"
        print(f"{row}{ratio:>7.1f}x", flush=True)
    for env in worlds.values():
        env.close()


def _record(env: ManipulationEnv, env_id: str) -> list[EnvState]:
    """Run an episode of the expert, and return states of the environment along the episode."""
    expert, states = EXPERTS[env_id](), []
    observation, _ = env.reset(seed=0)
    for step in range(NUM_STATES * EVERY):
        if step % EVERY == 0:
            states.append(env.save())
        observation, *_ = env.step(expert.act(observation))
    return states


def _draw(env: ManipulationEnv, states: list[EnvState], quality: Quality) -> float:
    """Render the states with a visual quality, and return the CPU time per image, s."""
    total_s = 0.0
    for state in states:
        env.restore(state)
        for camera in CAMERAS:
            start = time.process_time()
            env.simulator.render(camera, IMAGE_SIZE, IMAGE_SIZE, quality)
            total_s += time.process_time() - start
    return total_s / (len(states) * len(CAMERAS))


if __name__ == "__main__":
    main()
