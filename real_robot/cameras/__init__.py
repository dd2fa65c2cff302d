"""Cameras of a real robot: they return the newest frame, or raise an error if it is too old.

`camera` contains the protocol, `threaded` the capture thread, `sources` and `realsense` the devices
from which frames are read. This module imports nothing, and no module of the package needs torch.
"""
