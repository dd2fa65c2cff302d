"""Keep torch usable in processes that are forked, as those of `AsyncVectorEnv` are.

A fork copies the memory but only one thread. What torch's pool of threads was asked to do in the
child is then done by nobody, and the call never returns. With one thread torch uses no pool, so
every forked child gets one thread; which is also right for many environments on few cores.
"""

import multiprocessing
import os
from functools import cache

import torch

__all__ = ["survive_forks"]


def survive_forks() -> None:
    """Return one torch thread to this process if it was forked, and to all that it will fork."""
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
    """Return whether multiprocessing forked this process: its parent may have used the pool."""
    if multiprocessing.parent_process() is None:
        return False
    process = multiprocessing.current_process()
    if type(process) is multiprocessing.Process:  # of the default context
        return multiprocessing.get_start_method(allow_none=True) == "fork"
    return type(process).__name__ == "ForkProcess"
