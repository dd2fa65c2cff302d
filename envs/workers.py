"""The worker processes of `WorkerVectorEnv`: the pipe to each, and what runs at its other end.

A command goes to each worker that has something to do, and each answers once. Observations do not
go through the pipes but through memory that all processes share.
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

Observation = Any  # an array, or a dict or tuple of what the observation space says

_FIXED_SIZE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_ALIGNMENT_BYTES = 64
_CLOSE_TIMEOUT_S = 10.0


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process as seen from outside.

    Attributes:
        process: the process.
        connection: to it.
        rows: its environments.
        busy: whether its answer is still to come.
    """

    process: BaseProcess
    connection: Connection
    rows: tuple[int, ...]
    busy: bool = False

    def send(self, message: bytes) -> None:
        """Send a command; to a dead worker, too, whose answer will be that it is dead."""
        self.busy = True
        with suppress(OSError):
            self.connection.send_bytes(message)

    def receive(self) -> tuple[dict[int, Any], dict[int, BaseException]]:
        """Return results and failures by environment."""
        try:
            message = self.connection.recv_bytes()
        except (EOFError, OSError):
            self.busy = False
            self.process.join(_CLOSE_TIMEOUT_S)
            error = RuntimeError(
                f"the worker process of environments {list(self.rows)} died with exit code "
                f"{self.process.exitcode}; close() is all that is left"
            )
            return {}, {self.rows[0]: error}
        self.busy = False
        results, failure = pickle.loads(message)
        if failure is None:
            return {row: pickle.loads(result) for row, result in results.items()}, {}
        row, pickled, text = failure
        try:
            error = pickle.loads(pickled)
        except Exception:  # a class that only the worker knows, or one that cannot be pickled
            error = RuntimeError("an error that cannot be sent between processes")
        error.add_note(f"in environment {row}, in a worker process:\n{text}")
        return {}, {row: error}


def shut_down(workers: list[Worker], shared: list["SharedRows"]) -> None:
    """End the workers and free what they share."""
    for worker in workers:
        worker.connection.close()  # which a worker takes as its end, whatever it does
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
    """The observations of all environments, in memory that processes share."""

    def __init__(self, space: spaces.Space[Any], num_rows: int, name: str | None = None) -> None:
        """Allocate, or with a name, attach what another process has allocated.

        Raises:
            ValueError: elements of the space have no fixed size.
        """
        for one in _leaves(space, space):
            if not isinstance(one, _FIXED_SIZE):
                raise ValueError(
                    f"observations of {one} have no fixed size, so they cannot be in shared "
                    "memory; AsyncVectorEnv(shared_memory=False) sends them through pipes"
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
        """What another process finds it by."""
        return self._memory.name

    def write(self, row: int, observation: Observation) -> None:
        """Put the observation of one environment there."""
        values = _leaves(self._space, observation)
        for array, value in zip(self._arrays, values, strict=True):
            if np.shape(value) != array.shape[1:]:
                raise ValueError(
                    f"an observation has an array of shape {np.shape(value)} where the space says "
                    f"{array.shape[1:]}"
                )
            array[row] = value

    def read(self, target: Observation) -> None:
        """Copy all rows into arrays of the same layout."""
        for array, copied in zip(self._arrays, _leaves(self._space, target), strict=True):
            copied[:] = array

    def unlink(self) -> None:
        """Take the name away; once, by whom has allocated it."""
        if self._linked:
            self._linked = False
            self._memory.unlink()

    def close(self) -> None:
        """Let go of the memory."""
        self._arrays = []  # they hold it
        self._memory.close()


def _leaves(space: spaces.Space[Any], value: Any) -> Iterator[Any]:
    """Return the parts of `value` (an observation, a batch of them, a space) that are no Dict."""
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
    """Serve as a worker process, until the other end of the connection is closed."""
    # Ctrl-C goes to all processes of a terminal; the one that the user sees decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stage = _Stage(makers, autoreset_mode)
    commands = {
        "build": stage.build,
        "attach": stage.attach,
        "reset": stage.reset,
        "step": stage.step,
        "call": stage.call,
        "assign": stage.assign,
    }
    try:
        while True:
            command, jobs = pickle.loads(connection.recv_bytes())
            results: dict[int, bytes] = {}
            failure = None
            for row, argument in jobs:
                try:
                    results[row] = pickle.dumps(commands[command](row, argument))
                except Exception as error:  # the rest is left undone
                    failure = (row, _pickled(error), traceback.format_exc())
                    break
            connection.send_bytes(pickle.dumps((results, failure)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the other end was closed, which is how a worker is told to end
    finally:
        stage.close()
        connection.close()


def _pickled(error: Exception) -> bytes:
    """Pickle an error, or nothing if that cannot be done."""
    try:
        return pickle.dumps(error)
    except Exception:
        return b""


class _Stage:
    """The environments of one worker process; each command is for one of them."""

    def __init__(
        self, makers: dict[int, CloudpickleWrapper[Any]], autoreset_mode: AutoresetMode
    ) -> None:
        self._makers = makers
        self._same_step = autoreset_mode == AutoresetMode.SAME_STEP
        self._envs: dict[int, gymnasium.Env[Any, Any]] = {}
        self._shared: SharedRows | None = None

    def build(self, row: int, _: None) -> dict[str, Any]:
        """Make the environment, and say what it is."""
        env = self._envs[row] = self._makers[row]()
        return {
            "observation_space": env.observation_space,
            "action_space": env.action_space,
            "metadata": dict(env.metadata),
            "render_mode": env.render_mode,
        }

    def attach(self, row: int, memory: tuple[int, str]) -> None:
        """Find the shared memory."""
        num_rows, name = memory
        self._shared = SharedRows(self._envs[row].observation_space, num_rows, name)

    def reset(self, row: int, how: tuple[int | None, dict[str, Any] | None]) -> dict[str, Any]:
        """Begin an episode; give its info."""
        seed, options = how
        observation, info = self._envs[row].reset(seed=seed, options=options)
        self._show(row, observation)
        return info

    def step(self, row: int, what: tuple[bool, Any]) -> tuple[float, bool, bool, tuple[Any, ...]]:
        """Step or begin anew; give reward, ends and infos, which are two if both were done."""
        begin, action = what
        if begin:
            return 0.0, False, False, (self.reset(row, (None, None)),)
        env = self._envs[row]
        observation, reward, terminated, truncated, info = env.step(action)
        if self._same_step and (terminated or truncated):
            # a copy, since an environment may write its next observation into the same arrays
            last = {"final_obs": deepcopy(observation), "final_info": info}
            infos = (last, self.reset(row, (None, None)))
            return float(reward), bool(terminated), bool(truncated), infos
        self._show(row, observation)
        return float(reward), bool(terminated), bool(truncated), (info,)

    def call(self, row: int, what: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Any:
        """Call a method, or get an attribute."""
        name, args, kwargs = what
        found = self._envs[row].get_wrapper_attr(name)
        return found(*args, **kwargs) if callable(found) else found

    def assign(self, row: int, what: tuple[str, Any]) -> None:
        """Set an attribute."""
        self._envs[row].set_wrapper_attr(*what)

    def close(self) -> None:
        """Close all."""
        for env in self._envs.values():
            env.close()
        if self._shared is not None:
            self._shared.close()

    def _show(self, row: int, observation: Observation) -> None:
        assert self._shared is not None
        self._shared.write(row, observation)
