"""Train and evaluate the policy `toto` in LeRobot, and drive a twin, with this checkout's plugins.

    python -m benchmarks.compatibility.lerobot          # tiny sizes, as in `make compat`
    python -m benchmarks.compatibility.lerobot full     # the sizes of docs/frameworks.md

LeRobot needs Python 3.12 or 3.13. Its virtual environment, below ~/.cache/toto-robot, has 5.7 GB
where only torch's CUDA build can be installed. Results: runs/compatibility/lerobot/<size>.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.success_rates import describe_rate

from .__main__ import CACHE, OUT, ROOT

PLUGINS = ROOT / "plugins"
VERSION = "0.6.1"
CPU_TORCH = ("torch==2.11.0", "torchvision==0.26.0")
TWIN = "franka-sim==1.1.7"  # its pins (numpy 1.26, mujoco 3.2) are not needed
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The size of a run: expert episodes, gradient steps, batch, and evaluated episodes."""

    demonstrations: int
    steps: int
    batch: int
    episodes: int


SIZES = {
    "tiny": Size(demonstrations=4, steps=20, batch=16, episodes=2),
    "full": Size(demonstrations=60, steps=500, batch=32, episodes=20),
}


def main() -> None:
    """Install, record, train, evaluate and check; exit with 1 if a step fails."""
    name = sys.argv[1] if len(sys.argv) > 1 else "tiny"
    size, out = SIZES[name], OUT / "lerobot" / name
    if (python := interpreter()) is None:
        sys.exit("LeRobot needs Python 3.12 or 3.13, and none is installed; set LEROBOT_PYTHON")
    home = environment(python)
    data = record(size, out)
    for folder in ("train", "eval"):  # LeRobot does not write into folders that exist
        shutil.rmtree(out / folder, ignore_errors=True)
    run(
        home / "lerobot-train",
        "--policy.type=toto", "--policy.device=cpu", f"--policy.cache={out}/features",
        "--dataset.repo_id=local/franka_pick", f"--dataset.root={data}",
        f"--output_dir={out}/train", f"--steps={size.steps}", f"--batch_size={size.batch}",
        "--num_workers=0", "--log_freq=10", "--env_eval_freq=0",
    )  # fmt: skip
    checkpoint = out / "train" / "checkpoints" / "last" / "pretrained_model"
    run(
        home / "lerobot-eval",
        f"--policy.path={checkpoint}", "--policy.device=cpu",
        "--env.type=toto", "--env.task=FrankaPick-v0",
        f"--eval.n_episodes={size.episodes}", "--eval.batch_size=2", f"--output_dir={out}/eval",
    )  # fmt: skip
    run(home / "python", "-I", ROOT / "tests" / "lerobot_policy_check.py", data, checkpoint)
    run(home / "python", ROOT / "tests" / "lerobot_robot_check.py", PYTHONPATH=str(ROOT))
    report(json.loads((out / "eval" / "eval_info.json").read_text()), size)


def interpreter() -> str | None:
    """Return a Python that LeRobot supports, or None."""
    versions = sorted(Path.home().glob(".pyenv/versions/3.1[23].*/bin/python"))
    names = [os.environ.get("LEROBOT_PYTHON"), "python3.12", "python3.13", *map(str, versions)]
    test = "import sys, venv; sys.exit(not (3, 12) <= sys.version_info < (3, 14))"
    for name in filter(None, names):
        found = shutil.which(name)
        if found and not subprocess.run([found, "-c", test], capture_output=True).returncode:
            return found
    return None


def environment(python: str) -> Path:
    """Return the folder of the programs of LeRobot's environment, made where it is not there."""
    home = CACHE / "lerobot"
    pip = [home / "bin" / "python", "-m", "pip", "install", "-q"]
    ours = [ROOT, ROOT / "wheels" / "envs", *sorted(PLUGINS.glob("lerobot_*"))]
    if not (home / "complete").exists():
        print(f"install lerobot {VERSION} for {python}", flush=True)
        subprocess.run([python, "-m", "venv", "--clear", home], check=True)
        short = ["--timeout", "15", "--retries", "0", "--index-url", CPU_INDEX]
        # where this index cannot be reached, LeRobot brings the CUDA build
        subprocess.run([*pip, *short, *CPU_TORCH], capture_output=True)
        lerobot = f"lerobot[training,evaluation]=={VERSION}"
        subprocess.run([*pip, lerobot, *ours], check=True)
        subprocess.run([*pip, "--no-deps", TWIN], check=True)
        (home / "complete").touch()
    subprocess.run([*pip, "--no-deps", "--force-reinstall", *ours], check=True)
    return home / "bin"


def record(size: Size, out: Path) -> Path:
    """Return a LeRobot data set of the expert's episodes; those of an earlier run are reused."""
    data = out / "data"
    episodes = [f"demonstrations={size.demonstrations}", f"out={out}/expert"]
    few = ["imitation.last_steps=20", "validation_episodes=1", "evaluation_episodes=1"]
    command = [sys.executable, "-m"]
    run(*command, "policies.train", "method=bc", *episodes, *few, "video_episodes=0")
    store = [f"store={out}/expert/store", "format=lerobot", "episodes=null"]
    run(*command, "policies.redraw", *store, f"out={data}")
    return data


def run(*command: object, **variables: str) -> None:
    """Run a command without the network; print its output only if it fails."""
    words = [str(word) for word in command]
    print("$", " ".join([Path(words[0]).name, *words[1:]]), flush=True)
    alone = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", **variables}
    done = subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}")


def report(info: dict[str, Any], size: Size) -> None:
    """Print the success rate."""
    successes = round(info["overall"]["pc_success"] / 100 * size.episodes)
    print(
        f"lerobot {VERSION}: {size.steps} steps on {size.demonstrations} demonstrations; success "
        f"{describe_rate(successes, size.episodes)}"
    )


if __name__ == "__main__":
    main()
