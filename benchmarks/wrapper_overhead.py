"""Measure what the wrappers cost besides the encoder.

    LP_NUM_THREADS=0 python -m benchmarks.wrapper_overhead [ENCODER]    # a name or a checkpoint

    step         the CPU time of a step of Franka-pick with two cameras, and what `TotoObservation`
                 adds to it with an encoder that returns zeros, as a share of the step. Both are
                 measured within the same call, for each step; the figures are medians. The zeros
                 are an array: the first call of torch after a simulation takes 50 us, which an
                 encoder pays in its own time.
    one call     the time to embed the images of 8 environments x 2 cameras by a step of
                 `TotoVectorObservation`, over the time of the encoder for the same images in one
                 batch: the median of 20 pairs, whose two parts take turns at being first.

Times are CPU times of one thread, so that other processes do not count. With LP_NUM_THREADS=0 the
software renderer runs in the calling thread.
"""

import sys
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from toto_robot import TotoObservation, TotoVectorObservation, load_encoder

ID = "envs:toto/FrankaPick-v0"
CAMERAS = ("hand", "front")
IMAGE_SIZE = 128
NUM_ENVS = 8
NUM_STEPS = 160
NUM_PAIRS = 20
clock = time.process_time


def main() -> None:
    """Print both figures."""
    torch.set_num_threads(1)
    name = sys.argv[1] if len(sys.argv) > 1 else "toto-nano"
    env_s, added_s, share = overhead_of_a_step()
    print(
        f"step: {1e3 * env_s:.2f} ms, the wrapper adds {1e6 * added_s:.0f} us = {share:.2%} "
        f"(median of {NUM_STEPS} steps; goal: at most 3 %)"
    )
    encoder_s, ratio, low, high = ratio_of_one_call(name)
    print(
        f"one call: {NUM_ENVS} x {len(CAMERAS)} images in {1e3 * encoder_s:.0f} ms by the encoder "
        f"alone; by the wrapper {ratio:.4f} times as long (median of {NUM_PAIRS} pairs, quartiles "
        f"{low:.4f} to {high:.4f}; goal: at most 1.02)"
    )


class Zeros:
    """An encoder that returns zeros of toto-nano's size."""

    dim = 2048
    zeros = np.zeros((len(CAMERAS), dim), np.float32)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Return zeros [b e], which take no time."""
        return self.zeros


class TimedStep(gymnasium.Wrapper):
    """A wrapper that keeps the CPU time of the last step, in seconds."""

    seconds = 0.0

    def step(self, action: Any) -> Any:
        """Step the environment."""
        start = clock()
        result = self.env.step(action)
        self.seconds = clock() - start
        return result


def overhead_of_a_step() -> tuple[float, float, float]:
    """Return medians: seconds of a step, seconds that the wrapper adds, and their ratio."""
    inner = TimedStep(gymnasium.make(ID, cameras=CAMERAS, image_size=IMAGE_SIZE))
    env = TotoObservation(inner, Zeros())
    env.action_space.seed(0)
    rows = []
    for step in range(NUM_STEPS):
        if step % 80 == 0:
            env.reset(seed=step)
        action = env.action_space.sample()
        start = clock()
        env.step(action)
        rows.append((inner.seconds, clock() - start - inner.seconds))
    env.close()
    own, added = np.array(rows).T
    return float(np.median(own)), float(np.median(added)), float(np.median(added / own))


class Recorded(VectorEnv):
    """Vector environments that return the same images at every step, in no time."""

    def __init__(self, images: dict[str, np.ndarray]) -> None:
        self.num_envs = NUM_ENVS
        boxes: dict[str, spaces.Space] = {
            key: spaces.Box(0, 255, one.shape[1:], np.uint8) for key, one in images.items()
        }
        self.single_observation_space = spaces.Dict(boxes)
        self.observation_space = batch_space(self.single_observation_space, NUM_ENVS)
        self.single_action_space = spaces.Discrete(1)
        self.action_space = batch_space(self.single_action_space, NUM_ENVS)
        self._images = images
        self._nothing = np.zeros(NUM_ENVS, np.bool_)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Return the images."""
        return self._images, {}

    def step(self, actions: Any) -> Any:
        """Return the images; no episode ends."""
        return self._images, np.zeros(NUM_ENVS), self._nothing, self._nothing, {}


def ratio_of_one_call(name: str) -> tuple[float, float, float, float]:
    """Return the encoder's median seconds, and median and quartiles of the ratio."""
    rng = np.random.default_rng(0)
    shape = (NUM_ENVS, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = {f"image_{one}": rng.integers(0, 256, shape, np.uint8) for one in CAMERAS}
    encoder: Any = load_encoder(name)
    envs = TotoVectorObservation(Recorded(images), encoder)
    frames = np.concatenate(list(images.values()))
    actions = np.zeros(NUM_ENVS, np.int64)
    calls = (lambda: encoder(frames), lambda: envs.step(actions))
    envs.reset()
    for call in calls:
        call()
    pairs = []
    for pair in range(NUM_PAIRS):
        seconds = [0.0, 0.0]
        for which in (0, 1) if pair % 2 else (1, 0):
            start = clock()
            calls[which]()
            seconds[which] = clock() - start
        pairs.append(seconds)
    alone, wrapped = np.array(pairs).T
    low, middle, high = np.quantile(wrapped / alone, (0.25, 0.5, 0.75))
    return float(np.median(alone)), float(middle), float(low), float(high)


if __name__ == "__main__":
    main()
