"""Control the arm by keyboard, gamepad or SpaceMouse, or record an arm that is guided by hand.

The modules of the package contain:

device      the protocol `Device`, and the `Command` that a device returns
keyboard    the device for the keys of a terminal
gamepad     the device for sticks and buttons, with a dead man's switch (library pygame-ce)
spacemouse  the device for a cap with six axes (library hidapi)
agent       the `Agent` that converts a device's commands to joint increments
guiding     recording of an arm that a person guides by hand; actions are computed afterwards

This module imports nothing, and no module of the package needs torch.
"""
