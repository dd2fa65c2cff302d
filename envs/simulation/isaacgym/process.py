"""The worker process: start it, send commands, and end it when it fails or hangs."""

import os
import queue
import select
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

from .worker.frames import frame, read_frame

_FOLDER = Path(__file__).parent
_NUM_LINES = 30  # of the worker's last messages in an error
_END_S = 5.0


class WorkerError(RuntimeError):
    """An error of the worker process; the message contains the worker's last messages."""


class WorkerProcess:
    """A worker process in the Python of Isaac Gym.

    It ends when this object is closed or garbage-collected, when this process ends in any way, and
    when a command takes longer than its time-out.
    """

    def __init__(self, python: str | Path, *, timeout_s: float) -> None:
        """Start the process.

        Args:
            python: the Python in which Isaac Gym is installed.
            timeout_s: how long a command may take, seconds.

        Raises:
            ValueError: `python` is not a program.
        """
        self.timeout_s = timeout_s
        program = shutil.which(os.path.expanduser(python))
        # The worker has another working directory. Links stay, because a venv consists of them.
        self._python = os.path.abspath(program or python)
        self._messages: deque[str] = deque(maxlen=_NUM_LINES)
        started: queue.SimpleQueue[subprocess.Popen[bytes] | Exception] = queue.SimpleQueue()
        thread = threading.Thread(
            target=_keep,
            args=(self._python, started, self._messages),
            name="isaacgym-worker",
            daemon=True,
        )
        thread.start()
        process = started.get()
        if isinstance(process, Exception):
            raise ValueError(
                f"worker_python={str(python)!r} does not start: {process}; it must be the Python "
                "3.8 in which Isaac Gym is installed (see docs/isaac_gym.md)"
            ) from process
        self._thread, self._process = thread, process
        self._failure: WorkerError | None = None
        self._end = weakref.finalize(self, _end, process, thread)

    @property
    def pid(self) -> int:
        """The id of the worker process."""
        return self._process.pid

    def ask(self, command: str, *, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Run a command in the worker, and return its result.

        Args:
            command: name of the command.
            timeout_s: how long the command may take, seconds; None: the time-out of the process.
            arguments: the arguments of the command.

        Raises:
            WorkerError: the command failed, the worker ended, or it did not answer in time. After
                the last two, every further command raises the same error.
        """
        if self._failure is not None:
            raise self._failure
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        try:
            self._write(frame({"command": command, **arguments}), deadline)
            reply = read_frame(lambda size: self._read(size, deadline))
        except (EOFError, OSError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                what = f"did not answer {command!r} within {limit_s:g} s, and was ended"
            else:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_END_S)
                what = f"ended {_ending(self._process)} during {command!r}"
            self._fail(what)
            raise cast(WorkerError, self._failure) from None
        except BaseException:  # an answer that comes after an interruption must not be read
            self._fail(f"was ended, because {command!r} was interrupted")
            raise
        if "error" in reply:
            error = WorkerError(
                f"the Isaac Gym worker failed in {command!r}: {reply['error']} "
                f"(worker_python={self._python})"
            )
            error.add_note(f"in the worker:\n{reply['traceback']}")
            raise error
        return reply["result"]

    def close(self) -> None:
        """End the worker process. A second call does nothing."""
        if self._failure is None:
            self._failure = WorkerError("the Isaac Gym worker is closed")
        self._end()

    def _write(self, data: bytes, deadline: float) -> None:
        """Write a command; a worker that hangs does not read, so the pipe can be full."""
        stream = cast(Any, self._process.stdin).fileno()
        ready = select.poll()
        ready.register(stream, select.POLLOUT)
        while data:
            if not ready.poll(1e3 * max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            # Into a pipe that is ready, this many bytes can be written without waiting.
            data = data[os.write(stream, data[: select.PIPE_BUF]) :]

    def _read(self, size: int, deadline: float) -> bytes:
        """Read `size` bytes of the answer, or fewer if the worker ended."""
        stream = cast(Any, self._process.stdout)
        data = b""
        while len(data) < size:
            if not wait([stream], max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(stream.fileno(), size - len(data))
            if not chunk:
                break
            data += chunk
        return data

    def _fail(self, what: str) -> None:
        """End the process, and store the error that all further commands raise."""
        _kill(self._process)
        self._end()
        lines = "".join(f"\n    {line}" for line in self._messages) or " none"
        self._failure = WorkerError(
            f"the Isaac Gym worker {what} (worker_python={self._python}); create a new simulator. "
            f"Its last messages:{lines}"
        )


def _keep(
    python: str,
    started: "queue.SimpleQueue[subprocess.Popen[bytes] | Exception]",
    messages: deque[str],
) -> None:
    """Start the worker, and collect what it writes to stderr until it ends.

    The kernel ends the worker when the thread that started it ends, so this thread must live as
    long as the worker.
    """
    try:
        process = subprocess.Popen(
            [python, "-u", "-m", "worker"],
            cwd=_FOLDER,
            env=worker_environment(python),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in a terminal reaches only this process
        )
    except Exception as error:  # whatever it is: the other thread waits for it
        started.put(error)
        return
    started.put(process)
    for line in cast(Any, process.stderr):
        messages.append(line.decode(errors="replace").rstrip())
    cast(Any, process.stderr).close()


def worker_environment(python: str) -> dict[str, str]:
    """Return the environment variables of the worker.

    Variables of this Python are removed, and the libraries beside the worker's Python come first,
    because Isaac Gym loads `libpython3.8.so` from there.
    """
    variables = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
    }
    libraries = [str(Path(python).resolve().parent.parent / "lib")]
    if "LD_LIBRARY_PATH" in variables:
        libraries.append(variables["LD_LIBRARY_PATH"])
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    return variables


def _ending(process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _end(process: "subprocess.Popen[bytes]", thread: threading.Thread) -> None:
    """Close the pipe, which ends the worker; kill it if it does not end."""
    cast(Any, process.stdin).close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()
    cast(Any, process.stdout).close()
    thread.join(_END_S)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the worker and the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
