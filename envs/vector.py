"""A vector environment that distributes its environments over worker processes.

    envs = make_vec("envs:toto/FrankaPick-v0", 8, autoreset_mode="SameStep")     # WorkerVectorEnv
    envs = TotoVectorObservation(envs, load_encoder("toto-nano"))       # toto_robot.wrappers
    venv = as_sb3(envs)                                                 # Stable-Baselines3's VecEnv

By default, `WorkerVectorEnv` starts one process per core. Each process steps its environments one
after the other. Gymnasium's `AsyncVectorEnv` starts one process per environment, and also builds
one more environment in the calling process. docs/envs.md compares speed and memory of the two.

The processes are spawned, not forked, because EGL contexts and torch's threads do not survive a
fork. So a script must create a `WorkerVectorEnv` under `if __name__ == "__main__":`.
"""

import multiprocessing
import pickle
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import (
    CloudpickleWrapper,
    batch_space,
    clear_mpi_env_vars,
    create_empty_array,
    iterate,
)
from numpy.typing import NDArray

from toto_robot.device import num_cpus

from .geometry import Floats
from .workers import Observation, SharedRows, Worker, serve, shut_down

__all__ = ["WorkerVectorEnv", "make_vec"]

StepResult = tuple[Observation, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


def make_vec(
    env_id: str,
    num_envs: int,
    num_workers: int | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    **env_options: Any,
) -> "WorkerVectorEnv":
    """Return a vector environment of `num_envs` equal environments.

    Args:
        env_id: id of the environments, as for `gymnasium.make`.
        num_envs: number of environments.
        num_workers: number of worker processes; None: one per core.
        autoreset_mode: one of Gymnasium's three autoreset modes.
        env_options: further arguments of `gymnasium.make`, the same for all environments.
    """
    return WorkerVectorEnv(
        [partial(gymnasium.make, env_id, **env_options)] * num_envs,
        num_workers=num_workers,
        autoreset_mode=autoreset_mode,
    )


class WorkerVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """A vector environment in worker processes, with observations in shared memory.

    Environment i runs in the worker with the index i modulo `num_workers`. The results are
    bit-identical to those of `gymnasium.vector.SyncVectorEnv`. Seeds, autoreset, `reset_mask` and
    the structure of the infos are also the same, with three differences:

    - With `AutoresetMode.DISABLED`, `step` raises an error and steps no environment if an episode
      has ended and its environment was not reset.
    - `final_obs` is correct even if an environment reuses its arrays for the next observation.
    - The dictionary `options` of the caller is not changed.

    An error in an environment is raised in the main process with the original type, and with the
    worker's traceback as a note. Other environments may have been stepped already, so all must be
    reset. If a worker process has died, only `close` is possible. After `close`, the other methods
    raise `ClosedEnvironmentError`.

    Attributes:
        num_workers: number of worker processes.
        autoreset_mode: when an environment is reset after the end of an episode: at the next step,
            in the same step, or only by `reset`.
        copy: True: every call returns new arrays. False: all calls return the same arrays, which
            change only during `reset` and `step`.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]],
        *,
        num_workers: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ) -> None:
        """Start the workers and build the environments in them.

        Args:
            env_fns: functions that each build and return one environment. cloudpickle sends them to
                the workers.
            num_workers: number of worker processes, at most one per environment; None: one per
                core.
            autoreset_mode: one of Gymnasium's three autoreset modes.
            copy: True: every call returns new arrays. False: all calls return the same arrays,
                which change only during `reset` and `step`.

        Raises:
            ValueError: there is no environment or no worker, or elements of the observation space
                have no fixed size.
            RuntimeError: the spaces of the environments differ.
        """
        self.num_envs = len(env_fns)
        if self.num_envs < 1:
            raise ValueError("at least one environment is needed, got none")
        if num_workers is not None and num_workers < 1:
            raise ValueError(
                f"num_workers must be at least 1, got {num_workers}; to run without workers, use "
                "gymnasium.vector.SyncVectorEnv"
            )
        self.num_workers = min(num_workers or num_cpus(), self.num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.copy = copy
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._reused: Observation = None
        self._needs_reset = True  # also after an interrupted step
        self._workers: list[Worker] = []
        self._shared: list[SharedRows] = []
        self._shut_down = weakref.finalize(self, shut_down, self._workers, self._shared)
        try:
            self._start(env_fns)
        except BaseException:
            self._shut_down()
            raise

    def _start(self, env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        context = multiprocessing.get_context("spawn")
        for index in range(self.num_workers):
            here, there = context.Pipe()
            makers = {
                row: CloudpickleWrapper(env_fns[row])
                for row in range(index, self.num_envs, self.num_workers)
            }
            process = context.Process(
                target=serve,
                name=f"{type(self).__name__}-{index}",
                args=(there, makers, self.autoreset_mode),
                daemon=True,
            )
            with clear_mpi_env_vars():
                process.start()
            there.close()  # so that the death of the worker closes the connection
            self._workers.append(Worker(process=process, connection=here, rows=tuple(makers)))
        made = self._ask("build", dict.fromkeys(range(self.num_envs)))
        first = made[0]
        for row, what in product(range(1, self.num_envs), ("observation_space", "action_space")):
            if made[row][what] != first[what]:
                raise RuntimeError(
                    f"the environments must have equal spaces: {what} of environment {row} is "
                    f"{made[row][what]}, that of environment 0 is {first[what]}"
                )
        self.single_observation_space = first["observation_space"]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = first["action_space"]
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = first["metadata"] | {"autoreset_mode": self.autoreset_mode}
        self.render_mode = first["render_mode"]
        shared = SharedRows(self.single_observation_space, self.num_envs)
        self._shared.append(shared)
        self._ask("attach", dict.fromkeys(range(self.num_workers), (self.num_envs, shared.name)))
        # All workers have attached the memory. Its name is removed now, so that the memory is freed
        # even if a process is killed.
        shared.unlink()

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyrefly: ignore  # as SyncVectorEnv
        """Copies of the environments' random generators."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # pyrefly: ignore  # as SyncVectorEnv
        """The seeds of the environments' random generators."""
        return self.get_attr("np_random_seed")

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset all environments, or those in `options["reset_mask"]`.

        Args:
            seed: one number: environment i gets `seed + i`. A sequence: one seed per environment.
                None: no new seeds.
            options: passed to every environment, without the entry `reset_mask`. This mask, bool
                [num_envs], selects the environments to reset; the others keep their newest
                observation.

        Raises:
            ValueError: the number of seeds is wrong, or the mask has the wrong shape or no true
                element.
            TypeError: the mask is not an array of bools.
            ResetNeeded: all environments must be reset, but the mask selects only some of them.
        """
        self._check_open()
        seeds = seed_of_each(seed, self.num_envs)
        mask = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            mask = checked_mask(options["reset_mask"], self.num_envs)
            options = {key: value for key, value in options.items() if key != "reset_mask"}
            if self._needs_reset and not mask.all():
                raise ResetNeeded(f"all environments must be reset, got reset_mask={mask}")
        rows = np.flatnonzero(mask).tolist()
        self._needs_reset = True
        results = self._ask("reset", {row: (seeds[row], options) for row in rows})
        self._needs_reset = False
        self._ended[mask] = False
        infos: dict[str, Any] = {}
        for row in rows:
            infos = self._add_info(infos, results[row], row)
        return self._observations(), infos

    def step(self, actions: Any) -> StepResult:
        """Step every environment.

        With `AutoresetMode.NEXT_STEP`, an environment whose episode ended is reset and not stepped.

        Raises:
            ResetNeeded: `reset` has not been called, or the previous step raised an error.
            ValueError: the number of actions is wrong. With `AutoresetMode.DISABLED` also: an
                episode has ended and its environment was not reset.
        """
        self._check_open()
        if self._needs_reset:
            raise ResetNeeded(
                "call reset() for all environments first: they are new, or a step failed"
            )
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise ValueError(
                f"environments {np.flatnonzero(self._ended).tolist()} have ended: first call "
                'reset(options={"reset_mask": terminations | truncations})'
            )
        each = list(iterate(self.action_space, actions))
        if len(each) != self.num_envs:
            raise ValueError(f"{self.num_envs} actions are needed, got {len(each)}")
        begins = self._ended & (self.autoreset_mode == AutoresetMode.NEXT_STEP)
        jobs = {
            row: (bool(begins[row]), None if begins[row] else action)
            for row, action in enumerate(each)
        }
        self._needs_reset = True
        results = self._ask("step", jobs)
        self._needs_reset = False
        observations = self._observations()
        rewards = np.zeros(self.num_envs, np.float64)
        terminations = np.zeros(self.num_envs, np.bool_)
        truncations = np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        for row in range(self.num_envs):
            rewards[row], terminations[row], truncations[row], row_infos = results[row]
            for info in row_infos:
                infos = self._add_info(infos, info, row)
        self._ended = terminations | truncations
        return observations, rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...]:
        """Return what `render` of each environment returns, for example one image each."""
        return self.call("render")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or get an attribute; return copies of the results.

        Raises:
            ValueError: `name` is `reset`, `step` or `close`; use the methods of this class.
        """
        self._check_open()
        if name in ("reset", "step", "close"):
            raise ValueError(f"call {name}() of the vector environment itself")
        results = self._ask("call", dict.fromkeys(range(self.num_envs), (name, args, kwargs)))
        return tuple(results[row] for row in range(self.num_envs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return the attribute `name` of every environment, as copies."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every environment.

        Args:
            name: name of the attribute.
            values: a list or tuple with one value per environment, or one value for all.

        Raises:
            ValueError: the number of values is not the number of environments.
        """
        self._check_open()
        values = values if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                f"values must be one for each of {self.num_envs} environments, got {len(values)}"
            )
        self._ask("assign", {row: (name, value) for row, value in enumerate(values)})

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments and end the worker processes; kill those that do not end.

        Raises:
            TypeError: options are given; no options are supported.
        """
        if kwargs:
            raise TypeError(f"close() takes no options, got {sorted(kwargs)}")
        self._shut_down()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"this {type(self).__name__} is closed")

    def _observations(self) -> Observation:
        """Copy the latest observations out of the shared memory, into new arrays if `copy`."""
        if self.copy or self._reused is None:
            space = self.single_observation_space
            self._reused = create_empty_array(space, self.num_envs, np.zeros)
        self._shared[0].read(self._reused)
        return self._reused

    def _ask(self, command: str, jobs: dict[int, Any]) -> dict[int, Any]:
        """Run a command in the workers, and wait for the results.

        Args:
            command: name of a method of `envs.workers._WorkerEnvironments`.
            jobs: a mapping from the index of each environment for which the command is run to the
                argument of the command.

        Returns:
            A mapping from the same indices to the results of the command.

        Raises:
            BaseException: the error of the first environment in which the command failed.
        """
        for worker in self._workers:
            if worker.busy:  # an interrupted command left an unread result
                worker.receive()
        messages = [  # all are pickled before the first is sent, because pickling can fail
            (worker, pickle.dumps((command, its)))
            for worker in self._workers
            if (its := [(row, jobs[row]) for row in worker.rows if row in jobs])
        ]
        for worker, message in messages:
            worker.send(message)
        results: dict[int, Any] = {}
        failures: dict[int, BaseException] = {}
        for worker, _ in messages:
            some, failed = worker.receive()
            results |= some
            failures |= failed
        if failures:
            first, *others = sorted(failures)
            if others:
                failures[first].add_note(f"environments {others} failed too")
            raise failures[first]
        return results


def seed_of_each(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """Return the seed of each environment, as Gymnasium derives it from the argument of `reset`.

    Raises:
        ValueError: the number of seeds is not the number of environments.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer):
        return [int(seed) + row for row in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"a list of seeds must have one for each of {num_envs}, got {len(seed)}")
    return list(seed)


def checked_mask(mask: Any, num_envs: int) -> NDArray[np.bool_]:
    """Return `options["reset_mask"]`, which selects the environments to reset.

    Raises:
        TypeError: the mask is not an array of bools.
        ValueError: the mask has the wrong shape or no true element.
    """
    name = "options['reset_mask']"
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        what = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"{name} must be a numpy array of bools, got {what}")
    if mask.shape != (num_envs,):
        raise ValueError(f"{name} must have shape ({num_envs},), got {mask.shape}")
    if not mask.any():
        raise ValueError(f"{name} must be true for at least one environment, got {mask}")
    return mask
