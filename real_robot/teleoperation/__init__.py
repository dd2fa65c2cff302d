"""A person moves the arm: by keyboard, gamepad or SpaceMouse, or by leading it by hand.

device      what a device says at each tick, and what a device is
keyboard    keys of a terminal
gamepad     sticks and buttons, with a dead man's button (pygame-ce)
spacemouse  a cap with six axes (hidapi)
agent       from a device's twist to joint increments: an `Agent` like any other
guiding     the arm is led by hand; nothing is sent, and actions are made of the motion afterwards

Nothing is imported here; no part needs torch.
"""
