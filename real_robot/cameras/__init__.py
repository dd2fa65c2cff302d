"""Cameras of a real robot: the newest frame, how old it is, and an error rather than an old one.

`camera` is the thread and its rules, `sources` where frames come from, `realsense` one more source,
`calibration` lens and place of a camera. Nothing is imported here; no part needs torch.
"""
