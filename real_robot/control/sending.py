"""Send targets to a robot: each target at once, or in small steps while the loop waits."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from envs.geometry import Floats

from ..robot import CommandRefusedError, ConnectionLostError, Robot, RobotState
from ..safety.layer import Decision
from .clock import Clock


class Sender:
    """Sender that divides the way to each target into `num_targets` equal steps over one period.

    The steps lie on the straight line in joint space from the previous target. The safety layer has
    checked this line: it assumes that the arm moves at constant speed and arrives one period
    later. With one step, the target is sent at once, and the robot's driver smooths it.

    The time between two steps is never shorter than their regular interval. After a delay, the
    remaining steps are sent later. Steps that are not sent before the next target are dropped. The
    line to the next target then begins at the step that was sent last.

    Attributes:
        goal_rad: newest target [j], rad, one value per joint.
        share: fraction of the line to the newest target that has been sent, in [0, 1].
    """

    def __init__(
        self, robot: Robot, clock: Clock, start_rad: Floats, period_s: float, num_targets: int
    ) -> None:
        self._robot, self._clock = robot, clock
        self._num_targets = num_targets
        self._interval_s = period_s / num_targets
        self.goal_rad = np.array(start_rad, dtype=np.float64)
        self.share = 1.0
        self._sent = self._reported = self.goal_rad
        self._sent_s = -math.inf
        # steps that are not sent yet, in order of time: time, position, share of the line
        self._waiting: list[tuple[float, Floats, float]] = []

    def send(self, joint_positions_rad: Floats) -> Floats:
        """Send the first step to a target; `wait` sends the others.

        Return the position [j] that the robot's driver reports as sent, rad, one value per joint.
        """
        goal = np.array(joint_positions_rad, dtype=np.float64)
        start = self._sent
        now_s, count = self._clock.now_s(), self._num_targets
        steps = [start + (goal - start) * (index / count) for index in range(1, count)] + [goal]
        self.goal_rad, self.share = goal, 0.0
        first_s = now_s
        # a delayed step of the previous target was sent a moment ago
        if count > 1 and 0 <= now_s - self._sent_s < self._interval_s / 2:
            first_s = self._sent_s + self._interval_s
        self._waiting = [
            (first_s + index * self._interval_s, step, (index + 1) / count)
            for index, step in enumerate(steps)
        ]
        if first_s == now_s:
            self._command(*self._waiting.pop(0)[1:])
        return self._reported

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait until the event `news` is set or until `until_s`; return whether the event is set.

        Steps that become due in this time are sent.
        """
        while self._waiting and self._waiting[0][0] < until_s:
            due_s, step, share = self._waiting[0]
            if self._clock.wait(news, due_s):
                return True
            late_s = self._clock.now_s() - due_s
            self._waiting.pop(0)
            if late_s > self._interval_s / 2:
                self._waiting = [(at_s + late_s, goal, part) for at_s, goal, part in self._waiting]
            self._command(step, share)
        return self._clock.wait(news, until_s)

    def _command(self, step: Floats, share: float) -> None:
        self._sent, self.share, self._sent_s = step, share, self._clock.now_s()
        # copies: a driver may write into its arrays later
        self._reported = np.array(self._robot.command(step.copy()), dtype=np.float64)


# Joints slower than this are at rest: the noise of an arm that holds its pose is below it.
REST_RAD_S = 0.02


_POLL_S = 0.01


def bring_to_rest(
    robot: Robot,
    read: Callable[[], RobotState],
    sender: Sender,
    clock: Clock,
    brake: Callable[[], Decision],
    *,
    decided_s: float,
    period_s: float,
    timeout_s: float,
) -> dict[str, Any]:
    """Send braking targets, stop the robot, and wait until the measured joint velocities are small.

    The arm counts as at rest if all joints are slower than `REST_RAD_S`.

    Args:
        robot: the robot.
        read: function that returns the state of the robot.
        sender: the sender of the targets.
        clock: the clock of all timestamps.
        brake: function that returns the next decision of the safety layer.
        decided_s: time of the newest decision, s.
        period_s: time between two targets, s.
        timeout_s: time limit for braking, stopping and waiting together, s.

    Returns:
        Data for the record: `at_rest` (True or False; None if it cannot be measured), and the
        measurements.
    """
    begun_s = clock.now_s()
    until_s = begun_s + timeout_s
    found: dict[str, Any] = {}
    try:
        while True:
            # The safety layer assumes that the arm reaches the newest target after one period.
            sender.wait(None, decided_s + period_s)
            decision, decided_s = brake(), clock.now_s()
            if decision.target is None:
                break
            sender.send(decision.target.joint_positions_rad)
            if decision.ended or decided_s >= until_s:
                break
    except (CommandRefusedError, ConnectionLostError) as error:
        found["refused"] = str(error)
    finally:
        robot.stop()
    return {**found, **_wait_for_rest(read, clock, begun_s, until_s)}


def _wait_for_rest(
    read: Callable[[], RobotState], clock: Clock, begun_s: float, until_s: float
) -> dict[str, Any]:
    """Wait until all joints are slower than `REST_RAD_S`, at most until `until_s`.

    Return the measurements, or the reason why the robot cannot be measured.
    """
    while True:
        try:
            state = read()
        except ConnectionLostError as error:
            return {"at_rest": None, "because": str(error)}
        now_s = clock.now_s()
        speed = float(np.abs(state.joint_velocities_rad_s).max())
        if speed < REST_RAD_S or now_s >= until_s:
            return {
                "at_rest": speed < REST_RAD_S,
                "speed_rad_s": speed,
                "state_age_s": now_s - state.stamp_s,
                "seconds": now_s - begun_s,
                "joint_positions_rad": state.joint_positions_rad.tolist(),
            }
        clock.wait(None, now_s + _POLL_S)
