"""Keep torch usable in forked processes, such as the workers of `AsyncVectorEnv`.

A fork copies the memory of a process, but only one of its threads. So the threads of torch's thread
pool do not exist in the forked process, and a call that waits for them never returns. If torch is
set to one thread, it does not use the pool. Therefore this module sets torch to one thread in each
forked process. This is also the fastest setting for many environments on few cores.
"""

import multiprocessing
import os
from functools import cache

import torch

__all__ = ["survive_forks"]


def survive_forks() -> None:
    """Set torch to one thread in this process if it was forked, and in processes forked later."""
    _register()
    if _is_forked():
        torch.set_num_threads(1)


@cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _is_forked() -> bool:
    """Return whether multiprocessing created this process by a fork."""
    if multiprocessing.parent_process() is None:
        return False
    process = multiprocessing.current_process()
    if type(process) is multiprocessing.Process:  # of the default context
        return multiprocessing.get_start_method(allow_none=True) == "fork"
    return type(process).__name__ == "ForkProcess"
