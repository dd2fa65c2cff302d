"""Reading ahead of the training step."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")


def read_ahead(
    read: Callable[[int], T], numbers: Iterable[int], threads: int
) -> Generator[T, None, None]:
    """Yield ``read(n)`` for each of the numbers, in their order, read ahead by threads.

    As many results as threads are being read or wait to be taken. Threads and not processes,
    because reading a batch is page cache, `memcpy` and libav, which release the interpreter's lock,
    and because a thread hands an array over without a copy. Closing the iterator, or leaving a loop
    over it by an exception, drops what nobody asked for and ends the threads.

    Args:
        read: what to do for a number; pure, as `SequenceMixture.rows` is, so that the result does
            not depend on which thread does it.
        numbers: taken only as far as is read ahead, so it may be endless.
        threads: how many read at a time, at least 1.

    Raises:
        ValueError: ``threads`` is below 1.
        Exception: what ``read`` raised, at the place where its result would have come.
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
