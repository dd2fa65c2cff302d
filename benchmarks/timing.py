"""Time several calls alternately, so that other load on the machine affects all of them."""

import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch


def cpu_clock() -> Callable[[], float]:
    """Return a clock. With one torch thread, it is CPU time, which ignores other processes.

    With more threads, it is wall time.
    """
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def least_seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Time each call once per round, and return the minimum seconds of each call.

    Each call first has a warm-up that does not count.
    """
    for call in calls.values():
        call()
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        moments = [clock()]
        for call in calls.values():
            call()
            moments.append(clock())
        for name, (start, end) in zip(calls, pairwise(moments), strict=True):
            least[name] = min(least[name], end - start)
    return least
