"""What all scenes share: floor, lights, base pose of the robot, and the hand camera of PixMC."""

import math

from ..arms.arm import Arm
from ..simulation.scene import Box, Camera, Lighting, Paint

FLOOR = "floor"

# PixMC's base pose of the robot: one metre from the origin and facing it.
BASE_POSITION_M = (1.0, 0.0, 0.0)
BASE_YAW_RAD = math.pi

FLOOR_BOX = Box(
    name=FLOOR,
    size_m=(6.0, 6.0, 0.1),
    position_m=(0.0, 0.0, -0.05),
    paint=Paint(rgb=(0.42, 0.46, 0.52), pattern="checker"),
)

LIGHTING = Lighting(
    direction=(0.45, 0.35, -1.0),
    diffuse=(0.55, 0.55, 0.53),
    ambient=(0.38, 0.38, 0.40),
    head=(0.18, 0.18, 0.18),
)

# PixMC renders 298 x 224 pixels with 120 degrees of horizontal field of view and crops the centre:
# 104.95 degrees in both directions.
PIXMC_FOV_Y_DEG = math.degrees(2 * math.atan(224 / 298 * math.tan(math.radians(60))))


def pixmc_hand_camera(arm: Arm, position_m: tuple[float, float, float], up: float) -> Camera:
    """Return the hand camera of PixMC, whose viewing direction is the hand's z axis.

    Args:
        arm: the arm, to whose hand the camera is fixed.
        position_m: [3] position in the hand's frame, m.
        up: 1: the hand's x axis is upwards in the image; -1: downwards.
    """
    x, y, z = position_m
    return Camera(
        name="hand",
        body=arm.hand_body,
        position_m=position_m,
        target_m=(x, y, z + 0.1),
        up=(up, 0.0, 0.0),
        fov_y_deg=PIXMC_FOV_Y_DEG,
    )
