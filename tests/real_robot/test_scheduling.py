"""Priorities and CPUs of threads are set, inherited and restored."""

import os
import threading
from dataclasses import replace

import pytest

from real_robot.control.worker import Worker
from real_robot.scheduling import ask_for_priority, avoid_cpu, drop_priority, realtime_priority
from real_robot.twin.config import STANDARD


def now():
    """Return this thread's policy and priority."""
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def allowed():
    """Return whether this user may have real-time priorities; asked in a thread that ends."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask_for_priority(1)))
    thread.start()
    thread.join()
    return answers[0]


needs_priority = pytest.mark.skipif(not allowed(), reason="this user may not hurry")


@needs_priority
def test_a_hurry_is_handed_on_and_given_back() -> None:
    before, seen = now(), []
    with realtime_priority(7):
        assert now() == (os.SCHED_FIFO, 7)
        thread = threading.Thread(target=lambda: seen.append(now()))
        thread.start()
        thread.join()
    assert seen == [(os.SCHED_FIFO, 7)]
    assert now() == before


@needs_priority
def test_the_answering_thread_gives_way_to_the_asking_thread() -> None:
    with realtime_priority(7):
        worker = Worker(lambda _: now(), "who am I")
        worker.ask(None)
        assert worker.news.wait(5)
        worker.close(1.0)
        assert worker.take() == [(os.SCHED_OTHER, 0)]
        assert now() == (os.SCHED_FIFO, 7)


def test_without_a_hurry_nothing_changes() -> None:
    before = now()
    with realtime_priority(0):
        assert now() == before
        drop_priority()
        assert now() == before


def test_where_it_is_not_allowed_that_is_said(monkeypatch, capsys) -> None:
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with realtime_priority(7):
        pass
    assert "no real-time priority 7" in capsys.readouterr().out
    assert not ask_for_priority(7)


def test_a_cpu_is_left_to_others_but_not_the_last_one() -> None:
    before = os.sched_getaffinity(0)
    for cpu in before:
        with avoid_cpu(cpu):
            assert os.sched_getaffinity(0) == (before - {cpu} or before)
    with avoid_cpu(None):
        assert os.sched_getaffinity(0) == before
    last = {min(before)}
    os.sched_setaffinity(0, last)
    try:
        with avoid_cpu(min(before)):
            assert os.sched_getaffinity(0) == last
    finally:
        os.sched_setaffinity(0, before)


def test_twins_are_spread_over_the_cpus(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5})
    addresses = [f"127.0.0.{last}" for last in range(1, 7)]
    pinned = replace(STANDARD, pinned=True)
    assert {pinned.cpu(address) for address in addresses} == {2, 3, 5}
    assert pinned.cpu("127.0.0.1") == pinned.cpu("127.0.0.4")
    assert STANDARD.cpu("127.0.0.1") is None
