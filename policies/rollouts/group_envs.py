"""The environments of a group of episodes: separate environments, or worlds of one simulator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.batch_manipulation import BatchManipulationEnv

Observation = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepResult:
    """The result of one control step of one episode.

    Attributes:
        observation: the new observation.
        success: whether the task has succeeded.
        ended: whether the environment has ended the episode.
    """

    observation: Observation
    success: bool
    ended: bool


class GroupEnvs(Protocol):
    """The environments of a group; the episodes of a group run in lockstep.

    Attributes:
        example: an environment whose spaces and interface are those of all.
    """

    example: gymnasium.Env[Any, Any]

    def prepare(self, num_episodes: int) -> None:
        """Make the environments for a group of `num_episodes` episodes."""
        ...

    def reset(self, seeds: Sequence[int]) -> list[Observation]:
        """Begin an episode for each seed, and return the first observations."""
        ...

    def step(self, rows: Sequence[int], actions: Sequence[NDArray[Any]]) -> list[StepResult]:
        """Run one control step of the episodes `rows`, with one action [a] for each."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class SeparateEnvs:
    """Environments that are made when they are needed, and stepped one after the other."""

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
        self._make = make
        self.example = make()
        self._envs = [self.example]

    def prepare(self, num_episodes: int) -> None:
        """Make the environments for a group of `num_episodes` episodes."""
        while len(self._envs) < num_episodes:
            self._envs.append(self._make())

    def reset(self, seeds: Sequence[int]) -> list[Observation]:
        """Begin an episode for each seed, and return the first observations."""
        return [env.reset(seed=seed)[0] for env, seed in zip(self._envs, seeds, strict=False)]

    def step(self, rows: Sequence[int], actions: Sequence[NDArray[Any]]) -> list[StepResult]:
        """Run one control step of the episodes `rows`, with one action [a] for each.

        Raises:
            ValueError: the info of an environment has no `success`.
        """
        return [_step(self._envs[row], action) for row, action in zip(rows, actions, strict=True)]

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()


def _step(env: gymnasium.Env[Any, Any], action: NDArray[Any]) -> StepResult:
    observation, _, terminated, truncated, info = env.step(action)
    if "success" not in info:
        raise ValueError(f"{env}: the environment's info has no 'success'")
    return StepResult(
        observation=observation, success=bool(info["success"]), ended=terminated or truncated
    )


class BatchEnvs:
    """The worlds of a `BatchManipulationEnv`, which are stepped together."""

    def __init__(
        self,
        make: Callable[[int], BatchManipulationEnv],
        example: gymnasium.Env[Any, Any],
    ) -> None:
        """Store how to make the worlds.

        Args:
            make: function that makes a number of worlds.
            example: an environment whose spaces and interface are those of the worlds.
        """
        self._make, self.example = make, example
        self._envs: BatchManipulationEnv | None = None

    def prepare(self, num_episodes: int) -> None:
        """Make the worlds for a group of `num_episodes` episodes."""
        if self._envs is not None and self._envs.num_envs < num_episodes:
            self._envs.close()
            self._envs = None
        if self._envs is None:
            self._envs = self._make(num_episodes)

    def reset(self, seeds: Sequence[int]) -> list[Observation]:
        """Begin an episode for each seed, and return the first observations.

        If there are more worlds than seeds, the other worlds are not used.
        """
        assert self._envs is not None  # `prepare` was called
        unused = self._envs.num_envs - len(seeds)
        observations, _ = self._envs.reset(seed=[*seeds, *[seeds[0]] * unused])
        return _rows(observations, len(seeds))

    def step(self, rows: Sequence[int], actions: Sequence[NDArray[Any]]) -> list[StepResult]:
        """Run one control step of the episodes `rows`, with one action [a] for each."""
        assert self._envs is not None
        observations, _, terminated, truncated, success = self._envs.advance(
            np.stack(actions), np.array(rows)
        )
        each = zip(_rows(observations, len(rows)), success, terminated | truncated, strict=True)
        return [
            StepResult(observation=one, success=bool(success), ended=bool(ended))
            for one, success, ended in each
        ]

    def close(self) -> None:
        """Close the worlds."""
        if self._envs is not None:
            self._envs.close()
        self.example.close()


def _rows(observations: Mapping[str, Any], num_rows: int) -> list[Observation]:
    return [{key: values[row] for key, values in observations.items()} for row in range(num_rows)]
