"""Make the training environments for PPO, which observes only the true state of the simulation."""

from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorWrapper
from numpy.typing import NDArray

from envs.batch_manipulation import BatchManipulationEnv
from envs.geometry import Floats
from envs.sb3 import as_sb3
from envs.vector import WorkerVectorEnv

from ..environment import EnvConfig, is_batched, make_batch, make_env
from ..rollouts.seeds import EPISODES_PER_RUN, training_seed
from ..teacher_policy import STATE

OUTCOME = "outcome"


class TrainingEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment wrapper whose observation is only the privileged state, or some entries.

    Each reset uses the next training seed of the run. The info of the last step of an episode has
    `outcome`: success, number of steps, and the mean per step of the reward and of each reward
    term. All other infos are empty.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        seeds: tuple[int, int, int],
        timeouts_terminate: bool,
        keys: tuple[str, ...] | None = None,
    ) -> None:
        """Wrap an environment.

        Args:
            env: the environment, made with the privileged state.
            seeds: three numbers that determine the seeds of the episodes: the run's seed, the
                index of the first episode in the run, and the increment of the index from one
                episode of this environment to the next.
            timeouts_terminate: True: report truncation (the time limit) as termination.
            keys: entries of the observation, as a dictionary; None: only the privileged state, as
                an array.

        Raises:
            ValueError: the observation has no `state`.
        """
        super().__init__(env)
        space: Any = env.observation_space
        self.observation_space = (
            _state_space(space, env)
            if keys is None
            else gymnasium.spaces.Dict({key: space[key] for key in keys})
        )
        self._keys = keys
        self._run_seed, self._episode, self._stride = seeds
        self._timeouts_terminate = timeouts_terminate
        self._sums: dict[str, float] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next training episode.

        Raises:
            ValueError: a seed was given. The wrapper chooses the seeds, because a given seed might
                be an evaluation seed.
        """
        if seed is not None:
            raise ValueError("training episodes choose their own seeds; call reset() without one")
        number = _seed(self._run_seed, self._episode)
        self._episode += self._stride
        self._sums = {"steps": 0.0, "reward": 0.0}
        observation, _ = self.env.reset(seed=number, options=options)
        return self._kept(observation), {}

    def _kept(self, observation: Any) -> Any:
        if self._keys is None:
            return observation[STATE]
        return {key: observation[key] for key in self._keys}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment; return the privileged state [s] or the entries `keys`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        sums = self._sums
        sums["steps"] += 1
        sums["reward"] += float(reward)
        for name, term in info.get("reward_terms", {}).items():  # of this project's tasks
            sums[f"reward/{name}"] = sums.get(f"reward/{name}", 0.0) + term
        outcome = {}
        if terminated or truncated:
            steps = sums["steps"]
            outcome = {name: value / steps for name, value in sums.items()}
            outcome |= {"steps": steps, "success": float(info["success"])}
            outcome = {OUTCOME: outcome}
        if self._timeouts_terminate:
            terminated, truncated = terminated or truncated, False
        return self._kept(observation), reward, terminated, truncated, outcome


class BatchTrainingEpisodes(VectorWrapper):
    """The worlds of a batched environment, with the episodes and outcomes of `TrainingEpisodes`."""

    def __init__(
        self, env: BatchManipulationEnv, seeds: tuple[int, int], timeouts_terminate: bool
    ) -> None:
        """Wrap a vector environment with the autoreset mode `DISABLED`.

        Args:
            env: the vector environment, made with the privileged state.
            seeds: the run's seed, and the index of the first episode in the run.
            timeouts_terminate: True: report truncation (the time limit) as termination.

        Raises:
            ValueError: the observation has no `state`.
        """
        super().__init__(env)
        self.single_observation_space = _state_space(env.single_observation_space, env)
        self.observation_space = _state_space(env.observation_space, env)
        self._run_seed, first = seeds
        self._episodes = first + np.arange(env.num_envs)
        self._timeouts_terminate = timeouts_terminate
        self._sums: dict[str, Floats] = {}

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin the next training episode in all worlds, or in those of `reset_mask`.

        Raises:
            ValueError: a seed was given, see `TrainingEpisodes.reset`.
        """
        if seed is not None:
            raise ValueError("training episodes choose their own seeds; call reset() without one")
        every = np.ones(self.num_envs, np.bool_)
        mask = every if options is None else options["reset_mask"]
        seeds = [_seed(self._run_seed, int(episode)) for episode in self._episodes]
        self._episodes[mask] += self.num_envs
        for values in self._sums.values():
            values[mask] = 0.0
        observations, _ = self.env.reset(seed=seeds, options=options)  # pyrefly: ignore  # one each
        return observations[STATE], {}

    def step(
        self, actions: Any
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step the worlds; return the privileged states [n s] as the observations."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        terms = {f"reward/{key}": term for key, term in infos["reward_terms"].items()}
        more = {"steps": np.ones(self.num_envs), "reward": rewards}
        more |= {key: term for key, term in terms.items() if not key.startswith("reward/_")}
        for name, values in more.items():
            self._sums[name] = self._sums.get(name, np.zeros(self.num_envs)) + values
        outcomes: dict[str, Any] = {}
        for row in np.flatnonzero(terminated | truncated):
            steps = float(self._sums["steps"][row])
            outcome = {name: float(values[row]) / steps for name, values in self._sums.items()}
            outcome |= {"steps": steps, "success": float(infos["success"][row])}
            outcomes = self.env._add_info(outcomes, {OUTCOME: outcome}, int(row))
        if self._timeouts_terminate:
            terminated, truncated = terminated | truncated, np.zeros_like(truncated)
        return observations[STATE], rewards, terminated, truncated, outcomes


def _state_space(space: gymnasium.Space[Any], env: object) -> gymnasium.Space[Any]:
    if not isinstance(space, gymnasium.spaces.Dict) or STATE not in space.spaces:
        raise ValueError(f"{env}: a teacher needs {STATE!r} in the observation, got {space}")
    return space[STATE]


def _seed(run_seed: int, episode: int) -> int:
    # A long run repeats its seeds: 10 000 different starts are enough.
    return training_seed(run_seed, episode % EPISODES_PER_RUN)


def make_environments(
    env: EnvConfig,
    num_envs: int,
    *,
    seeds: tuple[int, int],
    timeouts_terminate: bool,
    num_workers: int,
    keys: tuple[str, ...] | None = None,
) -> Any:
    """Make a vector environment of Stable-Baselines3 for training.

    Args:
        env: the environment.
        num_envs: number of environments.
        seeds: the run's seed, and the index of the next episode in the run.
        timeouts_terminate: True: report truncation (the time limit) as termination.
        num_workers: number of worker processes; 0: the environments run in the main process. If the
            environment has a backend, this number is not used.
        keys: entries of the observation; None: only the privileged state.

    Raises:
        ValueError: the environment has a backend, and `keys` are given.
    """
    if is_batched(env):
        if keys is not None:
            raise ValueError(f"method=ppo needs env.backend=null, got {env.backend}")
        batch = make_batch(env, num_envs, with_images=False, privileged=True)
        return as_sb3(BatchTrainingEpisodes(batch, seeds, timeouts_terminate))
    seed, first = seeds
    makers = [
        partial(_make_env, env, (seed, first + index, num_envs), timeouts_terminate, keys)
        for index in range(num_envs)
    ]
    if num_workers:
        return as_sb3(
            WorkerVectorEnv(makers, num_workers=num_workers, autoreset_mode=AutoresetMode.SAME_STEP)
        )
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv(makers)  # pyrefly: ignore  # a list of partials is fine


def _make_env(
    env: EnvConfig,
    seeds: tuple[int, int, int],
    timeouts_terminate: bool,
    keys: tuple[str, ...] | None,
) -> TrainingEpisodes:
    with_images = keys is not None and any(key.startswith("image_") for key in keys)
    made = make_env(env, with_images=with_images, privileged=keys is None or STATE in keys)
    return TrainingEpisodes(made, seeds, timeouts_terminate, keys)
