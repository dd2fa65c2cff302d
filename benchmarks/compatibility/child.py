"""Run one check of a case in the case's own virtual environment.

python child.py CHECK '<case as JSON>' image.png
"""

import json
import os
import sys
import time
import warnings
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from toto_robot import TotoObservation, TotoVectorObservation, load_encoder
from toto_robot.rendering import configure

STEPS = 20  # of a rate; fewer, where they take more than MEASURED_S seconds
MEASURED_S = 10
ENCODER = "toto-nano"


class Made:
    """A function without arguments that makes a case's environment; it can be pickled."""

    def __init__(self, case: dict[str, Any], lines: tuple[str, ...] = ()) -> None:
        self.lines = (*case["setup"], *lines)

    def __call__(self) -> Any:
        """Return a new environment."""
        names: dict[str, Any] = {"gymnasium": gymnasium, "TotoObservation": TotoObservation}
        exec("\n".join(self.lines), names)
        return names["env"]


def single(case: dict[str, Any], image_path: str) -> dict[str, Any]:
    """Wrap one environment; return its cameras, steps per second and what it does unlike others."""
    import cv2

    shown = []
    toto = load_encoder(ENCODER)

    class Watching:
        """The encoder, which keeps the last images that it was given."""

        dim = toto.dim

        def __call__(self, frames: np.ndarray) -> object:
            shown[:] = [np.asarray(frames)]
            return toto(frames)

    raw = Made(case)()
    own, _ = raw.reset(seed=0)
    quirks = [] if raw.observation_space.contains(own) else ["observations leave their space"]
    if not data_equivalence(own, raw.reset(seed=0)[0]):
        quirks.append("`reset(seed=0)` twice: two different observations")
    raw_rate = _rate(raw)
    # the same environment: the images of a second MuJoCo renderer may be black in one process
    env = TotoObservation(raw, Watching(), **_options(case))
    observation, _ = env.reset(seed=0)
    assert quirks or env.observation_space.contains(observation), "not in its space"
    rate = _rate(env)
    cv2.imwrite(image_path, shown[0][0][..., ::-1])
    assert shown[0][0].std() > 2, "the image that the encoder is given is empty"
    cameras = list(env.cameras.values())
    return {"cameras": cameras, "raw_rate": raw_rate, "rate": rate, "quirks": quirks}


def sync_vector(case: dict[str, Any], _: str) -> dict[str, Any]:
    """Wrap two environments in one process."""
    return _vector(case, SyncVectorEnv([Made(case), Made(case)]))


def async_vector(case: dict[str, Any], _: str) -> dict[str, Any]:
    """Wrap two environments in processes of their own."""
    # forked after a renderer was opened, Mesa's software renderer hangs
    return _vector(case, AsyncVectorEnv([Made(case), Made(case)], context="forkserver"))


def dummy_vec_env(case: dict[str, Any], _: str) -> dict[str, Any]:
    """Train PPO for a few steps on two wrapped environments in one process."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    return _train(case, DummyVecEnv)


def subproc_vec_env(case: dict[str, Any], _: str) -> dict[str, Any]:
    """Train PPO for a few steps on two wrapped environments in processes of their own."""
    from stable_baselines3.common.vec_env import SubprocVecEnv

    return _train(case, SubprocVecEnv)


def _vector(case: dict[str, Any], envs: Any) -> dict[str, Any]:
    envs = TotoVectorObservation(envs, ENCODER, **_options(case))
    envs.reset(seed=0)
    for _ in range(3):
        observations, *_ = envs.step(envs.action_space.sample())
    embedded = [array for array in _leaves(observations) if array.shape == (2, envs.encoder.dim)]
    assert embedded, "no embedding"
    assert all(np.isfinite(array).all() for array in embedded), "an embedding is not finite"
    envs.close()
    return {}


def _train(case: dict[str, Any], kind: Any) -> dict[str, Any]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.preprocessing import is_image_space

    lines = (case["line"], *([f"env = {case['sb3']}"] if case["sb3"] else []))
    envs = kind([Made(case, lines), Made(case, lines)])
    space = envs.observation_space
    assert not any(map(is_image_space, getattr(space, "values", lambda: [space])()))
    policy = "MultiInputPolicy" if isinstance(space, gymnasium.spaces.Dict) else "MlpPolicy"
    PPO(policy, envs, n_steps=4, batch_size=8, n_epochs=1, device="cpu").learn(8)
    envs.close()
    return {}


def _options(case: dict[str, Any]) -> dict[str, Any]:
    return {} if case["flip"] is None else {"flip": case["flip"]}


def _leaves(observation: Any) -> list[np.ndarray]:
    if isinstance(observation, dict):
        return [array for one in observation.values() for array in _leaves(one)]
    return [np.asarray(observation)]


def _rate(env: Any) -> float:
    env.action_space.seed(0)
    start, steps, elapsed = time.perf_counter(), 0, 0.0
    while steps < STEPS and elapsed < MEASURED_S:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        steps, elapsed = steps + 1, time.perf_counter() - start
        if terminated or truncated:
            env.reset()
    return steps / elapsed


CHECKS = {
    check.__name__: check
    for check in (single, sync_vector, async_vector, dummy_vec_env, subproc_vec_env)
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if find_spec("mujoco") is not None:
        configure()  # before an environment imports mujoco; its processes inherit MUJOCO_GL
    check, case, image = sys.argv[1:]
    print("RESULT " + json.dumps(CHECKS[check](json.loads(case), image)), flush=True)
    os._exit(0)  # some drivers print a traceback, or crash, at exit
