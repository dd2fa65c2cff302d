"""Time calls in turn, so that what else the machine does hits all of them."""

import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch


def cpu_clock() -> Callable[[], float]:
    """Return CPU time on one thread, where what else runs does not count; wall time on more."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def least_seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the least seconds of each call over some rounds, after one that does not count."""
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
