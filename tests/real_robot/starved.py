"""A machine that is too busy for a twin is no fault of the code: such a test is run again.

`conftest` reruns a twin's test that ends by a `StarvedError`, twice at most; then it fails.
"""

MOST_CYCLE_S = 0.015  # a cycle is 1 ms; a motion ends when 20 commands in a row come late


class StarvedError(AssertionError):
    """A test failed, and meanwhile the machine did not keep a twin's time."""


def blame_the_machine(client, failure, *, late_s=0.0, most_late_s=0.05):
    """Raise a `StarvedError` if the twin's cycles or the test's ticks came late; else return.

    Args:
        client: of the twin; counts from when its rates were last asked for.
        failure: what failed, in words or as an error.
        late_s: how late the latest tick was.
        most_late_s: how late a tick may be.
    """
    longest_s = client.rates()["period_max_s"]
    if late_s > most_late_s or longest_s > MOST_CYCLE_S:
        raise StarvedError(
            f"the machine is too busy for a twin: a tick was {late_s:.3f} s late, a cycle of 1 ms "
            f"took {longest_s:.3f} s: {failure}"
        )
