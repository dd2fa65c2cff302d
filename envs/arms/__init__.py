"""Descriptions of the robot arms as data classes, and their kinematics."""

from .arm import MODELS, Arm, Fingertip, LinkFrame, Servo, bounded_speed

__all__ = ["MODELS", "Arm", "Fingertip", "LinkFrame", "Servo", "bounded_speed"]
