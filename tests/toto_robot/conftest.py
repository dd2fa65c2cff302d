"""What all tests of the library share."""

import functools

import pytest


@pytest.fixture(autouse=True, scope="session")
def _peak_of_this_machine_is_measured_once():
    """Measure what a training run is held against once, not for each line of each log: 0.1 s."""
    from toto_robot.training import throughput

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "peak_flops", functools.cache(throughput.peak_flops))
        yield
