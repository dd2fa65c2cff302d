"""Test and measure the library on an NVIDIA GPU in at most ten minutes: `make gpu`.

    python -m benchmarks.gpu                         # writes runs/gpu/summary.md and summary.json
    python -m benchmarks.gpu --device cpu --tiny     # the same steps, to test the script

Each step (see benchmarks/gpu_steps.py) runs in a separate process with a time limit, so that a
crash does not affect the other steps. If the command is run again, it runs only the steps that are
not done. The exit code is 0 if all steps are done, 1 if some are not done, and 2 if no GPU was
found.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps import ROOT, STEPS, Step
from toto_robot.device import choose_device, num_cpus
from toto_robot.files import write_aside, write_json
from toto_robot.locks import hold

_ALL_S = 580.0  # time limit of all steps together, s, so that the command ends within ten minutes
_LEAST_S = 15.0  # if less time is left, s, the next step is not started in this call


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps that are not done, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to test the script")
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes; their times are meaningless"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    try:
        device = choose_device(given.device)
    except ValueError as error:
        print(
            f"no GPU: {error}. `python -m benchmarks.gpu --device cpu --tiny` tests the script.",
            file=sys.stderr,
        )
        return 2
    out = given.out.resolve()
    if given.step:
        torch.manual_seed(0)
        began = time.monotonic()
        found = STEPS[given.step].run(device, given.tiny, out)
        about = {"machine": _machine(device, given.tiny), "seconds": time.monotonic() - began}
        write_json(out / f"{given.step}.json", {**about, **found})
        return 0
    return _run_all(device, given.tiny, out)


def _run_all(device: str, tiny: bool, out: Path) -> int:
    """Run each step in a separate process, and write the summary after each step."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        hold(out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    machine = _machine(device, tiny)
    print(f"{len(STEPS)} steps on {machine['device']}, at most {_ALL_S:.0f} s; results: {out}")
    began, results = time.monotonic(), {}
    for name, step in STEPS.items():
        print(f"{name}: {step.title} ...", flush=True)
        remaining_s = _ALL_S - (time.monotonic() - began)
        kept = _done(out, name, machine)
        results[name] = kept or _run(name, step, device, tiny, out, remaining_s)
        why = "from an earlier call" if kept else results[name].get("why", "")
        print(f"{name}: {results[name]['result']}{why and f' ({why})'}", flush=True)
        write_json(out / "summary.json", {"machine": machine, "steps": results})
        write_aside(out / "summary.md", summarise(machine, results))
    print(f"\n{(out / 'summary.md').read_text()}\nresults: {out / 'summary.md'}")
    return 0 if all(one["result"] in ("done", "skipped") for one in results.values()) else 1


def _machine(device: str, tiny: bool) -> dict[str, Any]:
    """Return a description of the machine: all properties on which measured times depend.

    Results of an earlier call with another description are discarded.
    """
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU ({device})",
        "cpu": f"{platform.processor() or platform.machine()}, {num_cpus()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tiny": tiny,
    }


def _done(out: Path, name: str, machine: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result of a step from an earlier call on this machine, or None."""
    try:
        found = json.loads((out / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return {"result": "done", **found} if found.pop("machine", None) == machine else None


def _run(
    name: str, step: Step, device: str, tiny: bool, out: Path, remaining_s: float
) -> dict[str, Any]:
    """Run one step in a process, and return its result, or the reason why it has no result."""
    if missing := [package for package in step.needs if find_spec(package) is None]:
        return {"result": "skipped", "why": f"not installed: {', '.join(missing)}"}
    if remaining_s < _LEAST_S:
        return {"result": "no time left", "why": "the same command continues with this step"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--step", name, "--device", device]
    command += ["--out", str(out), *(["--tiny"] if tiny else [])]
    log = out / f"{name}.log"
    (out / f"{name}.json").unlink(missing_ok=True)
    limit_s = step.limit_s * 3 if tiny else step.limit_s  # a CPU may do other work
    if why := run_limited(command, log, min(limit_s, remaining_s)):
        return {"result": "failed", "why": f"{why}; see {log}"}
    lost = {"result": "failed", "why": f"it wrote no result; see {log}"}
    return _done(out, name, _machine(device, tiny)) or lost


def run_limited(command: Sequence[str], log: Path, limit_s: float) -> str | None:
    """Run a command in the checkout, and write its output to a file.

    After the time limit, the command and its children are killed.

    Returns:
        None if the command succeeded. Otherwise the reason of the failure: the exit code with the
        last line of output, or the time limit.
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return f"it took longer than {limit_s:.0f} s"
            raise
    if code == 0:
        return None
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    return f"exit code {code}: {lines[-1]}"


def summarise(machine: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a summary in Markdown: the machine, the list of steps, and the tables of each step."""
    lines = [f"# On {machine['device']}", ""]
    lines += [f"torch {machine['torch']}; CPU: {machine['cpu']}, {machine['threads']} threads.", ""]
    if machine["tiny"]:
        lines += ["Tiny sizes: the times are meaningless.", ""]
    overview = [
        {"step": name, "result": one["result"], "seconds": one.get("seconds", ""),
         "why": one.get("why", "")}
        for name, one in steps.items()
    ]  # fmt: skip
    lines += table(overview)
    for name, one in steps.items():
        for title, rows in one.get("tables", {}).items():
            lines += ["", f"## {name}: {title}", "", *table(rows)]
        lines += [text for note in one.get("notes", ()) for text in ("", note)]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table. All rows must have the same keys."""
    heads = list(rows[0])
    cells = [[_cell(row[head]) for head in heads] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *cells)]


def _cell(value: object) -> str:
    text = f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(value)
    text = f"{value:.0f}" if isinstance(value, float) and abs(value) >= 100 else text
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues with the steps that are not done")
