"""Settings of all tests. Nothing of the library is imported here: the shape checker comes first."""

import errno
import fcntl
import os

import hypothesis
import pytest

# One thread a process: the tests run beside one another, and sums are then the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def no_folder_locks(monkeypatch):
    """Let folders refuse locks and files accept them, as network file systems do."""
    real = fcntl.flock

    def flock(where, operation):
        if isinstance(where, int):
            raise OSError(errno.EBADF, "as on NFS")
        return real(where, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
