"""Digital twin: a simulated FR3 that speaks Franka's network protocol.

The twin has the table, the cube and the cameras of a simulated environment. Example:

    with start_twin() as twin, twin.client() as client:
        robot = franky.Robot(twin.address, realtime_config=franky.RealtimeConfig.Ignore)
        camera = ThreadedCamera(settings, twin.camera_source("hand"))
        client.place(0.5, 0.1, 0.0)

`python -m real_robot.twin` starts a twin from the command line.
"""

from .client import TwinCameraSource, TwinClient, TwinError
from .config import STANDARD, TwinConfig
from .launch import Twin, start_twin

__all__ = [
    "STANDARD",
    "Twin",
    "TwinCameraSource",
    "TwinClient",
    "TwinConfig",
    "TwinError",
    "start_twin",
]
