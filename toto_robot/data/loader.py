"""Read training batches ahead of time, in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")


def read_ahead(
    read: Callable[[int], T], numbers: Iterable[int], threads: int
) -> Generator[T, None, None]:
    """Yield ``read(n)`` for each number n, in order. Threads compute the next results in advance.

    At most ``threads`` results are computed in advance. Threads are sufficient, and processes are
    not needed: reading a batch consists of disk reads, memory copies and video decoding, which all
    release the interpreter's lock. Also, a thread returns an array without a copy. When the
    iterator is closed, or a loop over it ends by an exception, the waiting results are dropped and
    the threads end.

    Args:
        read: function of a number, such as `SequenceMixture.rows`. Its result must depend only on
            the number, and not on the thread.
        numbers: the arguments of ``read``, one after the other. May be endless, because at most
            ``threads`` numbers are taken in advance.
        threads: number of threads, at least 1.

    Raises:
        ValueError: ``threads`` is below 1.
        Exception: ``read`` raised an exception. It is raised again when the result of this call is
            requested.
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
