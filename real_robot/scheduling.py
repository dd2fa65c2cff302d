"""Which thread goes first, and on which CPUs: as far as the system allows it (Linux).

A thread hands what it has on to the threads and processes that it starts.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def ask_for_priority(priority: int) -> bool:
    """Return this thread a real-time priority, 1 to 99, and say whether it has it; 0 for none."""
    if priority == 0:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, PermissionError):  # not Linux; not allowed
        return False
    return True


def drop_priority() -> None:
    """Take real-time priority from this thread, if it has some: for one that computes for long.

    Others of its priority would wait for it, and where such threads leave a CPU no rest at all,
    Linux stops all of them for some 50 ms.
    """
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def realtime_priority(priority: int) -> Iterator[None]:
    """Let this thread, and those that it starts, go before others while the context lasts."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if not ask_for_priority(priority):
        if priority:
            print(f"note: no real-time priority {priority}: this user may not (ulimit -r)")
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@contextmanager
def avoid_cpu(cpu: int | None) -> Iterator[None]:
    """Keep this thread, and those that it starts, off a CPU while the context lasts.

    Args:
        cpu: which; None for none. The last one that there is cannot be left.
    """
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - {cpu} or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
