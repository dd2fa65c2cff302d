"""Run a program in several processes that differ in what must not change its output."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def outputs(program: str) -> set[str]:
    """Return what the program prints with fresh memory of several contents, and on one CPU core."""
    one_core = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\n{program}"
    found = set()
    for code, fill in [(program, "0"), (program, "1"), (program, "85"), (one_core, "0")]:
        environment = {**os.environ, "PYTHONPATH": str(HERE), "MALLOC_PERTURB_": fill}
        command = [sys.executable, "-c", code]
        found.add(subprocess.check_output(command, env=environment, text=True))
    return found
