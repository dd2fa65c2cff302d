"""A twin for a test: `from tests.real_robot.twin_fixture import twin  # noqa: F401`.

One twin for each module that asks, on an address of its own. Start it with other settings by
`start_twin(replace(STANDARD, ...))`, after `require_twin()`.
"""

from importlib.util import find_spec

import numpy as np
import pytest

from envs.arms.franka import FRANKA_PANDA
from envs.arms.kinematics import solve_ik
from real_robot.twin import start_twin


def require_twin(*clients: str):
    """Skip where a twin, or a client package that the test needs, is not installed."""
    missing = [name for name in ("franka_sim", "mujoco", *clients) if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; see docs/real_robot.md, the twin")


@pytest.fixture(scope="module")
def twin():
    require_twin("franky")
    with start_twin() as running:
        yield running


def connect(address, *, torque_nm=60.0, force_n=60.0, speed=0.25):
    """Return a franky robot and its gripper, with collision thresholds and reduced speed."""
    import franky

    robot = franky.Robot(address, realtime_config=franky.RealtimeConfig.Ignore)
    robot.relative_dynamics_factor = speed
    robot.set_collision_behavior(torque_nm, force_n)
    return robot, franky.Gripper(address)


def above(x_m, y_m, z_m, start, *, yaw_rad=0.0):
    """Return joints with the tool there, pointing down, in the frame of the arm's base."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    pose = np.eye(4)
    pose[:3, :3] = [[cos, sin, 0], [sin, -cos, 0], [0, 0, -1]]
    pose[:3, 3] = x_m, y_m, z_m
    joints, error_m, error_rad = solve_ik(
        FRANKA_PANDA, pose, start, rest=start, num_iterations=100, rest_gain=0.0
    )
    assert error_m < 0.002, f"{x_m}, {y_m}, {z_m} is out of reach by {error_m} m"
    assert error_rad < 0.02
    return joints
