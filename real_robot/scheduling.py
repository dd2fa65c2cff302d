"""Real-time priority and CPU affinity of threads, where the system allows it (Linux).

The threads and processes that a thread starts inherit both.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def ask_for_priority(priority: int) -> bool:
    """Set this thread's real-time priority, 1 to 99 (0 for none); return whether it is set."""
    if priority == 0:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, PermissionError):  # not Linux; not allowed
        return False
    return True


def drop_priority() -> None:
    """Remove this thread's real-time priority, for a thread with long computations.

    With the priority, threads of the same priority would wait for the computation. If real-time
    threads use a CPU fully, Linux stops all of them for about 50 ms.
    """
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def realtime_priority(priority: int) -> Iterator[None]:
    """Set a real-time priority of this thread, and of threads that it starts, in the context."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if not ask_for_priority(priority):
        if priority:
            print(f"note: no real-time priority {priority}: this user has no right (ulimit -r)")
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@contextmanager
def avoid_cpu(cpu: int | None) -> Iterator[None]:
    """Exclude a CPU for this thread, and for threads that it starts, in the context.

    Args:
        cpu: number of the CPU to exclude; None for none. If it is the only CPU, it stays in use.
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
