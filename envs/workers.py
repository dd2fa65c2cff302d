"""The worker processes of `WorkerVectorEnv`: their pipes, their main loop and shared memory.

The main process sends commands to the workers through pipes, and each worker sends one result per
command. Workers write observations into shared memory, because pipes are slower for images.
"""

import pickle
import signal
import traceback
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import CloudpickleWrapper

Observation = Any  # an array, or a dict or tuple as in the observation space

_FIXED_SIZE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_ALIGNMENT_BYTES = 64
_CLOSE_TIMEOUT_S = 10.0


@dataclass(slots=True, eq=False)
class Worker:
    """A handle of a worker process, used by the main process.

    Attributes:
        process: the worker process.
        connection: the pipe to the worker process.
        rows: indices of the environments that run in this worker.
        busy: whether a command was sent and its result has not been received yet.
    """

    process: BaseProcess
    connection: Connection
    rows: tuple[int, ...]
    busy: bool = False

    def send(self, message: bytes) -> None:
        """Send a pickled command. If the worker is dead, `receive` returns the error later."""
        self.busy = True
        with suppress(OSError):
            self.connection.send_bytes(message)

    def receive(self) -> tuple[dict[int, Any], dict[int, BaseException]]:
        """Wait for the result of the command that was sent.

        Returns:
            Two dictionaries, the results and the errors, both by index of the environment.
        """
        try:
            message = self.connection.recv_bytes()
        except (EOFError, OSError):
            self.busy = False
            self.process.join(_CLOSE_TIMEOUT_S)
            error = RuntimeError(
                f"the worker process of environments {list(self.rows)} died with exit code "
                f"{self.process.exitcode}; call close()"
            )
            return {}, {self.rows[0]: error}
        self.busy = False
        results, failure = pickle.loads(message)
        if failure is None:
            return {row: pickle.loads(result) for row, result in results.items()}, {}
        row, pickled, text = failure
        try:
            error = pickle.loads(pickled)
        except Exception:  # the class exists only in the worker, or cannot be pickled
            error = RuntimeError("an error that cannot be sent between processes")
        error.add_note(f"in environment {row}, in a worker process:\n{text}")
        return {}, {row: error}


