"""Command `python -m real_robot.franka address=172.16.0.2`: check a robot without moving it."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toto_robot.cli import command
from toto_robot.files import write_json

from ..robot import HOME_THE_HAND, MODES, RobotError, RobotState
from .config import FrankaConfig
from .robot import FrankaRobot

_POLL_S = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class FrankaCheckConfig(FrankaConfig):
    """Settings of the command that checks a Franka without moving it.

    `FrankaConfig` explains the other attributes.

    Attributes:
        duration_s: time for which the command reads states, s.
    """

    duration_s: float

    def __post_init__(self) -> None:
        super(FrankaCheckConfig, self).__post_init__()  # plain super() fails with slots
        if not self.duration_s > 0:
            raise ValueError(f"duration_s must be positive, got {self.duration_s}")


def check(config: FrankaCheckConfig, out: Path) -> dict[str, Any]:
    """Connect to the robot, print versions, limits and modes, and read states for `duration_s`.

    Return the results as data that JSON can represent; they are also written into a file.
    """
    print(f"connects to {config.address}, reads states for {config.duration_s} s, moves nothing")
    try:
        report = _inspect(config)
    except RobotError as error:
        sys.exit(f"franka_check: {error}")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "franka_check.json"
    write_json(path, report)
    print(f"results: {path}")
    return report


def _inspect(config: FrankaCheckConfig) -> dict[str, Any]:
    with FrankaRobot(config) as robot:
        print(robot.description)
        limits = robot.limits
        print(f"limits, from {limits.source}:")
        rows = zip(limits.lower_rad, limits.upper_rad, limits.velocity_rad_s, strict=True)
        for joint, (lower, upper, velocity) in enumerate(rows, 1):
            print(f"  joint {joint}: {lower:7.4f} to {upper:7.4f} rad, {velocity:.2f} rad/s")
        state = robot.state()
        print(f"mode: {state.mode} ({MODES[state.mode]})")
        print(f"errors: {', '.join(state.errors) or 'none'}")
        if state.gripper is not None:
            hand = state.gripper
            print(
                f"hand: {hand.width_m:.4f} of {hand.max_width_m:.4f} m, "
                f"{robot.gripper_temperature_c:.0f} degrees C"
            )
            if not hand.knows_its_range:
                print(HOME_THE_HAND)
        report = _read(robot, config.duration_s)
    print(
        f"states: {report['states_hz']:.0f} read per second (the robot sends 1000, the driver "
        f"reads the newest at {config.tracking.reference_rate_hz:.0f} Hz), gaps p99 "
        f"{report['gap_p99_s'] * 1e3:.1f} ms, longest {report['gap_max_s'] * 1e3:.1f} ms"
    )
    if report["success_rate"] > 0:
        print(f"commands in time: {report['success_rate']:.3f}")
    else:
        print("commands in time: not known, since no command was sent")
    return report


def _read(robot: FrankaRobot, duration_s: float) -> dict[str, Any]:
    end_s = time.monotonic() + duration_s
    times_s: list[float] = []
    state: RobotState = robot.state()
    while time.monotonic() < end_s:
        state = robot.state()
        if not times_s or state.stamp_s > times_s[-1]:
            times_s.append(state.stamp_s)
        time.sleep(_POLL_S)
    gaps_s = np.diff(times_s) if len(times_s) > 1 else np.array([duration_s])
    return {
        "description": robot.description,
        "mode": state.mode,
        "errors": list(state.errors),
        "joint_positions_rad": state.joint_positions_rad.tolist(),
        "states_hz": len(times_s) / duration_s,
        "gap_p99_s": float(np.percentile(gaps_s, 99)),
        "gap_max_s": float(gaps_s.max()),
        "success_rate": state.command_success_rate,
    }


main = command("franka_check", FrankaCheckConfig)(check)

if __name__ == "__main__":
    main()
