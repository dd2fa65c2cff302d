"""Make the training environments for PPO, which observes only the true state of the simulation."""

from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.sb3 import as_sb3
from envs.vector import WorkerVectorEnv

from ..environment import EnvConfig, make_env
from ..rollouts.seeds import EPISODES_PER_RUN, training_seed
from ..teacher_policy import STATE

OUTCOME = "outcome"


class TrainingEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment wrapper whose observation is only the privileged state.

    Each reset uses the next training seed of the run. The info of the last step of an episode has
    `outcome`: success, number of steps, and the mean per step of the reward and of each reward
    term. All other infos are empty.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        seeds: tuple[int, int, int],
        timeouts_terminate: bool,
    ) -> None:
        """Wrap an environment.

        Args:
            env: the environment, made with the privileged state.
            seeds: three numbers that determine the seeds of the episodes: the run's seed, the
                index of the first episode in the run, and the increment of the index from one
                episode of this environment to the next.
            timeouts_terminate: True: report truncation (the time limit) as termination.

        Raises:
            ValueError: the observation has no `state`.
        """
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Dict) or STATE not in space.spaces:
            raise ValueError(f"{env}: a teacher needs {STATE!r} in the observation, got {space}")
        self.observation_space = space[STATE]
        self._run_seed, self._episode, self._stride = seeds
        self._timeouts_terminate = timeouts_terminate
        self._sums: dict[str, float] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin the next training episode.

        Raises:
            ValueError: a seed was given. The wrapper chooses the seeds, because a given seed might
                be an evaluation seed.
        """
        if seed is not None:
            raise ValueError("training episodes choose their own seeds; call reset() without one")
        # A long run repeats its seeds: 10 000 different starts are enough.
        number = training_seed(self._run_seed, self._episode % EPISODES_PER_RUN)
        self._episode += self._stride
        self._sums = {"steps": 0.0, "reward": 0.0}
        observation, _ = self.env.reset(seed=number, options=options)
        return observation[STATE], {}

    def step(
        self, action: Any
    ) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment; return the privileged state [s] as the observation."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        sums = self._sums
        sums["steps"] += 1
        sums["reward"] += float(reward)
        for name, term in info["reward_terms"].items():
            sums[f"reward/{name}"] = sums.get(f"reward/{name}", 0.0) + term
        outcome = {}
        if terminated or truncated:
            steps = sums["steps"]
            outcome = {name: value / steps for name, value in sums.items()}
            outcome |= {"steps": steps, "success": float(info["success"])}
            outcome = {OUTCOME: outcome}
        if self._timeouts_terminate:
            terminated, truncated = terminated or truncated, False
        return observation[STATE], reward, terminated, truncated, outcome


def make_environments(
    env: EnvConfig,
    num_envs: int,
    *,
    seeds: tuple[int, int],
    timeouts_terminate: bool,
    num_workers: int,
) -> Any:
    """Make a vector environment of Stable-Baselines3 for training.

    Args:
        env: the environment.
        num_envs: number of environments.
        seeds: the run's seed, and the index of the next episode in the run.
        timeouts_terminate: True: report truncation (the time limit) as termination.
        num_workers: number of worker processes; 0: the environments run in the main process.
    """
    seed, first = seeds
    makers = [
        partial(_make_env, env, (seed, first + index, num_envs), timeouts_terminate)
        for index in range(num_envs)
    ]
    if num_workers:
        return as_sb3(
            WorkerVectorEnv(makers, num_workers=num_workers, autoreset_mode=AutoresetMode.SAME_STEP)
        )
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv(makers)  # pyrefly: ignore  # a list of partials is fine


def _make_env(
    env: EnvConfig, seeds: tuple[int, int, int], timeouts_terminate: bool
) -> TrainingEpisodes:
    made = make_env(env, with_images=False, privileged=True)
    return TrainingEpisodes(made, seeds, timeouts_terminate)
