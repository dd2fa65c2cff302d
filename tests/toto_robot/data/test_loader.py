"""Reading ahead: the order stays, errors arrive, and nothing is left running."""

import itertools
import threading

import pytest

from toto_robot.data.loader import read_ahead


def test_results_come_in_order_and_are_read_ahead():
    turn = threading.Event()

    def read(number):
        if number == 0:
            assert turn.wait(10)  # number 1 lets it go on: two are read at a time
        if number == 1:
            turn.set()
        return number * number

    assert list(read_ahead(read, range(6), threads=2)) == [0, 1, 4, 9, 16, 25]
    assert list(read_ahead(read, [], threads=2)) == []


def test_an_endless_stream_is_taken_only_as_far_as_needed_and_closes():
    asked = itertools.count()
    before = set(threading.enumerate())
    stream = read_ahead(lambda number: number, asked, threads=3)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    stream.close()
    assert set(threading.enumerate()) == before
    assert next(asked) <= 5 + 3 + 1


def test_an_error_comes_where_its_result_would_have():
    before = set(threading.enumerate())

    def read(number):
        if number == 2:
            raise OSError("disk 2 is gone")
        return number

    stream = read_ahead(read, range(9), threads=4)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(OSError, match="disk 2 is gone"):
        next(stream)
    assert set(threading.enumerate()) == before
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        read_ahead(read, range(3), threads=0)
