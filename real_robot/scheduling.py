"""Set the real-time priority and the CPU affinity of threads, on Linux.

The threads and processes that a thread starts inherit its priority and its CPUs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def ask_for_priority(priority: int) -> bool:
    """Request a real-time priority for this thread, 1 to 99; 0 requests none.

    Return True if the system has set it, and False if the system does not allow it.
    """
    if priority == 0:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, PermissionError):  # not Linux; not allowed
        return False
    return True


def drop_priority() -> None:
    """Remove this thread's real-time priority; call it in threads with long computations.

    A long computation with real-time priority would delay other threads of the same priority. If
    real-time threads use a CPU without a pause, Linux stops all of them for about 50 ms.
    """
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def realtime_priority(priority: int) -> Iterator[None]:
    """Set a real-time priority in a `with` block, for this thread and threads that it starts.

    The previous priority is restored at the end of the block.
    """
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
    """Exclude a CPU in a `with` block, for this thread and for threads that it starts.

    Args:
        cpu: number of the CPU that is not used; None uses all. If the machine has no other CPU, it
            is used nevertheless.
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
