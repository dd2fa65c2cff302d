"""Driver of a Franka Research 3 (FR3) with system version 5.9 or later.

The driver uses the library franky-control 2 (libfranka 0.21).

    with FrankaRobot(config) as robot:          # configs/franka/{fr3,twin}.yaml set every field
        robot.command(target_rad)               # 10 to 60 times a second

The modules of the package contain:

config     settings of the driver
versions   check of the robot's server version, before libfranka connects
reference  computation of a smooth reference from targets that arrive irregularly
arm        the thread that calls the arm: it reads states, passes references, and stops the arm
gripper    two threads that call the hand, because the hand's calls block
robot      `FrankaRobot`, which implements the `Robot` protocol of `real_robot.robot`

`python -m real_robot.franka address=172.16.0.2` checks a robot and moves nothing.
"""

from .config import FrankaConfig, GripperConfig, PayloadConfig, TrackingConfig
from .robot import FrankaRobot

__all__ = ["FrankaConfig", "FrankaRobot", "GripperConfig", "PayloadConfig", "TrackingConfig"]
