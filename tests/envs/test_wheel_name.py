"""The package works under the name that it has in its wheel, and never under both at once."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEEL_NAME = "toto_robot_envs"
ID = "toto/FrankaPick-v0"


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program where the checkout's `envs` can also be imported as in the wheel."""
    (folder / WHEEL_NAME).symlink_to(ROOT / "envs")
    path = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", path + program],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=folder,
    )


def test_nothing_under_the_wheels_name_imports_the_checkouts(tmp_path) -> None:
    program = f"""
import gymnasium, importlib, pkgutil, sys
env = gymnasium.make("{WHEEL_NAME}:{ID}", cameras=(), privileged=True)
env.reset(seed=0)
package = sys.modules["{WHEEL_NAME}"]
for module in pkgutil.walk_packages(package.__path__, "{WHEEL_NAME}."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # the package of a backend
        assert error.name in ("isaacgym", "mujoco_warp", "warp"), error
from {WHEEL_NAME}.expert_check import ExpertCheckConfig, run_episode
from {WHEEL_NAME} import randomisation
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    assert randomisation.draw.__module__ == "{WHEEL_NAME}.variation"
    from {WHEEL_NAME}.tasks.cabinet import DRAWER_M
    from {WHEEL_NAME}.franka import FRANKA_PANDA
assert type(env.unwrapped).__module__ == "{WHEEL_NAME}.manipulation"
print(sorted(name for name in sys.modules if name.partition(".")[0] == "envs"))
"""
    done = run(tmp_path, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("first", "second"), [("envs", WHEEL_NAME), (WHEEL_NAME, "envs")])
def test_the_second_of_both_names_is_refused(tmp_path, first, second) -> None:
    program = f"""
import gymnasium
env = gymnasium.make("{first}:{ID}", cameras=())
try:
    gymnasium.make("{second}:{ID}", cameras=())
except ImportError as error:
    print(error)
env = gymnasium.make("{first}:{ID}", cameras=())
print(type(env.unwrapped).__module__)
"""
    done = run(tmp_path, program)
    assert done.stdout.splitlines() == [
        f"{second} and {first} are the same package under two names, and this process has already "
        f"imported {first}: use {first} everywhere, as in {first}:{ID}",
        f"{first}.manipulation",
    ], done.stderr
