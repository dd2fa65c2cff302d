"""The driver of a Franka FR3 with system 5.9 or later, on franky-control 2 (libfranka 0.21).

    with FrankaRobot(config) as robot:          # configs/franka/{fr3,twin}.yaml say every field
        robot.command(target_rad)               # 10 to 60 times a second

config     what is set, field by field
versions   which robot is there, before libfranka is asked
reference  from targets now and then to a smooth reference
arm        one thread that talks to the arm: reads states, feeds the controller, stops it
gripper    two threads that talk to the hand, whose calls block
robot      `FrankaRobot`: the `Robot` protocol of `real_robot.robot`

`python -m real_robot.franka address=172.16.0.2` looks at a robot and moves nothing.
"""

from .config import FrankaConfig, GripperConfig, PayloadConfig, TrackingConfig
from .robot import FrankaRobot

__all__ = ["FrankaConfig", "FrankaRobot", "GripperConfig", "PayloadConfig", "TrackingConfig"]
