"""Settings of all tests. Nothing of the library is imported here: the shape checker comes first."""

import os

import hypothesis

# One thread a process: the tests run beside one another, and sums are then the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
