"""A twin's test is run again only if the host took the CPUs away while it failed."""

from types import SimpleNamespace

import pytest

from tests.real_robot import conftest
from tests.real_robot.starved import StarvedError, blame_the_machine


def fails(*, marked, taken_s, error, monkeypatch):
    """Return what comes of a test that raises `error` while the host takes so much time."""
    seen_s = iter([5.0, 5.0 + taken_s])
    monkeypatch.setattr(conftest, "stolen_s", lambda: next(seen_s))
    item = SimpleNamespace(get_closest_marker=lambda name: marked or None)
    running = conftest.pytest_runtest_call(item)
    next(running)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        running.throw(error)
    return caught.value


@pytest.mark.parametrize("error", [AssertionError("no"), pytest.fail.Exception("no")])
def test_a_starved_failure_is_named(error, monkeypatch):
    raised = fails(marked=True, taken_s=0.13, error=error, monkeypatch=monkeypatch)
    assert isinstance(raised, StarvedError)
    assert str(raised).startswith("the host took 0.13 s")
    assert raised.__cause__ is error


@pytest.mark.parametrize(
    ("marked", "taken_s", "error"),
    [
        (True, 0.01, AssertionError("no")),
        (True, 1.0, pytest.skip.Exception("not installed")),
        (False, 1.0, AssertionError("no")),
    ],
)
def test_others_stay_what_they_are(marked, taken_s, error, monkeypatch):
    raised = fails(marked=marked, taken_s=taken_s, error=error, monkeypatch=monkeypatch)
    assert raised is error


def test_the_system_tells_what_was_stolen():
    assert 0 <= conftest.stolen_s() <= conftest.stolen_s()


@pytest.mark.parametrize(("longest_s", "late_s"), [(0.02, 0.0), (0.001, 0.06)])
def test_a_twin_or_a_tick_that_came_late_is_the_machine_s_doing(longest_s, late_s):
    client = SimpleNamespace(rates=lambda: {"period_max_s": longest_s})
    with pytest.raises(StarvedError, match="reflex: pushed"):
        blame_the_machine(client, "reflex: pushed", late_s=late_s)


def test_a_machine_that_kept_time_is_not_blamed():
    client = SimpleNamespace(rates=lambda: {"period_max_s": 0.014})
    blame_the_machine(client, "reflex: pushed", late_s=0.04)
