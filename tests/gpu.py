"""The device of the tests that are marked `gpu`.

`TOTO_ROBOT_GPU=cpu python -m pytest -m gpu` runs them on a CPU, to test the tests themselves.
"""

import os

GPU = os.environ.get("TOTO_ROBOT_GPU", "cuda")
