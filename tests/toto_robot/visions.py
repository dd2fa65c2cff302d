"""Configs of encoders, as the group `encoder` makes them."""

from toto_robot.encoders.vision import TotoVision


def toto(name_or_path, **changes):
    settings = {"layer": None, "pool": None, "repeat_frame": False, "stream": None}
    return TotoVision(name_or_path=str(name_or_path), **settings | changes)
