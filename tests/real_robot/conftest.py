"""Mark what needs a twin: such tests run one after the other, with the machine to themselves.

An arm wants a command in each millisecond, and ends a motion that misses twenty. A machine whose
CPUs are away for so long makes a test fail that is right; so a twin's test that failed while that
was measured is run again, twice at most, and pytest counts the reruns at the end. Measured is what
the host took, here; and by tests that know them, the twin's cycles and their own ticks (`starved`).
"""

import os
import signal
from pathlib import Path

import pytest

from tests.real_robot.starved import StarvedError

_MOST_STOLEN_S = 0.02
_RERUNS = 2


@pytest.fixture(autouse=True)
def hangup_is_not_ignored():
    """Undo `nohup`, under which the tests may run: an ignored SIGHUP stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def pytest_collection_modifyitems(items):
    for item in items:
        if "twin" in item.fixturenames or hasattr(item.module, "require_twin"):
            item.add_marker(pytest.mark.twin)
            item.add_marker(pytest.mark.flaky(reruns=_RERUNS, only_rerun=[StarvedError.__name__]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if item.get_closest_marker("twin") is None:
        return (yield)
    before_s = stolen_s()
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        taken_s = stolen_s() - before_s
        if taken_s <= _MOST_STOLEN_S:
            raise
        raise StarvedError(
            f"the host took {taken_s:.2f} s of this machine's CPUs while this ran: {error}"
        ) from error


def stolen_s():
    """Return how long CPUs of this machine have waited for the host, s: `steal` of proc(5)."""
    steal = Path("/proc/stat").read_text().split(maxsplit=9)[8]
    return int(steal) / os.sysconf("SC_CLK_TCK")
