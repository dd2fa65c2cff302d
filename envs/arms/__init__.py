"""Data classes of the robot arms, and their kinematics."""

from .arm import MODELS, Arm, Fingertip, LinkFrame, Servo, bounded_speed

__all__ = ["MODELS", "Arm", "Fingertip", "LinkFrame", "Servo", "bounded_speed"]
