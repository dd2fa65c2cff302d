"""Run in a case's own virtual environment: wrap, step, time, and save what the encoder sees.

python child.py '<case as JSON>' image.png
"""

import json
import os
import sys
import time
import warnings
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
warnings.simplefilter("ignore")

STEPS = 20


def main() -> None:
    """Print `RESULT` and what was measured, as JSON."""
    case, image_path = json.loads(sys.argv[1]), sys.argv[2]
    import gymnasium
    import numpy as np
    from gymnasium.vector import SyncVectorEnv

    from toto_robot import TotoObservation, TotoVectorObservation, load_encoder

    toto = load_encoder("toto-nano")
    shown: list[np.ndarray] = []

    class Watching:
        """The encoder, which keeps the images that it was given."""

        dim = toto.dim

        def __call__(self, frames: np.ndarray) -> object:
            shown.append(np.asarray(frames))
            return toto(frames)

    def make() -> Any:
        names: dict[str, Any] = {"gymnasium": gymnasium}
        exec("\n".join(case["setup"]), names)
        return names["env"]

    valid = _is_valid(make())  # first: closing a MuJoCo renderer may blank another one's images
    options = {} if case["flip"] is None else {"flip": case["flip"]}
    env = TotoObservation(make(), Watching(), **options)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation) or not valid, "not in its space"
    for _ in range(STEPS):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    result = {"cameras": list(env.cameras.values()), "rate": _rate(env)}
    _save(image_path, shown[-1][0])
    assert shown[-1][0].std() > 2, "the image that the encoder is given is empty"
    env.close()
    result["raw_rate"] = _rate(make(), reset=True)

    envs = TotoVectorObservation(SyncVectorEnv([make, make]), toto, **options)
    envs.reset(seed=0)
    for _ in range(3):
        observations, *_ = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(observations) or not valid, "vector: not in its space"
    envs.close()
    print("RESULT " + json.dumps(result))


def _is_valid(env: Any) -> bool:
    """Return whether an environment's own first observation lies in its space; close it."""
    own, _ = env.reset(seed=0)
    valid = env.observation_space.contains(own)
    env.close()
    return valid


def _rate(env: Any, reset: bool = False) -> float:
    if reset:
        env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(STEPS):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return STEPS / (time.perf_counter() - start)


def _save(path: str, image: Any) -> None:
    import cv2

    cv2.imwrite(path, image[..., ::-1])


if __name__ == "__main__":
    main()
