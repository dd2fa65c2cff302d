"""Send targets to a robot, each at once or in small steps while the loop waits."""

import threading

import numpy as np

from ..robot import Floats, Robot
from .clock import Clock


class Sender:
    """Send each target in `num_targets` equal steps over one period.

    The steps lie on the straight joint line from the target before. The safety layer has looked at
    this very line: it takes a target to be reached at an even speed, one period later. With one
    step the target is sent at once, and the driver smooths.
    """

    def __init__(
        self, robot: Robot, clock: Clock, start_rad: Floats, period_s: float, num_targets: int
    ) -> None:
        self._robot, self._clock = robot, clock
        self._num_targets = num_targets
        self._interval_s = period_s / num_targets
        self._goal = np.array(start_rad, dtype=np.float64)
        self._waiting: list[tuple[float, Floats]] = []  # when to send what, soonest first

    def send(self, joint_positions_rad: Floats) -> Floats:
        """Send the first step; give what the driver says that it sent."""
        goal = np.array(joint_positions_rad, dtype=np.float64)
        start = self._goal
        now_s, count = self._clock.now_s(), self._num_targets
        steps = [start + (goal - start) * (index / count) for index in range(1, count)] + [goal]
        self._goal = goal
        self._waiting = [
            (now_s + index * self._interval_s, step) for index, step in enumerate(steps)
        ][1:]
        return self._robot.command(steps[0])

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait as `Clock.wait` does, and send what is due meanwhile."""
        while self._waiting and self._waiting[0][0] < until_s:
            due_s, step = self._waiting[0]
            if self._clock.wait(news, due_s):
                return True
            self._waiting.pop(0)
            self._robot.command(step)
        return self._clock.wait(news, until_s)
