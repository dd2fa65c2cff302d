"""Bring an arm to rest through its safety layer, and see that it is."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..robot import CommandRefusedError, ConnectionLostError, Robot
from ..safety import Decision
from .clock import Clock
from .sending import Sender

# Joints slower than this are at rest: the noise of an arm that holds its pose is below it.
REST_RAD_S = 0.02
_LOOK_S = 0.01


def bring_to_rest(
    robot: Robot,
    sender: Sender,
    clock: Clock,
    brake: Callable[[], Decision],
    *,
    decided_s: float,
    period_s: float,
    timeout_s: float,
) -> dict[str, Any]:
    """Send what brakes until the target stands still, end the controller, and look at the arm.

    Args:
        robot: which.
        sender: what its targets go through.
        clock: that of all stamps.
        brake: asks the safety layer for the next target.
        decided_s: when it was last asked.
        period_s: between targets.
        timeout_s: for all of it.

    Returns:
        Plain data for the record: `at_rest` (None when nobody can tell), and how it was seen.
    """
    begun_s = clock.now_s()
    until_s = begun_s + timeout_s
    found: dict[str, Any] = {}
    try:
        while True:
            # The safety layer takes the last target to be reached one period after it was sent.
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
    return {**found, **_look(robot, clock, begun_s, until_s)}


def _look(robot: Robot, clock: Clock, begun_s: float, until_s: float) -> dict[str, Any]:
    """Wait until the joints are measured to be at rest, and say how it went."""
    while True:
        try:
            state = robot.state()
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
        clock.wait(None, now_s + _LOOK_S)
