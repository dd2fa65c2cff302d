"""The driver of a Franka FR3 with system 5.9 or later, on franky-control 2 (libfranka 0.21).

    with FrankaRobot(config) as robot:          # configs/franka/{fr3,twin}.yaml set every field
        robot.command(target_rad)               # 10 to 60 times a second

config     the settings
versions   the robot's server version, checked before libfranka connects
reference  a smooth reference from irregular targets
arm        the thread that calls the arm: reads states, feeds the controller, stops it
gripper    two threads that call the hand, whose calls block
robot      `FrankaRobot`: the `Robot` protocol of `real_robot.robot`

`python -m real_robot.franka address=172.16.0.2` checks a robot and moves nothing.
"""

from .config import FrankaConfig, GripperConfig, PayloadConfig, TrackingConfig
from .robot import FrankaRobot

__all__ = ["FrankaConfig", "FrankaRobot", "GripperConfig", "PayloadConfig", "TrackingConfig"]
