"""What is around every task: the floor, the light, where the robot stands, and the cameras."""

import math

from ..arms.arm import Arm
from ..simulation.scene import Box, Camera, Lighting, Paint

FLOOR = "floor"

# PixMC's place of the robot: one metre from the origin, which it faces.
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

# PixMC renders 298 x 224 at 120 degrees across and cuts the middle out: 104.95 degrees each way.
PIXMC_FOV_Y_DEG = math.degrees(2 * math.atan(224 / 298 * math.tan(math.radians(60))))


def pixmc_hand_camera(arm: Arm, position_m: tuple[float, float, float], up: float) -> Camera:
    """Return PixMC's camera on the hand: along the hand's z, with `up` times its x upwards."""
    x, y, z = position_m
    return Camera(
        name="hand",
        body=arm.hand_body,
        position_m=position_m,
        target_m=(x, y, z + 0.1),
        up=(up, 0.0, 0.0),
        fov_y_deg=PIXMC_FOV_Y_DEG,
    )
