"""Time calls in turns, so that other load on the machine affects all of them."""

import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch


def cpu_clock() -> Callable[[], float]:
    """Return a clock: CPU time on one thread, which ignores other processes, else wall time."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def least_seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the minimum seconds of each call over some rounds, after a warm-up call."""
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
