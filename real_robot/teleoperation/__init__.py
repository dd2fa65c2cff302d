"""Teleoperation by keyboard, gamepad or SpaceMouse, and recording of hand guiding.

device      the protocol of a device and its command
keyboard    keys of a terminal
gamepad     sticks and buttons, with a dead man's switch (pygame-ce)
spacemouse  a cap with six axes (hidapi)
agent       an `Agent` that turns a device's commands into joint increments
guiding     a person guides the arm by hand; actions are computed from the motion afterwards

This module imports nothing; no part of the package needs torch.
"""
