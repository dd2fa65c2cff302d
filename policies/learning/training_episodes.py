"""The environments that PPO learns in: the privileged state alone, on training seeds."""

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
    """Show the privileged state alone, begin every episode with a training seed, and sum it up.

    The info of an episode's last step has `outcome`: success, its steps, and the mean of the reward
    and of each of its terms over the steps. All other infos are empty.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        seeds: tuple[int, int, int],
        timeouts_end_everything: bool,
    ) -> None:
        """Wrap an environment that was made privileged.

        Args:
            env: the environment.
            seeds: the run's seed, the number of this environment's first episode in the run, and
                how far apart its episodes are.
            timeouts_end_everything: whether truncation is reported as termination.
        """
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Dict) or STATE not in space.spaces:
            raise ValueError(f"{env}: a teacher needs {STATE!r} in the observation, it is {space}")
        self.observation_space = space[STATE]
        self._run_seed, self._episode, self._stride = seeds
        self._timeouts_end_everything = timeouts_end_everything
        self._sums: dict[str, float] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin the next training episode.

        Raises:
            ValueError: a seed is given: it might be one of those that policies are judged on.
        """
        if seed is not None:
            raise ValueError("a training episode has a training seed; it takes no other")
        # A long run uses its seeds again: 10 000 starts are enough to learn from.
        number = training_seed(self._run_seed, self._episode % EPISODES_PER_RUN)
        self._episode += self._stride
        self._sums = {"steps": 0.0, "reward": 0.0}
        observation, _ = self.env.reset(seed=number, options=options)
        return observation[STATE], {}

    def step(
        self, action: Any
    ) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step."""
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
        if self._timeouts_end_everything:
            terminated, truncated = terminated or truncated, False
        return observation[STATE], reward, terminated, truncated, outcome


def make_environments(
    env: EnvConfig,
    num_envs: int,
    *,
    seeds: tuple[int, int],
    timeouts_end_everything: bool,
    num_workers: int,
) -> Any:
    """Make the environments as Stable-Baselines3 wants them.

    Args:
        env: which.
        num_envs: how many.
        seeds: the run's seed, and the number of the first episode.
        timeouts_end_everything: whether truncation is reported as termination.
        num_workers: processes that they are spread over; 0: in this one.
    """
    seed, first = seeds
    makers = [
        partial(_make_env, env, (seed, first + index, num_envs), timeouts_end_everything)
        for index in range(num_envs)
    ]
    if num_workers:
        return as_sb3(
            WorkerVectorEnv(makers, num_workers=num_workers, autoreset_mode=AutoresetMode.SAME_STEP)
        )
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv(makers)  # pyrefly: ignore  # a list may hold partials


def _make_env(
    env: EnvConfig, seeds: tuple[int, int, int], timeouts_end_everything: bool
) -> TrainingEpisodes:
    made = make_env(env, with_images=False, privileged=True)
    return TrainingEpisodes(made, seeds, timeouts_end_everything)
