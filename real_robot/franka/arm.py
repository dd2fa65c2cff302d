"""One thread that talks to the arm: it reads states, feeds the controller and stops it.

franky's calls are quick while its 1 kHz thread controls the arm, and wait for the next state when
it does not: a millisecond, or a second when the robot is gone. So nobody but this thread makes
them; others leave a wish here and read what came last.

    idle      the arm holds its pose by itself; a target starts the controller from where it is
    tracking  the controller follows the reference
    braking   the reference comes to rest
    ending    the controller lets go: its torques fade to a damper's, then the arm holds by itself
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np

from envs.geometry import Floats

from ..limits import JointLimits
from ..robot import CommandRefusedError, ConnectionLostError, RobotError
from ..scheduling import ask_for_priority
from .config import FrankaConfig
from .reference import Reference

T = TypeVar("T")
Phase = Literal["idle", "tracking", "braking", "ending"]

_FADE_S = 0.1  # in which torques go over to a damper's
_STILL_RAD_S = 0.01
_SETTLE_S = 0.03
_JOIN_S = 2.5  # a read of a robot that is gone takes a second
_NAMES = re.compile(r"\[\s*\"[^\]]*\]")


class Arm:
    """Run the thread of one connection."""

    def __init__(self, franky: Any, robot: Any, config: FrankaConfig, limits: JointLimits) -> None:
        """Take over a `franky.Robot`, from here on used by this thread alone."""
        self._franky, self._robot = franky, robot
        self._config, self._limits = config, limits
        self._period_s = 1.0 / config.tracking.reference_rate_hz
        self._phase: Phase = "idle"
        self._reference: Reference | None = None
        self._motion: Any = None
        self._lock = threading.Lock()
        self._target: Floats | None = None  # the newest that was not taken up yet
        self._wants_rest = False
        self._rest_by_s = 0.0
        self._at_rest = threading.Event()
        self._at_rest.set()
        self._fault: str | None = None
        self._lost: str | None = None
        self._closing = False
        self.has_priority = False
        self._newest: tuple[Any, float] = (robot.state, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="franka arm", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> tuple[Any, float]:
        """Return the newest `franky.RobotState` and when it came; it ages while none comes.

        Raises:
            ConnectionLostError: none will come any more; naming the cause.
        """
        if self._lost is not None:
            raise ConnectionLostError(self._lost)
        return self._newest

    @property
    def fault(self) -> str | None:
        """Return why the controller ended by itself; None when it did not since the last stop."""
        return self._fault

    def command(self, target: Floats) -> None:
        """Go to a target [j]; returns at once.

        Raises:
            CommandRefusedError: the controller ended by itself, or is being stopped.
            ConnectionLostError: the robot is gone.
        """
        with self._lock:
            if self._lost is not None:
                raise ConnectionLostError(self._lost)
            if self._fault is not None:
                raise CommandRefusedError(self._fault)
            if self._wants_rest:
                raise CommandRefusedError("the arm is being stopped")
            self._target = target
            self._at_rest.clear()

    def stop(self) -> bool:
        """Bring the arm to rest and wait for it; say whether it came to rest in time."""
        timeout_s = self._config.stop_timeout_s
        with self._lock:
            self._fault = None
            if self._at_rest.is_set() or self._lost is not None:
                return self._lost is None
            self._rest_by_s = time.monotonic() + timeout_s
            self._wants_rest = True
        # half a second more: to stop hard, should it come to that
        return self._at_rest.wait(timeout_s + 0.5)

    def recover(self) -> None:
        """Let the robot clear its errors.

        Raises:
            CommandRefusedError: it cannot; naming what it says.
            ConnectionLostError: it does not answer.
        """
        self.stop()
        timeout_s = self._config.recover_timeout_s
        try:
            self.call(self._robot.recover_from_errors, timeout_s)
        except RobotError:
            raise
        except Exception as error:
            if isinstance(error, self._franky.NetworkException):
                raise ConnectionLostError(f"{self._where()}: {text_of(error)}") from error
            raise CommandRefusedError(f"the robot does not recover: {text_of(error)}") from error
        self._wait_for_news(timeout_s)

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Make a call that might wait for a robot that is gone.

        Raises:
            ConnectionLostError: it took longer.
        """
        return call(function, timeout_s, self._where())

    def close(self) -> None:
        """Stop the arm and end the thread; more than once is fine."""
        self.stop()
        self._closing = True
        self._thread.join(_JOIN_S)
        # franky disconnects when nobody holds its robot any more; kept, it keeps others out.
        self._robot = self._motion = None

    def _wait_for_news(self, timeout_s: float) -> None:
        """Wait for a state that was sent after now: what others see is then the new mode."""
        asked_s, end_s = time.monotonic(), time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if self.newest[1] > asked_s + self._period_s:
                return
            time.sleep(self._period_s)
        raise ConnectionLostError(f"{self._where()} sends no states")

    def _where(self) -> str:
        return f"the robot at {self._config.address}"

    def _run(self) -> None:
        # The 1 kHz thread is started by this one, and so has its priority.
        self.has_priority = ask_for_priority(self._config.priority)
        next_s = time.monotonic()
        while not self._closing:
            try:
                self._turn()
            except Exception as error:
                self._lose(error)
                return
            next_s = max(next_s + self._period_s, time.monotonic())
            time.sleep(max(next_s - time.monotonic(), 0.0))

    def _turn(self) -> None:
        # First, since without a controller to read a robot that is gone takes a second more.
        if self._phase != "idle" and not self._robot.is_in_control:
            self._ended()
            return
        now_s = self._read()
        with self._lock:
            target, self._target = self._target, None
            wants_rest = self._wants_rest
        if self._phase == "idle":
            if wants_rest or target is None:
                self._rest_if(wants_rest)
                return
            self._start(now_s)
        reference = self._reference
        assert reference is not None
        if self._phase == "tracking":
            if wants_rest:
                braking = self._config.tracking.braking_fraction
                acceleration = braking * np.array(self._limits.acceleration_rad_s2)
                reference.brake(acceleration, now_s)
                self._phase = "braking"
            elif target is not None:
                reference.aim(target, now_s)
        if self._phase in ("tracking", "braking"):
            positions, velocities = reference.advance(now_s)
            self._motion.set_reference(self._franky.JointReference(q=positions, dq=velocities))
        if self._phase == "braking" and reference.at_rest:
            self._robot.move(self._let_go(now_s), asynchronous=True)
            self._phase = "ending"
        if wants_rest and now_s > self._rest_by_s:
            self._robot.stop()  # the controller ends in the next turn

    def _read(self) -> float:
        """Read a state, and give the time."""
        state = self._robot.state
        now_s = time.monotonic()
        # Between two cycles, and when the robot is gone, franky gives the old state again.
        if state.time.to_msec() != self._newest[0].time.to_msec():
            self._newest = (state, now_s)
        return now_s

    def _start(self, now_s: float) -> None:
        """Start the controller where the arm is; that it was refused is told by `_ended`."""
        tracking, limits = self._config.tracking, self._limits
        positions = np.array(self._newest[0].q, dtype=np.float64)
        self._reference = Reference(
            positions,
            period_s=tracking.period_s,
            smoothing_s=tracking.smoothing_s,
            velocity_rad_s=tracking.velocity_fraction * np.array(limits.velocity_rad_s),
            acceleration_rad_s2=tracking.acceleration_fraction
            * np.array(limits.acceleration_rad_s2),
            now_s=now_s,
        )
        self._motion = self._franky.JointImpedanceTrackingMotion(
            stiffness=np.array(tracking.stiffness_nm_rad),
            damping=np.array(tracking.damping_nms_rad),
            lower_joint_limits=np.array(limits.lower_rad),
            upper_joint_limits=np.array(limits.upper_rad),
            max_delta_tau=tracking.torque_rate_nm_s / 1000.0,
        )
        self._motion.set_reference(self._franky.JointReference(q=positions))
        self._robot.move(self._motion, asynchronous=True)
        self._phase = "tracking"

    def _let_go(self, now_s: float) -> Any:
        return self._franky.TorqueStopMotion(
            damping=np.array(self._config.tracking.damping_nms_rad),
            ramp_duration=_FADE_S,
            velocity_epsilon=_STILL_RAD_S,
            max_duration=max(self._rest_by_s - now_s, _FADE_S),
            max_delta_tau=self._config.tracking.torque_rate_nm_s / 1000.0,
        )

    def _ended(self) -> None:
        """Take note that the controller does not run any more, and why."""
        wants_rest, cause = self._wants_rest, "the controller ended by itself"
        passing = {"Move"}
        try:
            self._robot.poll_motion()
        except self._franky.NetworkException:
            raise
        except Exception as error:
            cause = text_of(error)
            passing.add("Idle")
        # The mode that says why comes some milliseconds later: both are told together.
        end_s = time.monotonic() + _SETTLE_S
        while self._read() < end_s and self._newest[0].robot_mode.name in passing:
            time.sleep(self._period_s)
        expected = wants_rest and self._phase in ("ending", "braking")
        with self._lock:
            self._phase, self._target = "idle", None  # a target of before starts nothing anew
            # A stop that had to be hard is the only end that is both asked for and an error.
            if not expected or _names(cause):
                self._fault = cause
        self._rest_if(wants_rest)

    def _rest_if(self, wants_rest: bool) -> None:
        with self._lock:
            if wants_rest:
                self._wants_rest, self._target = False, None
            if wants_rest or self._target is None:
                self._at_rest.set()

    def _lose(self, error: Exception) -> None:
        with self._lock:
            self._lost = f"{self._where()} does not answer any more: {text_of(error)}"
            self._wants_rest = False
            self._at_rest.set()
        with contextlib.suppress(Exception):
            self._robot.poll_motion()


def call(function: Callable[[], T], timeout_s: float, where: str) -> T:
    """Make a call in a thread of its own, which is left behind if it takes too long.

    Raises:
        ConnectionLostError: it took too long.
    """
    values: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            values.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="franka call", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not values:
        raise ConnectionLostError(f"{where} does not answer within {timeout_s} s")
    return values[0]


def errors_of(state: Any, fault: str | None) -> tuple[str, ...]:
    """Return the robot's own names of its errors, and why its controller ended if it did."""
    names = json.loads(str(state.current_errors))
    if state.robot_mode.name == "Reflex" and not names:
        names = json.loads(str(state.last_motion_errors))
    if fault is not None:
        names += [name for name in _names(fault) or [fault] if name not in names]
    return tuple(names)


def text_of(error: Exception) -> str:
    """Return the words of an error on one line, without what libfranka says of itself."""
    text = " ".join(str(error).split())
    return re.sub(r"\s*control_command_success_rate:.*$", "", text.removeprefix("libfranka: "))


def _names(text: str) -> list[str]:
    found = _NAMES.search(text)
    return json.loads(found.group()) if found else []
