"""Cameras of a real robot: the newest frame and its age, and an error in place of a stale frame.

`camera` has the protocol, `threaded` the capture thread, `sources` and `realsense` the devices that
frames are read from. This module imports nothing; no part of the package needs torch.
"""
