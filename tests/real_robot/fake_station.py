"""A station without an arm: the commands' own config, a fake robot, fake cameras and a scene."""

import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from real_robot.cameras.camera import Frame
from real_robot.station import Station, TwinStation
from tests.real_robot.control.loop_cases import FakeCamera
from tests.real_robot.fake_robot import FakeRobot
from toto_robot.cli import compose
from toto_robot.config import from_dict

RATE_HZ = 50.0
SIDE = 32


class NoiseCamera(FakeCamera):
    """Pictures of the size that the station's config says."""

    def read(self, max_age_s):
        frame = super().read(max_age_s)
        image = np.full((SIDE, SIDE, 3), frame.sequence % 256, np.uint8)
        return Frame(camera=self.name, image=image, stamp_s=frame.stamp_s, sequence=frame.sequence)


class FakeScene:
    """Keep the `Scene` protocol; the task is done after so many looks."""

    def __init__(self, done_after=3):
        self.places, self.done_after, self.looks = [], done_after, 0

    def place(self, x_m, y_m, yaw_rad):
        self.places.append((x_m, y_m, yaw_rad))
        self.looks = 0

    def object_pose(self):
        x_m, y_m, yaw_rad = self.places[-1] if self.places else (0.5, 0.0, 0.0)
        return (x_m, y_m, 0.4225, np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2))

    def succeeded(self):
        self.looks += 1
        return self.looks > self.done_after

    def reset(self):
        pass


def station_config(name="deploy", overrides=()):
    """Return the twin's station of a command, at a rate that costs no time."""
    data, _ = compose(name, list(overrides))
    config = from_dict(TwinStation, data["station"])
    motion = config.safety.motion
    return replace(
        config,
        twin=replace(config.twin, image_size=SIDE),
        rate_hz=RATE_HZ,
        increment_rad=0.02,
        safety=replace(
            config.safety,
            motion=replace(motion, period_s=1 / RATE_HZ, max_step_rad=0.05),
            state=replace(config.safety.state, hold_after_s=1.0, stop_after_s=2.0),
        ),
        home=replace(config.home, speed_rad_s=2.0, acceleration_rad_s2=20.0),
        priority=0,
    )


def fake_station(config, scene):
    """Return a station whose robot stands at the start pose."""
    robot = FakeRobot(config.home_rad, time.monotonic)
    robot.connect()
    cameras = [NoiseCamera(time.monotonic, name) for name in config.cameras]
    return Station(config, robot, cameras, scene)


def opens(station):
    """Return what stands in the place of `open_station`."""

    @contextmanager
    def open_station(config, robot):
        yield station

    return open_station
