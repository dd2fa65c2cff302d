"""What a robot's computer runs is imported without torch, a simulator or a driver."""

import subprocess
import sys
from pathlib import Path

import pytest

REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "gymnasium" else find(name, *rest)
import {modules}
"""


@pytest.mark.parametrize(
    ("refused", "modules"),
    [
        (
            {"torch", "mujoco", "gymnasium", "cv2", "franky", "policies"},
            "real_robot.control.loop, real_robot.control.home, real_robot.control.timing, "
            "real_robot.agents.remote, real_robot.station, toto_robot, toto_robot.config, "
            "toto_robot.files, envs.interface",  # the library is lazy
        ),
        (
            {"torch", "mujoco", "gymnasium", "cv2", "jaxtyping", "policies"},
            "real_robot.safety.layer, real_robot.robot, real_robot.cameras.camera, "
            "real_robot.cameras.threaded, real_robot.cameras.sources, "
            "real_robot.cameras.realsense, real_robot.calibration.calibration, "
            "real_robot.calibration.solving",
        ),
        (
            {"torch", "mujoco", "gymnasium", "cv2", "jaxtyping", "policies", "franky"},
            "real_robot.franka",
        ),
    ],
)
def test_a_control_pc_needs_numpy_alone(refused, modules) -> None:
    run = subprocess.run(
        [sys.executable, "-c", REFUSE.format(refused=refused, modules=modules)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
