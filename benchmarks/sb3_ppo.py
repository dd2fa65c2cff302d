"""PPO of Stable-Baselines3 on a task that needs vision: with Toto's wrapper, and without images.

    python -m benchmarks.sb3_ppo        # three seeds each, on one thread

The task is drawn with OpenCV: a point moves to a red disc that only the image shows. The
observation is the image of 64 px and the position of the point; an episode has 8 steps, and the
reward of a step is the negative distance. Both ways use the same PPO; one has the embedding instead
of the image, the other only the position. The disc stays where it is, so the image of an episode is
encoded once and then read from a `FeatureCache`.

Printed are the mean return of 100 evaluation episodes for each seed, with the mean over the seeds
and its 95 % interval (Student's t), and the CPU time of one PPO iteration with `TotoVecEnv`, which
encodes an image once, over that with `TotoFeaturesExtractor`, which encodes it `1 + n_epochs`
times; for these times there is no cache.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from toto_robot import TotoFeaturesExtractor, TotoVecEnv, load_encoder
from toto_robot.encoders.cache import FeatureCache

ENCODER = "toto-nano"
PIXELS = 64
NUM_ENVS = 8
NUM_STEPS = 64  # per environment and PPO iteration
TOTAL_STEPS = 16_384
SEEDS = (0, 1, 2)
EPISODES = 100
T_95 = 4.303  # Student's t, 2 degrees of freedom
SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "n_steps": NUM_STEPS,
    "batch_size": 64,
    "n_epochs": 10,
    "gamma": 0.5,  # a step's reward depends on few later steps
    "device": "cpu",
}


class VisualReach(gymnasium.Env):
    """A point that moves in a square to a red disc."""

    observation_space = spaces.Dict(
        pixels=spaces.Box(0, 255, (PIXELS, PIXELS, 3), np.uint8),
        position=spaces.Box(-1, 1, (2,), np.float32),
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Draw the positions of the point and the disc."""
        super().reset(seed=seed)
        self.position, self.target = self.np_random.uniform(-1, 1, (2, 2))
        self.steps_left = 8
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        """Move the point by at most 0.5 along each axis."""
        self.position = np.clip(self.position + 0.5 * np.clip(action, -1, 1), -1, 1)
        self.steps_left -= 1
        reward = -float(np.linalg.norm(self.position - self.target))
        return self._observation(), reward, False, self.steps_left == 0, {}

    def _observation(self) -> dict[str, np.ndarray]:
        image = np.full((PIXELS, PIXELS, 3), 30, np.uint8)
        x, y = ((self.target * 0.8 + 1) / 2 * PIXELS).astype(int).tolist()
        cv2.circle(image, (x, y), 7, (230, 40, 40), -1)
        return {"pixels": image, "position": self.position.astype(np.float32)}


def main() -> None:
    """Print returns with and without images, and the times of wrapper and features extractor."""
    torch.set_num_threads(1)
    print(f"PPO, {TOTAL_STEPS} steps, {len(SEEDS)} seeds, {EPISODES} evaluation episodes each")
    for name in ("no images", f"TotoVecEnv with {ENCODER}"):
        returns = [_train(seed, with_images=name != "no images") for seed in SEEDS]
        mean, half = np.mean(returns), T_95 * np.std(returns, ddof=1) / len(returns) ** 0.5
        each = ", ".join(f"{one:.2f}" for one in returns)
        print(
            f"{name:<26} return {mean:.2f} ({mean - half:.2f} to {mean + half:.2f}); {each}",
            flush=True,
        )
    once, again = _seconds(extractor=False), _seconds(extractor=True)
    print(
        f"one iteration of {NUM_ENVS * 16} steps, {SETTINGS['n_epochs']} epochs: TotoVecEnv "
        f"{once:.1f} s of CPU time, TotoFeaturesExtractor {again:.1f} s = {again / once:.1f} times"
    )


def _envs(seed: int, *, with_images: bool) -> Any:
    def make() -> gymnasium.Env:
        env = VisualReach()
        return env if with_images else FilterObservation(env, ["position"])

    return make_vec_env(make, NUM_ENVS, seed=seed)


def _train(seed: int, *, with_images: bool) -> float:
    """Train, and return the mean return of the evaluation episodes."""
    envs = _envs(seed, with_images=with_images)
    with TemporaryDirectory() as folder:
        if with_images:
            envs = TotoVecEnv(envs, FeatureCache(Path(folder), load_encoder(ENCODER), 2**30))
        model = PPO("MultiInputPolicy", envs, seed=seed, **SETTINGS)
        model.learn(TOTAL_STEPS)
        envs.seed(10_000 + seed)
        found, _ = evaluate_policy(model, envs, EPISODES, warn=False)
    return float(np.mean(found))


def _seconds(*, extractor: bool) -> float:
    """Return the CPU seconds of one PPO iteration of 16 steps in each environment."""
    envs = _envs(0, with_images=True)
    settings: dict[str, Any] = {**SETTINGS, "n_steps": 16}
    if extractor:
        settings["policy_kwargs"] = {
            "features_extractor_class": TotoFeaturesExtractor,
            "features_extractor_kwargs": {"encoder": ENCODER},
            "normalize_images": False,
        }
    else:
        envs = TotoVecEnv(envs, load_encoder(ENCODER))
    model = PPO("MultiInputPolicy", envs, seed=0, **settings)
    start = time.process_time()
    model.learn(NUM_ENVS * 16)
    return time.process_time() - start


if __name__ == "__main__":
    main()