def shut_down(workers: list[Worker], shared: list["SharedRows"]) -> None:
    """End the worker processes and free the shared memory."""
    for worker in workers:
        worker.connection.close()  # a worker ends when its connection is closed
    for worker in workers:
        worker.process.join(_CLOSE_TIMEOUT_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
    for one in shared:
        one.unlink()
        one.close()
    workers.clear()
    shared.clear()


class SharedRows:
    """Shared memory for the observations of all environments, one row per environment."""

    def __init__(self, space: spaces.Space[Any], num_rows: int, name: str | None = None) -> None:
        """Allocate the memory, or attach memory that another process allocated.

        Args:
            space: observation space of one environment.
            num_rows: number of environments.
            name: name of the memory to attach; None: allocate new memory.

        Raises:
            ValueError: elements of the space have no fixed size.
        """
        for one in _leaves(space, space):
            if not isinstance(one, _FIXED_SIZE):
                raise ValueError(
                    f"observations of {one} have no fixed size, so they cannot be in shared "
                    "memory; use AsyncVectorEnv(shared_memory=False), which sends them through "
                    "pipes"
                )
        self._space = space
        sizes_bytes = [
            num_rows * int(np.prod(one.shape, dtype=np.int64)) * one.dtype.itemsize
            for one in _leaves(space, space)
        ]
        padded = [-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes_bytes]
        total = max(sum(padded), 1)
        self._memory = SharedMemory(name, create=name is None, size=total)
        self._linked = name is None
        self._arrays = [
            np.ndarray((num_rows, *one.shape), one.dtype, self._memory.buf, offset)
            for one, offset in zip(
                _leaves(space, space), np.cumsum([0, *padded])[:-1].tolist(), strict=True
            )
        ]

    @property
    def name(self) -> str:
        """Name by which another process attaches the memory."""
        return self._memory.name

    def write(self, row: int, observation: Observation) -> None:
        """Write the observation of environment `row` into the memory.

        Raises:
            ValueError: an array of the observation does not have the shape of the space.
        """
        values = _leaves(self._space, observation)
        for array, value in zip(self._arrays, values, strict=True):
            if np.shape(value) != array.shape[1:]:
                raise ValueError(
                    f"an observation has an array of shape {np.shape(value)}, but the space has "
                    f"{array.shape[1:]}"
                )
            array[row] = value

    def read(self, target: Observation) -> None:
        """Copy the observations of all environments from the memory into the arrays of `target`.

        `target` has the structure of a batch of observations.
        """
        for array, copied in zip(self._arrays, _leaves(self._space, target), strict=True):
            copied[:] = array

    def unlink(self) -> None:
        """Remove the name of the memory, once, in the process that allocated it."""
        if self._linked:
            self._linked = False
            self._memory.unlink()

    def close(self) -> None:
        """Detach the memory from this process."""
        self._arrays = []  # they reference the memory
        self._memory.close()


def _leaves(space: spaces.Space[Any], value: Any) -> Iterator[Any]:
    """Yield the arrays (or spaces) in a nested observation, in the order of the space.

    Args:
        space: observation space; Dict and Tuple spaces are traversed.
        value: an observation, a batch of observations, or the space itself.
    """
    if isinstance(space, spaces.Dict):
        for key, one in space.items():
            yield from _leaves(one, value[key])
    elif isinstance(space, spaces.Tuple):
        for index, one in enumerate(space):
            yield from _leaves(one, value[index])
    else:
        yield value


def serve(
    connection: Connection,
    makers: dict[int, CloudpickleWrapper[Any]],
    autoreset_mode: AutoresetMode,
) -> None:
    """Run the main loop of a worker process until the main process closes the pipe.

    Args:
        connection: the pipe to the main process.
        makers: functions that build the environments, by index of the environment.
        autoreset_mode: Gymnasium's autoreset mode.
    """
    # Ctrl-C signals all processes of a terminal; the main process decides how to react
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    environments = _WorkerEnvironments(makers, autoreset_mode)
    commands = {
        "build": environments.build,
        "attach": environments.attach,
        "reset": environments.reset,
        "step": environments.step,
        "call": environments.call,
        "assign": environments.assign,
    }
    try:
        while True:
            command, jobs = pickle.loads(connection.recv_bytes())
            results: dict[int, bytes] = {}
            failure = None
            for row, argument in jobs:
                try:
                    results[row] = pickle.dumps(commands[command](row, argument))
                except Exception as error:  # the other jobs are not run
                    failure = (row, _pickled(error), traceback.format_exc())
                    break
            connection.send_bytes(pickle.dumps((results, failure)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the main process closed the connection, which ends the worker
    finally:
        environments.close()
        connection.close()


def _pickled(error: Exception) -> bytes:
    """Return the pickled error, or an empty byte string if it cannot be pickled."""
    try:
        return pickle.dumps(error)
    except Exception:
        return b""


class _WorkerEnvironments:
    """The environments of one worker process, and the commands of the main process.

    Each command applies to one environment: `row` is its index in the vector environment.
    """

    def __init__(
        self, makers: dict[int, CloudpickleWrapper[Any]], autoreset_mode: AutoresetMode
    ) -> None:
        self._makers = makers
        self._same_step = autoreset_mode == AutoresetMode.SAME_STEP
        self._envs: dict[int, gymnasium.Env[Any, Any]] = {}
        self._shared: SharedRows | None = None

    def build(self, row: int, _: None) -> dict[str, Any]:
        """Build the environment; return its spaces, metadata and render mode."""
        env = self._envs[row] = self._makers[row]()
        return {
            "observation_space": env.observation_space,
            "action_space": env.action_space,
            "metadata": dict(env.metadata),
            "render_mode": env.render_mode,
        }

    def attach(self, row: int, memory: tuple[int, str]) -> None:
        """Attach the shared memory, given as the number of environments and the memory's name."""
        num_rows, name = memory
        self._shared = SharedRows(self._envs[row].observation_space, num_rows, name)

    def reset(self, row: int, how: tuple[int | None, dict[str, Any] | None]) -> dict[str, Any]:
        """Reset the environment with a seed and options; return the info."""
        seed, options = how
        observation, info = self._envs[row].reset(seed=seed, options=options)
        self._show(row, observation)
        return info

    def step(self, row: int, what: tuple[bool, Any]) -> tuple[float, bool, bool, tuple[Any, ...]]:
        """Step the environment, or reset it.

        Args:
            row: index of the environment.
            what: a pair: whether to reset instead of stepping, and the action (None for a reset).

        Returns:
            Reward, terminated, truncated, and infos. There are two infos if the step ended the
            episode and the environment was reset in the same step; otherwise there is one.
        """
        begin, action = what
        if begin:
            return 0.0, False, False, (self.reset(row, (None, None)),)
        env = self._envs[row]
        observation, reward, terminated, truncated, info = env.step(action)
        if self._same_step and (terminated or truncated):
            # a copy, because the environment may reuse its arrays for the next observation
            last = {"final_obs": deepcopy(observation), "final_info": info}
            infos = (last, self.reset(row, (None, None)))
            return float(reward), bool(terminated), bool(truncated), infos
        self._show(row, observation)
        return float(reward), bool(terminated), bool(truncated), (info,)

    def call(self, row: int, what: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Any:
        """Call a method of the environment and return its result, or return an attribute."""
        name, args, kwargs = what
        found = self._envs[row].get_wrapper_attr(name)
        return found(*args, **kwargs) if callable(found) else found

    def assign(self, row: int, what: tuple[str, Any]) -> None:
        """Set an attribute of the environment."""
        self._envs[row].set_wrapper_attr(*what)

    def close(self) -> None:
        """Close all environments and detach the shared memory."""
        for env in self._envs.values():
            env.close()
        if self._shared is not None:
            self._shared.close()

    def _show(self, row: int, observation: Observation) -> None:
        assert self._shared is not None
        self._shared.write(row, observation)
