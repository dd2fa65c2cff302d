"""Robot arms as data, and their kinematics."""

from .arm import MODELS, Arm, Fingertip, LinkFrame, Servo, bounded_speed

__all__ = ["MODELS", "Arm", "Fingertip", "LinkFrame", "Servo", "bounded_speed"]
