"""A Franka FR3, or its digital twin, as a LeRobot robot: `--robot.type=toto_fr3`."""

from .config_toto_fr3 import TotoFr3Config as TotoFr3Config
