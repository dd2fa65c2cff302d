"""Prefetching of training batches by threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")


def read_ahead(
    read: Callable[[int], T], numbers: Iterable[int], threads: int
) -> Generator[T, None, None]:
    """Yield ``read(n)`` for each of the numbers, in order, prefetched by threads.

    At most ``threads`` results are prefetched. Threads are enough, because reading a batch is page
    cache, `memcpy` and libav, which release the interpreter's lock; and a thread returns an array
    without a copy. Closing the iterator, or leaving a loop over it by an exception, drops the
    prefetched results and ends the threads.

    Args:
        read: a pure function of the number, such as `SequenceMixture.rows`, so that the result does
            not depend on the thread.
        numbers: the arguments of ``read``; consumed only as far as is prefetched, so it may be
            endless.
        threads: number of threads, at least 1.

    Raises:
        ValueError: ``threads`` is below 1.
        Exception: ``read`` raised it; raised here when its result is due.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return _read_ahead(read, numbers, threads)


def _read_ahead(
    read: Callable[[int], T], numbers: Iterable[int], threads: int
) -> Generator[T, None, None]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read_ahead")
    waiting: deque[Future[T]] = deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(read, number))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
